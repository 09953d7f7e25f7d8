"""Images and masks in pairs: masks/a.png beside images/a.jpg, or a_mask.png beside a.jpg.

What a value of a mask means is looked up, or told: 'objects' (one class; areas that touch nothing
are objects), 'instances' (one class; each value is an object) or 'classes' (each value is a class,
its separate areas are objects). 0 is the ground.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from PIL import Image

from data.importing.listing import Listing, folder_split
from data.importing.records import (
    Hints,
    Picture,
    Shape,
    Size,
    Source,
    mask_rle,
    picture_size,
)
from data.mend.notes import Notes
from layers.problems import Problem, ProblemError, shown

Meaning = Literal["objects", "instances", "classes"]
MEANINGS: tuple[Meaning, ...] = get_args(Meaning)
SPECK = 4  # pixels under which a separate area is noise
_FOLDERS = {"masks", "mask", "gt", "groundtruth", "ground_truth", "segmentations", "labels"}
_IMAGES = ("images", "image", "imgs", "img", "photos", "pictures")
_ENDING = re.compile(r"(.+)[-_. ](mask|masks|label|labels|gt|seg|segmentation|instances?)$", re.I)


def mask_files(listing: Listing) -> list[str]:
    """The masks of a source: images in a folder of that name, or with _mask behind the name of
    another image; where one of them has its image."""
    masks = [name for name in listing.images if _in_mask_folder(name)]
    masks = masks or [name for name in listing.images if _image_of(listing, name) is not None]
    return masks if any(_image_of(listing, name) for name in masks) else []


def _in_mask_folder(name: str) -> bool:
    return not _FOLDERS.isdisjoint(part.lower() for part in name.split("/")[:-1])


def _image_of(listing: Listing, name: str) -> str | None:
    """The image that a mask belongs to."""
    *places, stem = name.rpartition(".")[0].split("/")
    ending = _ENDING.match(stem)
    stems = [stem, ending[1]] if ending else [stem]
    for at in reversed(range(len(places))):
        if places[at].lower() in _FOLDERS:
            for other in _IMAGES:
                for own in stems:
                    found = listing.image_of(
                        "/".join([*places[:at], other, *places[at + 1 :], own])
                    )
                    if found is not None:
                        return found
    return listing.image_of("/".join([*places, ending[1]])) if ending else None


def read_masks(listing: Listing, hints: Hints) -> Source:
    """ProblemError for a mask without its image or of another size, and where it cannot be told
    what the values mean."""
    names = mask_files(listing)
    notes, pairs = Notes(), []
    for name in names:
        image = _image_of(listing, name)
        if image is not None:
            pairs.append((name, image))
        elif hints.drop_missing:
            notes.left_out("masks without an image", name)
        else:
            fix = "copy it there, or leave such masks out by --drop_missing"
            raise ProblemError(Problem("has no image", f"mask {name}", fix))
    meaning = hints.masks or _meaning(listing, names)
    pictures, most = [], 0
    for name, image in pairs:
        size, values = mask_of(listing, name, image)
        shapes = []
        for label, area in _areas(values, meaning, name, notes):
            most = max(most, label)
            shapes.append(Shape(_class_name(label, meaning, hints), mask_rle(area)))
        pictures.append(Picture(listing.root / image, size, shapes, folder_split(image)))
    alone = {*listing.images} - {*names} - {image for _, image in pairs}
    for image in sorted(alone):
        notes.left_out("images without a mask", image)
    if meaning != "classes":
        most = 1
    classes = tuple(_class_name(label, meaning, hints) for label in range(1, most + 1))
    lines = [f"values of masks are read as {meaning} (--masks)", *notes.lines()]
    return Source(pictures, classes, lines)


def mask_of(listing: Listing, name: str, image: str) -> tuple[Size, np.ndarray]:
    """The size of an image, and mask_values() of its mask. ProblemError where they differ in
    size."""
    size, values = picture_size(listing.root / image), mask_values(listing.root / name)
    if values.shape != size:
        what = f"is {values.shape[1]}x{values.shape[0]}, its image {size[1]}x{size[0]}"
        raise ProblemError(Problem(what, f"mask {name}", "make both of one size"))
    return size, values


def mask_values(path: Path) -> np.ndarray:
    """(h,w) int64 values of a mask: palette indices, grey values, or colours as one number.
    ProblemError where the file cannot be read."""
    try:
        with Image.open(path) as picture:
            stored = picture.convert("RGB") if picture.mode in ("RGBA", "CMYK") else picture
            stored = stored.convert("L") if stored.mode == "LA" else stored
            values = np.asarray(stored)
            lossy = picture.format == "JPEG"
    except Exception:  # Pillow raises whatever broken data led to
        fix = "copy it again; it is damaged or no image"
        raise ProblemError(Problem("cannot be read", f"mask {path}", fix)) from None
    values = values.astype(np.int64)
    if values.ndim == 3:
        grey = bool((values == values[..., :1]).all())
        values = values[..., 0] if grey else values @ np.array([1 << 16, 1 << 8, 1])
    return np.where(values > 127, 255, 0) if lossy else values


def _meaning(listing: Listing, names: list[str]) -> Meaning:
    """By the values of all masks: one besides 0, or numbers of 16 bits."""
    seen: set[int] = set()
    for name in names:
        seen |= {int(value) for value in np.unique(mask_values(listing.root / name))} - {0}
        if len(seen) > 1:
            with Image.open(listing.root / name) as picture:
                if picture.mode.startswith("I"):
                    return "instances"
            what = f"hold the values {shown(sorted(seen))} besides 0"
            fix = "say what one value is: --masks instances, classes or objects (all the same)"
            raise ProblemError(Problem(f"{what}, which may mean several things", "masks", fix))
    return "objects"


def _areas(
    values: np.ndarray, meaning: str, name: str, notes: Notes
) -> Iterator[tuple[int, np.ndarray]]:
    """(class from 1 on, (h,w) bool) of each object of a mask."""
    if meaning == "instances":
        for value in np.unique(values[values > 0]):
            yield 1, values == value
        return
    if meaning == "objects":
        values = (2 * values > max(1, int(values.max()))).astype(np.int64)
    for label in np.unique(values[values > 0]).tolist():
        count, areas = cv2.connectedComponents((values == label).astype(np.uint8))
        for number in range(1, count):
            area = areas == number
            if area.sum() >= SPECK:
                yield label, area
            else:
                notes.left_out(f"areas under {SPECK} pixels", name)


def _class_name(label: int, meaning: str, hints: Hints) -> str:
    if label <= len(hints.names):
        return hints.names[label - 1]
    if not hints.names:
        return f"class_{label}" if meaning == "classes" else "object"
    what = f"hold class {label}, and --names gives {len(hints.names)}"
    raise ProblemError(Problem(what, "masks", "name every class"))
