"""What every format is read into: pictures with their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data.images import header_sizes
from data.segmentation import encoded, segmentation_problem
from layers.problems import Problem, ProblemError

Segmentation = list[list[float]] | dict[str, Any]  # polygons in pixels, or a COCO RLE
Size = tuple[int, int]  # (height, width)


@dataclass
class Shape:
    """One object: its class, and its outline as the source has it."""

    label: str
    segmentation: Segmentation
    crowd: bool = False


@dataclass
class Picture:
    """One image file and its objects. size: (height, width) that outlines are of. split: 'train',
    'val' or 'test' where the source has one, else ''. spoiled: objects of it could not be read."""

    path: Path
    size: Size
    shapes: list[Shape]
    split: str = ""
    spoiled: bool = False


@dataclass
class Source:
    """What a source holds. classes: in its own order, () where it states none. lines: what the
    reader of the format changed or left out."""

    pictures: list[Picture]
    classes: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Hints:
    """What the files do not tell. masks: what a value of a mask means, '' to look. names: of the
    classes, in order. drop_missing: leave out labels whose image is not there."""

    masks: str = ""
    names: tuple[str, ...] = ()
    drop_missing: bool = False


def picture_size(path: Path) -> Size:
    """(height, width) of an image file as viewers show it. ProblemError where it cannot be
    read."""
    _, upright = header_sizes(path)
    if upright is None:
        raise ProblemError(
            Problem("cannot be read", f"image {path}", "copy it again; it is damaged or no image")
        )
    return upright


def mask_rle(mask: np.ndarray) -> dict[str, Any]:
    """The COCO RLE of a (h,w) bool mask, as JSON may hold it."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def joined(parts: Sequence[Segmentation], height: int, width: int) -> Segmentation:
    """One segmentation of an object that was drawn in parts: their polygons, or one RLE where a
    part is one. What segmentation_problem() refuses is left as polygons, for it to tell."""
    polygons = [polygon for part in parts if isinstance(part, list) for polygon in part]
    masks = [part for part in parts if isinstance(part, dict)]
    if not masks:
        return polygons
    if len(parts) == 1:
        return masks[0]
    if polygons and segmentation_problem(polygons, height, width) is not None:
        return polygons
    whole = coco_mask.merge([encoded(part, height, width) for part in parts])
    return {"size": [height, width], "counts": whole["counts"].decode()}
