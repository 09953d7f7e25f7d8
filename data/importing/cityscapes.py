"""Instance PNGs as Cityscapes has them: NAME_gtFine_instanceIds.png of 16 bits beside or apart from
NAME_leftImg8bit.png. A value is 1000 times the class plus the number of the object; values under
1000 are ground, and groups that were not told apart."""

from __future__ import annotations

import re

import numpy as np

from data.importing.listing import Listing, folder_split
from data.importing.masks import SPECK, mask_of
from data.importing.records import Hints, Picture, Shape, Source, mask_rle
from data.mend.notes import Notes
from layers.problems import Problem, ProblemError

FACTOR = 1000
# classes of Cityscapes that have instances, by id
NAMES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_MASK = re.compile(r"(.+?)(_gt[A-Za-z]+)?_instanceIds\.png", re.I)
_IMAGE = re.compile(r"(.+?)(_leftImg8bit)?\.[A-Za-z]+")


def cityscapes_files(listing: Listing) -> list[str]:
    """The instance PNGs of a source."""
    return [name for name in listing.ending(".png") if _MASK.fullmatch(name.rpartition("/")[2])]


def read_cityscapes(listing: Listing, hints: Hints) -> Source:
    """ProblemError for a PNG without its image or of another size. Class c of another set is
    called by the c-th of hints.names, else class_c."""
    notes, pictures = Notes(), []
    images: dict[tuple[str, str], str] = {}
    for name in listing.images:
        place, _, last = name.rpartition("/")
        parts = _IMAGE.fullmatch(last)
        if parts and "_gt" not in last.lower() and "instanceids" not in last.lower():
            images[place.rpartition("/")[2], parts[1]] = name
    used: set[int] = set()
    for name in cityscapes_files(listing):
        place, _, last = name.rpartition("/")
        parts = _MASK.fullmatch(last)
        stem = parts[1] if parts else ""
        alike = [image for (_, own), image in images.items() if own == stem]
        image = images.get((place.rpartition("/")[2], stem)) or (
            alike[0] if len(alike) == 1 else None
        )
        if image is None and hints.drop_missing:
            notes.left_out("masks without an image", name)
            continue
        if image is None:
            fix = "copy it there, or leave such masks out by --drop_missing"
            raise ProblemError(Problem("has no image", f"mask {name}", fix))
        size, values = mask_of(listing, name, image)
        shapes = []
        for value in np.unique(values[values >= FACTOR]).tolist():
            area = values == value
            if area.sum() < SPECK:
                notes.left_out(f"objects under {SPECK} pixels", name)
                continue
            used.add(value // FACTOR)
            shapes.append(Shape(_class_name(value // FACTOR, hints), mask_rle(area)))
        pictures.append(Picture(listing.root / image, size, shapes, folder_split(name)))
    return Source(pictures, tuple(_class_name(key, hints) for key in sorted(used)), notes.lines())


def _class_name(key: int, hints: Hints) -> str:
    if hints.names:
        return hints.names[key - 1] if key <= len(hints.names) else f"class_{key}"
    return NAMES.get(key, f"class_{key}")
