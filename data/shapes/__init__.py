"""A generated set of many kinds of things, for trainings that others start from.

generate.py     writes a set
scene.py        one image: ground, marks, things that hide each other, camera
outline.py      the kinds of outline: the classes
material.py     what a thing is made of
"""
