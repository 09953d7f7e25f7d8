"""The data set doctor: what is wrong with a COCO-format set, and the fix of each mistake.

check.py         check_dataset: the one call
findings.py      what it finds: a Problem and how grave it is
split.py         one split as its annotation file lists it
annotations.py   rules for the annotation file and its classes (fast: before every training)
images.py        rules for the pixels: every file is read, every mask rasterised
anchors.py       how many ground truths a config's anchors can cover
"""
