"""Pascal VOC with masks: SegmentationObject/ numbers the objects of each image, SegmentationClass/
gives their classes, ImageSets/Segmentation/ the split.

Values are palette indices, grey values or colours. Classes are named by labelmap.txt (CVAT,
datumaro) or by --names; without either they are the 20 of Pascal VOC. Index 255 is no object.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data.contents import read_bytes
from data.importing.listing import Listing
from data.importing.masks import SPECK, mask_of, mask_values
from data.importing.records import Hints, Picture, Shape, Source, mask_rle
from data.mend.notes import Notes
from data.resolve import load_config
from layers.problems import Problem, ProblemError

OBJECTS, CLASSES, IMAGES = "SegmentationObject", "SegmentationClass", "JPEGImages"
_VOC = "yolact_resnet50_pascal"  # a config of Pascal VOC's classes
_VOID = 255
_LINE = 0xE0E0C0  # the colour of outlines, which are void
_GROUND = "background"


def voc_files(listing: Listing) -> list[str]:
    """The masks of objects in a source."""
    return [name for name in listing.images if name.split("/")[-2:-1] == [OBJECTS]]


def read_voc(listing: Listing, hints: Hints) -> Source:
    """ProblemError for masks without their images or classes, of another size, or of a class
    without a name."""
    notes, pictures = Notes(), []
    known = _labelmap(listing)
    names = hints.names or tuple(known.values()) or _voc_names()
    splits = _splits(listing)
    for name in voc_files(listing):
        base, stem = name.rsplit("/", 2)[0] if name.count("/") > 1 else "", Path(name).stem
        beside = {what: _beside(listing, base, what, stem) for what in (IMAGES, CLASSES)}
        missing = [what for what, found in beside.items() if found is None]
        if missing == [IMAGES] and hints.drop_missing:
            notes.left_out("masks without an image", name)
            continue
        if missing:
            what = f"has no file in {' and '.join(missing)}"
            fix = "copy it there, or leave masks without images out by --drop_missing"
            raise ProblemError(Problem(what, f"mask {name}", fix))
        image, classes = (str(beside[what]) for what in (IMAGES, CLASSES))
        size, objects = mask_of(listing, name, image)
        mask_of(listing, classes, image)
        labels = _labels(listing.root / classes, {} if hints.names else known)
        shapes = _shapes(objects, labels, names, name, notes)
        pictures.append(Picture(listing.root / image, size, shapes, splits.get(stem, "")))
    return Source(pictures, names, notes.lines())


def _beside(listing: Listing, base: str, folder: str, stem: str) -> str | None:
    return listing.image_of("/".join(filter(None, (base, folder, stem))))


def _shapes(
    objects: np.ndarray, labels: np.ndarray, names: tuple[str, ...], name: str, notes: Notes
) -> list[Shape]:
    """An object for each value; its class is that of most of its pixels."""
    shapes = []
    for value in np.unique(objects):
        if value in (0, _VOID, _LINE):
            continue
        area = objects == value
        classes, counts = np.unique(labels[area & (labels > 0)], return_counts=True)
        if not len(classes) or area.sum() < SPECK:
            notes.left_out("objects without a class, or of a few pixels", name)
            continue
        label = int(classes[counts.argmax()])
        if label > len(names):
            what = f"holds class {label}, and {len(names)} have names"
            fix = "name every class by --names A,B,... or in labelmap.txt"
            raise ProblemError(Problem(what, f"mask {name}", fix))
        shapes.append(Shape(names[label - 1], mask_rle(area)))
    return shapes


# ------------------------------------------------------------------------------------------ classes


def _labels(path: Path, known: Mapping[int, str]) -> np.ndarray:
    """(h,w) class of each pixel from 1 on, 0 = none. known: {colour: name}, in order of classes."""
    values = mask_values(path)
    with Image.open(path) as picture:
        mode, colours = picture.mode, picture.convert("RGB")
        painted = np.asarray(colours).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    if mode not in ("P", "RGB", "RGBA") or (mode == "P" and not known):
        return np.where(values == _VOID, 0, values)
    of_colour = {c: number for number, c in enumerate(known or _colours(), 1)}
    labels = np.zeros(values.shape, np.int64)
    for colour in np.unique(painted).tolist():
        if colour in of_colour:
            labels[painted == colour] = of_colour[colour]
        elif colour not in (0, _LINE):
            what = f"holds the colour {', '.join(map(str, colour.to_bytes(3, 'big')))}"
            fix = "add it to labelmap.txt"
            raise ProblemError(Problem(f"{what}, which is of no class", f"mask {path}", fix))
    return labels


def _colours() -> list[int]:
    """Colours of classes 1 to 255 by VOC's rule: bit i of the number goes to bit 7 - i // 3 of red,
    green or blue in turn (VOCdevkit, VOClabelcolormap)."""
    found = []
    for number in range(1, 256):
        parts = [0, 0, 0]
        for bit in range(8):
            parts[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        found.append(parts[0] << 16 | parts[1] << 8 | parts[2])
    return found


def _labelmap(listing: Listing) -> dict[int, str]:
    """{colour: name} of labelmap.txt, lines of name:r,g,b:parts:actions, without the ground."""
    path = listing.root / "labelmap.txt"
    if not path.is_file():
        return {}
    known: dict[int, str] = {}
    for number, line in enumerate(read_bytes(path, "file").decode("utf-8", "replace").splitlines()):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.partition(":")[0].split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            fix = "write name:red,green,blue::"
            where = f"labelmap.txt, line {number + 1}"
            raise ProblemError(Problem("is not as VOC tools write it", where, fix))
        red, green, blue = (int(part) for part in parts)
        if name != _GROUND:
            known[red << 16 | green << 8 | blue] = name
    return known


def _voc_names() -> tuple[str, ...]:
    return load_config(_VOC, check_names=False).data.class_names


def _splits(listing: Listing) -> dict[str, str]:
    """{name of an image without ending: its split}."""
    found: dict[str, str] = {}
    for split in ("test", "train", "val"):
        for name in listing.names:
            if name.endswith(f"ImageSets/Segmentation/{split}.txt"):
                text = read_bytes(listing.root / name, "file").decode("utf-8", "replace")
                found |= dict.fromkeys(text.split(), split)
    return found
