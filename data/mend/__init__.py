"""Mending of COCO-format files: what a program can put right in a copy, and what it leaves out."""
