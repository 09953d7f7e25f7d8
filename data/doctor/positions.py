"""Rules for where boxes and outlines lie: coordinates of another unit or order, rectangles in place
of masks, annotations that are there twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from data.doctor.findings import Findings
from data.doctor.split import Split
from data.rules import is_crowd
from data.segmentation import encoded, extent, pixels_of
from layers.problems import few, shown

EDGE = 2  # pixels that a box may reach out of its image unremarked
MANY = 5  # annotations that make a habit
# coordinates of 0..1 and 0..100 reach little farther; pictures are larger
SHARE, PERCENT, SMALLEST = 1.001, 100.5, 150
SURE = 20  # annotations, all of them like percent, that are no chance


def check_positions(split: Split, found: Findings) -> None:
    if not split.annotations:
        return
    places = _places(split)
    if not _check_units(split, places, found):
        _check_outside(split, places, found)
    _check_rectangles(split, found)
    _check_repeated(split, found)


def _places(split: Split) -> np.ndarray:
    """(N,10) float64: x1, y1, x2, y2 of each box; the same of its polygons, NaN for an RLE; width
    and height of the image."""
    rows = []
    for a in split.annotations:
        image, (x, y, w, h) = split.images[a["image_id"]], a["bbox"]
        outline: tuple[float, ...] = (np.nan,) * 4
        if isinstance(a["segmentation"], list):
            across = [v for polygon in a["segmentation"] for v in polygon[0::2]]
            down = [v for polygon in a["segmentation"] for v in polygon[1::2]]
            outline = min(across), min(down), max(across), max(down)
        rows.append((x, y, x + w, y + h, *outline, image["width"], image["height"]))
    return np.array(rows, np.float64)


def _check_units(split: Split, places: np.ndarray, found: Findings) -> bool:
    """Whether coordinates are of another unit than pixels."""
    farthest = np.nanmax(places[:, [0, 1, 2, 3, 6, 7]], axis=1)
    count, total = int((farthest <= SHARE).sum()), len(farthest)
    if count > total / 2 and places[:, 8:].min() > 2:
        found.error(
            f"has coordinates between 0 and 1 in {count} of {total} annotations: shares of the "
            "image, not pixels",
            split.path,
            "multiply them by width and height of the image, as --write OUT.json --scale unit does",
        )
        return True
    large = places[:, 8:].min(1) >= SMALLEST
    if (
        total >= MANY
        and large.mean() > 0.5
        and (farthest <= PERCENT).all()
        and farthest.max() > 0.9 * PERCENT
    ):
        tell = found.error if total >= SURE else found.warning
        tell(
            f"has no coordinate above {farthest.max():g} in {total} annotations of images of "
            f"{places[:, 8].max():g}x{places[:, 9].max():g}: they look like percent of the image, "
            "not pixels",
            split.path,
            "multiply them by a hundredth of width and height of the image, as --write OUT.json "
            "--scale percent does",
        )
        return True
    return False


def _check_outside(split: Split, places: np.ndarray, found: Findings) -> None:
    boxes, outlines, width, height = places[:, :4], places[:, 4:8], places[:, 8], places[:, 9]
    x1, y1, x2, y2 = boxes.T
    out = _beside(boxes, width, height)
    over = ~out & ((x1 < -EDGE) | (y1 < -EDGE) | (x2 > width + EDGE) | (y2 > height + EDGE))
    w, h = x2 - x1, y2 - y1
    corners = over & (w > x1) & (h > y1) & (w <= width + EDGE) & (h <= height + EDGE)
    turned = (out | over) & (np.minimum(x1, y1) >= -EDGE)
    turned &= (x2 <= height + EDGE) & (y2 <= width + EDGE)
    hint, turn = "", 2 * turned.sum() > (out | over).sum()
    if turn:
        hint = f"; {turned.sum()} boxes would be inside with x and y swapped, or with width and "
        hint += "height of their images swapped"
    if out.any():
        found.error(
            f"has {out.sum()} boxes wholly outside their image (annotations {_named(split, out)})"
            f"{hint}",
            split.path,
            "correct or remove them",
        )
    if over.any():
        as_corners = corners.sum() > over.sum() / 2
        if as_corners:
            hint = f"; {corners.sum()} of them would be inside as two corners, [x1, y1, x2, y2]"
        found.warning(
            f"has {over.sum()} boxes that reach out of their image (annotations "
            f"{_named(split, over)}){hint}",
            split.path,
            "write bbox as [x, y, width, height]" if as_corners else "clip or correct them",
        )
    beside = np.array([_has_polygon_outside(split, a) for a in split.annotations]) & ~np.isnan(
        outlines[:, 0]
    )
    if beside.any():
        found.warning(
            f"has {beside.sum()} annotations with a polygon wholly outside the image "
            f"(annotations {_named(split, beside)}){hint if turn else ''}",
            split.path,
            "remove or correct these polygons",
        )


def _beside(boxes: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(N,) bool: boxes (N,4) XYXY that share nothing with their image."""
    x1, y1, x2, y2 = boxes.T
    return (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)


def _has_polygon_outside(split: Split, annotation: dict[str, Any]) -> bool:
    if not isinstance(annotation["segmentation"], list):
        return False
    image = split.images[annotation["image_id"]]
    return any(
        max(p[0::2]) <= 0
        or min(p[0::2]) >= image["width"]
        or max(p[1::2]) <= 0
        or min(p[1::2]) >= image["height"]
        for p in annotation["segmentation"]
    )


def _named(split: Split, chosen: np.ndarray) -> str:
    rows = np.flatnonzero(chosen).tolist()
    return few([shown(split.annotations[row].get("id")) for row in rows])


def _check_rectangles(split: Split, found: Findings) -> None:
    own = [a for a in split.annotations if not is_crowd(a)]
    count = sum(map(_is_rectangle, own))
    if len(own) >= MANY and count > len(own) / 2:
        found.warning(
            f"has upright rectangles for masks in {count} of {len(own)} annotations: boxes drawn "
            "as masks, which teach boxes",
            split.path,
            "annotate outlines, or let a tool make masks of the boxes",
        )


def _is_rectangle(annotation: dict[str, Any]) -> bool:
    """Whether the mask is its whole bounding box."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        polygon = segmentation[0]
        corners = set(zip(polygon[0::2], polygon[1::2]))
        sides = {x for x, _ in corners}, {y for _, y in corners}
        return len(segmentation) == 1 and len(corners) == 4 and [*map(len, sides)] == [2, 2]
    mask = encoded(segmentation, *segmentation["size"])
    _, _, width, height = extent(mask)
    return min(width, height) > 2 and pixels_of(mask) == width * height


def _check_repeated(split: Split, found: Findings) -> None:
    keys = Counter(
        (a["image_id"], a["category_id"], is_crowd(a), *a["bbox"]) for a in split.annotations
    )
    spare = len(split.annotations) - len(keys)
    if not spare:
        return
    first = next(key[0] for key, count in keys.items() if count > 1)
    everyone = len(keys) <= 0.55 * len(split.annotations) and spare >= MANY
    tell = found.error if everyone else found.warning
    tell(
        f"has {spare} of {len(split.annotations)} annotations twice: the same class and box on the "
        f"same image, such as image {shown(first)}",
        split.path,
        "keep one of each; the second counts as an object that is never found",
    )
