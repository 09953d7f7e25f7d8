"""The programs: a module each, which the doors train.py, eval.py and scripts/ open."""
