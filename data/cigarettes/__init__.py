"""The synthetic stand-in of the Cigarettes set, for where the real set is not at hand.

The Cigarettes set (Immersive Limit; 2000 training and 200 validation composites of 512 px) has one
class, cig_butt, and this layout:

    ROOT/train/images/00000000.jpg ...    ROOT/train/coco_annotations.json
    ROOT/val/images/00000000.jpg ...      ROOT/val/coco_annotations.json

The stand-in has the same layout, JSON shape and object statistics.

    generate.py        writes a set
    contact_sheet.py   its first images as one picture
    scene.py           one image: ground, distractors, butts, camera
    ground.py objects.py shape.py      what a scene is made of
"""
