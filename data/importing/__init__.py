"""From a folder that some annotation tool wrote to COCO files and a config.

records.py      what every format is read into
listing.py      the files of the source, and what their names tell
recognise.py    which format a folder holds
coco.py yolo.py labelme.py masks.py voc.py cityscapes.py    a format each
sound.py        what of it can be used, and the classes
split.py        training and validation images
anchors.py      anchors for the boxes of the set
write.py        the annotation files and the config
"""
