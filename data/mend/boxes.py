"""Boxes computed from masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.doctor.images import box_apart
from data.mend.images import Size
from data.mend.masks import Item
from data.mend.notes import Notes
from data.rules import box_problem, is_crowd
from data.segmentation import encoded, extent

MOST_TURNED = 0.5  # share of the boxes apart from their masks that may fit these transposed


def mend_boxes(items: Sequence[Item], notes: Notes) -> None:
    """Computes, in place, the boxes that are none or lie apart from their masks.

    Where most of the latter would fit the masks with x and y swapped, the masks may be what is
    wrong: these boxes stay, and the check tells.
    """
    apart, turned = [], 0
    for item in items:
        if not _has_area(item.annotation, item.size):
            _compute(item, notes)
        elif not is_crowd(item.annotation):
            mask, box = (
                encoded(item.annotation["segmentation"], *item.size),
                item.annotation["bbox"],
            )
            x, y, width, height = extent(mask)
            if box_apart(box, (x, y, width, height)):
                apart.append(item)
                turned += not box_apart(box, (y, x, height, width))
    if turned > MOST_TURNED * len(apart):
        return
    for item in apart:
        _compute(item, notes)


def _has_area(annotation: Mapping[str, Any], size: Size) -> bool:
    box = annotation.get("bbox")
    return box_problem(box, max(size)) is None and box[2] > 0 and box[3] > 0  # type: ignore[index]


def _compute(item: Item, notes: Notes) -> None:
    item.annotation["bbox"] = mask_box(item.annotation["segmentation"], item.size)
    notes.done("boxes computed from their masks", item.name)


def mask_box(segmentation: Any, size: Size) -> list[float]:
    """[x, y, width, height] of a sound mask: of the corners of its polygons inside the image of
    (height, width), or of the pixels of its RLE."""
    height, width = size
    box = extent(encoded(segmentation, height, width))
    if isinstance(segmentation, Mapping):
        return [*box]
    across = [min(max(v, 0), width) for polygon in segmentation for v in polygon[0::2]]
    down = [min(max(v, 0), height) for polygon in segmentation for v in polygon[1::2]]
    x, y = min(across), min(down)
    corners = [x, y, max(across) - x, max(down) - y]
    return corners if corners[2] > 0 and corners[3] > 0 else [*box]
