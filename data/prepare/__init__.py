"""Published data sets, put where the configs look for them.

archives.py      unpacking inside one folder; what an unpacked split holds
coco.py sbd.py cigarettes.py nuclei.py      a function a data set: unpack, convert, verify
"""
