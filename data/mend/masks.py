"""Mending of one annotation: its outline, flags and box, as far as they say what was meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.mend.images import Size
from data.mend.notes import Notes
from data.rules import annotation_problem
from data.segmentation import NUMBERS, encoded, pixels_of, segmentation_problem

Scale = Literal["percent", "unit"]
EDGE = 2  # pixels that an outline may reach out of its image
_WHOLE: dict[Scale, float] = {"percent": 100.0, "unit": 1.0}  # what a side of the image is
_UNITS: dict[Scale, str] = {"percent": "percent", "unit": "0..1"}
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Wishes:
    """What is done on request only: crowd flags cleared, coordinates scaled from percent or from
    shares of the image, entries of images without a file left out. read_sizes: look up the size of
    every picture, not only where the file states none."""

    clear_crowd: bool = False
    scale: Scale | None = None
    drop_missing: bool = False
    read_sizes: bool = True


@dataclass
class Item:
    """An annotation under repair, what messages call it, and the position of its image. size:
    (height, width) of the image, once mend_mask() was told."""

    annotation: dict[str, Any]
    name: str
    image: int
    size: Size = (0, 0)


def mend_mask(item: Item, size: Size, wishes: Wishes, notes: Notes) -> bool:
    """Mends outline, flag and area in place; whether the annotation can be used."""
    annotation, item.size = item.annotation, size
    given = annotation.get("segmentation")
    annotation["segmentation"] = nested(given)
    if annotation["segmentation"] != given:
        notes.done("flat or pointwise outlines written as lists of polygons", item.name)
    if wishes.scale is not None:
        scale_up(annotation, size, wishes.scale)
        notes.done(f"coordinates scaled from {_UNITS[wishes.scale]} to pixels", item.name)
    given = annotation["segmentation"]
    annotation["segmentation"] = without_scraps(given, size)
    if annotation["segmentation"] != given:
        notes.left_out("polygons of fewer than 3 points or outside their image", item.name)
    _mend_flag(item, wishes.clear_crowd, notes)
    why = _unusable(annotation, size)
    if why:
        notes.left_out("unusable annotations", f"{item.name} {why}")
        return False
    if annotation_problem({"area": annotation.get("area")}, None, needed=()) is not None:
        annotation["area"] = pixels_of(encoded(annotation["segmentation"], *size))
        notes.done("areas computed from their masks", item.name)
    return True


def fit(items: Sequence[Item], size: Size, *, pixels: bool) -> bool:
    """Whether the masks of an image lie in one of (height, width); pixels: of what unit polygons
    are, RLEs alone count otherwise."""
    height, width = size
    for item in items:
        mask = nested(item.annotation.get("segmentation"))
        if isinstance(mask, dict):
            if mask.get("size") != [height, width]:
                return False
        elif pixels and isinstance(mask, list):
            for polygon in mask:
                if isinstance(polygon, list) and len(polygon) > 1 and _are_numbers(polygon):
                    if max(polygon[0::2]) > width + EDGE or max(polygon[1::2]) > height + EDGE:
                        return False
    return True


# ------------------------------------------------------------------------------------------- parts


def nested(segmentation: Any) -> Any:
    """A list of polygons, from a flat list of coordinates or lists of points; anything else as it
    is."""
    if not isinstance(segmentation, list) or not segmentation:
        return segmentation
    if _are_numbers(segmentation):
        return [segmentation]
    if all(map(_is_point, segmentation)):  # one outline of points
        return [[value for point in segmentation for value in point]]
    return [
        [value for point in polygon for value in point]
        if isinstance(polygon, list) and polygon and all(map(_is_point, polygon))
        else polygon
        for polygon in segmentation
    ]


def _are_numbers(values: list[Any]) -> bool:
    return NUMBERS.issuperset(map(type, values))


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _are_numbers(value)


def scale_up(annotation: dict[str, Any], size: Size, scale: Scale) -> None:
    """Brings a box and nested polygons, in place, from shares of an image of (height, width) to
    pixels. What holds no numbers is left."""
    height, width = (side / _WHOLE[scale] for side in size)

    def in_pixels(values: list[float]) -> list[float]:
        return [_times(value, height if place % 2 else width) for place, value in enumerate(values)]

    box, polygons = annotation.get("bbox"), annotation.get("segmentation")
    if isinstance(box, list) and _are_numbers(box):
        annotation["bbox"] = in_pixels(box)
    if isinstance(polygons, list):
        annotation["segmentation"] = [
            in_pixels(polygon) if isinstance(polygon, list) and _are_numbers(polygon) else polygon
            for polygon in polygons
        ]
    area = annotation.get("area")
    if isinstance(area, (int, float)):
        annotation["area"] = _times(area, width * height)


def _times(value: float, factor: float) -> float:
    """The product; a whole number of hundreds of digits counts as infinite."""
    try:
        return value * factor
    except OverflowError:
        return math.inf


def _mend_flag(item: Item, clear: bool, notes: Notes) -> None:
    """iscrowd as 0 or 1; clear: 0 of every annotation."""
    flag = item.annotation.get("iscrowd")
    if isinstance(flag, str) and flag.strip().lower() in _FLAGS:
        item.annotation["iscrowd"] = _FLAGS[flag.strip().lower()]
        notes.done("crowd flags written as numbers", item.name)
    if clear and item.annotation.get("iscrowd"):
        item.annotation["iscrowd"] = 0
        notes.done("crowd flags cleared", item.name)


def without_scraps(segmentation: Any, size: Size) -> Any:
    """A list of polygons without those that cannot cover a pixel: of fewer than 3 points, or wholly
    outside an image of (height, width). All of them where none would be left."""
    if not isinstance(segmentation, list):
        return segmentation
    height, width = size
    return [
        polygon
        for polygon in segmentation
        if not (isinstance(polygon, list) and _are_numbers(polygon))
        or len(polygon) >= 6
        and max(polygon[0::2]) > 0
        and max(polygon[1::2]) > 0
        and min(polygon[0::2]) < width
        and min(polygon[1::2]) < height
    ] or segmentation


def _unusable(annotation: dict[str, Any], size: Size) -> str:
    """Why an annotation with nested polygons is left out; '' where it can be used."""
    segmentation = annotation["segmentation"]
    found = segmentation_problem(segmentation, *size) or annotation_problem(
        {"iscrowd": annotation.get("iscrowd")}, None, needed=()
    )
    if found is not None:
        return found[1].what
    empty = pixels_of(encoded(segmentation, *size)) == 0
    return "has a mask that covers no pixel" if empty else ""
