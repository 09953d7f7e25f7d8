"""What COCO-format annotations must keep to: rules that the reader and the data set doctor share.

A rule returns the Problem it finds, or None.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layers.names import did_you_mean
from layers.problems import Problem, ProblemError

Id = int | str  # COCO's ids are integers; other tools write strings
IMAGE_KEYS = ("id", "file_name", "width", "height")
# a polygon point farther outside than this many image sides is a mistake, and would cost
# pycocotools gigabytes
FARTHEST = 10


# ------------------------------------------------------------------------------------------- images


def lacking(image: Mapping[str, Any]) -> list[str]:
    """The keys that an entry of images must have and has not."""
    return [key for key in IMAGE_KEYS if key not in image]


def has_size(image: Mapping[str, Any]) -> bool:
    """Whether width and height are positive whole numbers."""
    return all(
        isinstance(image[side], (int, float)) and image[side] > 0 and image[side] % 1 == 0
        for side in ("width", "height")
    )


# ------------------------------------------------------------------------------------------ classes


def category_labels(
    categories: list[dict[str, Any]],
    class_names: tuple[str, ...],
    label_map: Mapping[Id, int] | None,
    used: set[Id],
    path: Path,
) -> dict[Id, int]:
    """Category id -> 0-based label, from label_map or by category name.

    used: the category ids that annotations have. A category without annotations may be missing from
    class_names. ProblemError where class_names and the categories disagree.
    """
    where = str(path)
    nameless = next((c for c in categories if "id" not in c or "name" not in c), None)
    if nameless is not None:
        raise ProblemError(
            Problem(f"has a category without id or name, {nameless}", where, "add what is missing")
        )
    if label_map is not None:
        unmapped = sorted((c for c in used if c not in label_map), key=str)
        if unmapped:
            raise ProblemError(
                Problem(
                    f"has annotations of category ids {unmapped[:10]}, which data.label_map lacks "
                    f"(it has {list(label_map)[:10]})",
                    where,
                    "add them to label_map",
                )
            )
        return dict(label_map)
    again = _repeated(c["id"] for c in categories) or _repeated(c["name"] for c in categories)
    if again:
        raise ProblemError(
            Problem(
                f"has categories that repeat {again}",
                where,
                "give each one entry, or set data.label_map",
            )
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    disagreement = _disagreement(categories, class_names, used)
    if disagreement is not None:
        raise ProblemError(disagreement.at(where))
    return {c["id"]: label_of[c["name"]] for c in categories if c["name"] in label_of}


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _disagreement(
    categories: list[dict[str, Any]], class_names: tuple[str, ...], used: set[Id]
) -> Problem | None:
    """Categories with annotations that are no class, and classes that are no category."""
    names = [c["name"] for c in categories]
    foreign = [c["name"] for c in categories if c["id"] in used and c["name"] not in class_names]
    absent = [name for name in class_names if name not in names]
    if not foreign and not absent:
        return None
    cases = [
        f"category {name!r} is not in data.class_names{did_you_mean(str(name), class_names)}"
        for name in foreign[:3]
    ]
    cases += [
        f"class {name!r} has no category{did_you_mean(name, map(str, names))}"
        for name in absent[:3]
    ]
    shown = json.dumps(names if len(names) <= 12 else [*names[:12], "..."])
    return Problem(
        f"has {len(names)} categories and data.class_names has {len(class_names)}, which "
        f"disagree ({'; '.join(cases)})",
        fix=f"set data.class_names={shown}, or give data.label_map",
    )


# -------------------------------------------------------------------------------------- annotations


def other_type(key: Any, known: Collection[Any]) -> str:
    """A hint where an id is there, but as text instead of a number or the other way round."""
    twin = next(
        (k for k in known if k is not None and str(k) == str(key) and type(k) is not type(key)),
        None,
    )
    return f" (there is {twin!r}, of another type)" if twin is not None else ""


def annotation_problem(
    annotation: Mapping[str, Any], height: int, width: int
) -> tuple[str, Problem] | None:
    """(the kind of mistake, the mistake) that makes an annotation unusable; None for a sound one.

    height, width: of its image, in pixels. A box without area is not a mistake here.
    """
    if "id" not in annotation:
        of = annotation.get("image_id")
        return "id", Problem("has no id", f"an annotation of image {of!r}", "number them")
    segmentation = annotation.get("segmentation")
    kind, found = "box", _box_problem(annotation.get("bbox"))
    if found is None and isinstance(segmentation, dict):
        kind, found = "RLE", _rle_problem(segmentation, height, width)
    elif found is None:
        kind, found = "polygon", _polygons_problem(segmentation, height, width)
    return None if found is None else (kind, found.at(f"annotation {annotation['id']!r}"))


def _box_problem(box: Any) -> Problem | None:
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, (int, float)) for v in box)
    ):
        return Problem(f"has the box {box!r}", fix="write bbox as [x, y, width, height] in pixels")
    if not all(map(math.isfinite, box)):
        return Problem(f"has the box {box}, with NaN or infinity", fix="correct or remove it")
    if box[2] < 0 or box[3] < 0:
        return Problem(
            f"has the box {box}, of negative size",
            fix="correct it; bbox is [x, y, width, height], not two corners",
        )
    return None


def _polygons_problem(segmentation: Any, height: int, width: int) -> Problem | None:
    if not isinstance(segmentation, list) or not segmentation:
        return Problem(
            "has no segmentation",
            fix="remove it, or annotate its outline; instance masks need polygons or RLE",
        )
    for polygon in segmentation:
        found = _polygon_problem(polygon, height, width)
        if found is not None:
            return found
    return None


def _polygon_problem(polygon: Any, height: int, width: int) -> Problem | None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        points = len(polygon) // 2 if isinstance(polygon, list) else 0
        return Problem(
            f"has a polygon of {points} points",
            fix="correct or remove it; a polygon needs at least 3 as [x1, y1, x2, y2, x3, y3, ...]",
        )
    fix = "correct or remove it"
    try:
        low, high, total = min(polygon), max(polygon), sum(polygon)
    except TypeError:
        return Problem("has a polygon with something that is not a number", fix=fix)
    # one NaN or infinity makes the sum so; NaN alone may hide from min and max
    if not math.isfinite(total):
        return Problem("has a polygon with NaN or infinity", fix=fix)
    side = max(height, width)
    if low < -FARTHEST * side or high > (FARTHEST + 1) * side:
        return Problem(
            f"has a polygon from {low:g} to {high:g} in an image of {width}x{height}",
            fix=f"{fix}; coordinates are pixels",
        )
    return None


def _rle_problem(segmentation: Mapping[str, Any], height: int, width: int) -> Problem | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or counts is None:
        return Problem("has an RLE without size or counts", fix="correct or remove it")
    if list(size) != [height, width]:
        swapped = ", height and width swapped" if list(size) == [width, height] else ""
        return Problem(
            f"has an RLE of size {size}, but its image is {[height, width]} (height, "
            f"width){swapped}",
            fix="make them agree",
        )
    pixels = sum(counts) if isinstance(counts, list) else rle_length(counts)
    if pixels != height * width or (isinstance(counts, list) and min(counts) < 0):
        return Problem(
            f"has an RLE whose runs cover {pixels} pixels, but its image has {height * width}",
            fix="remove it or make it again; it is damaged",
        )
    return None


def rle_length(counts: str | bytes) -> int:
    """Number of pixels that a compressed RLE covers; -1 where it is malformed.

    COCO's form (maskApi.c): 5 bits a character, 0x20 = more follow, 0x10 of the last = sign; runs
    after the third are stored as the difference to the run two before. pycocotools does not check
    the total: a short RLE decodes into uninitialised memory.
    """
    codes = (
        np.frombuffer(
            counts.encode("ascii", "replace") if isinstance(counts, str) else counts, np.uint8
        ).astype(np.int64)
        - 48
    )
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return -1
    first = np.flatnonzero(np.r_[True, (codes[:-1] & 0x20) == 0])
    place = np.arange(codes.size) - np.repeat(first, np.diff(np.r_[first, codes.size]))
    if place.max() > 6:
        return -1
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    last = np.r_[first[1:], codes.size] - 1
    values -= np.where(codes[last] & 0x10, 1 << (5 * (place[last] + 1)), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return int(runs.sum()) if runs.min() >= 0 else -1
