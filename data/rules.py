"""What the entries of COCO-format files must keep to, at whichever door they come in: training, the
data set doctor, evaluation, comparison. segmentation.py has the rules of masks.

A rule returns the Problem it finds, or None.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from data.segmentation import (
    FARTHEST,
    LONGEST_SIDE,
    MOST_PIXELS,
    NUMBERS,
    segmentation_problem,
)
from layers.names import did_you_mean
from layers.problems import Problem, ProblemError, few, is_line, shown

Id = int | str  # COCO's ids are integers; other tools write strings
IMAGE_KEYS, CATEGORY_KEYS = ("id", "file_name", "width", "height"), ("id", "name")
LARGEST = 1e9  # pixels of a box in an image of unknown size


# ------------------------------------------------------------------------------------------- fields


def is_id(value: Any) -> bool:
    """Whether a value may be an id: a whole number, or text."""
    if type(value) is float:
        return value.is_integer()  # which finds what the number finds
    return type(value) is int or is_text(value)


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written: no halves of characters, as JSON may hold."""
    try:
        return isinstance(value, str) and bool(value.isascii() or value.encode())
    except UnicodeEncodeError:
        return False


def category_name(category: Mapping[str, Any]) -> str | None:
    """The name of a category, a number as text; None where it has none."""
    name = category.get("name")
    return str(name) if type(name) in NUMBERS else name if is_text(name) else None


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """iscrowd of an annotation that annotation_problem() passes."""
    return bool(annotation.get("iscrowd"))


# ------------------------------------------------------------------------------------------- images


def image_problem(
    image: Mapping[str, Any], number: int, needed: Collection[str] = IMAGE_KEYS
) -> tuple[str, Problem] | None:
    """(kind, what is wrong) with entry `number` of images; None for a sound one. needed: its keys
    that must be there; the others may be missing, or null."""
    name = image.get("file_name", image.get("id", f"number {number}"))
    where = f"image {shown(name)}"
    missing = [key for key in IMAGE_KEYS if key in needed and image.get(key) is None]
    if missing:
        return "keys", Problem(f"has no {', '.join(missing)}", where, "add what is missing")
    if not is_id(image["id"]):
        fix = "write a whole number or text"
        return "id", Problem(f"has the id {shown(image['id'])}", where, fix)
    file = image.get("file_name")
    if file is not None and (not is_text(file) or not file or "\0" in file):
        fix = "write the name of the file in the image folder, as text"
        return "name", Problem(f"has the file_name {shown(file)}", f"image {image['id']!r}", fix)
    height, width = image.get("height"), image.get("width")
    if (height, width) != (None, None) and not _are_sides(height, width):
        fix = "write the pixel size of the file"
        found = f"has width {shown(width)} and height {shown(height)}"
        return "size", Problem(found, where, fix)
    return None


def _are_sides(height: Any, width: Any) -> bool:
    """Whether they are whole positive numbers that an image can have."""
    return (
        type(height) in NUMBERS
        and type(width) in NUMBERS
        and 0 < height <= LONGEST_SIDE
        and 0 < width <= LONGEST_SIDE
        and height % 1 == width % 1 == 0
        and height * width <= MOST_PIXELS
    )


def size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an image that image_problem() passes; None where it states none."""
    height, width = image.get("height"), image.get("width")
    return None if height is None or width is None else (int(height), int(width))


# ------------------------------------------------------------------------------------------ classes


def category_labels(
    categories: list[dict[str, Any]],
    class_names: tuple[str, ...],
    label_map: Mapping[Id, int] | None,
    used: set[Id],
    path: str | Path,
) -> dict[Id, int]:
    """Category id -> 0-based label, from label_map or by the name of sound categories.

    used: the category ids that annotations have. A category without annotations may be missing from
    class_names. ProblemError where class_names and the categories disagree.
    """
    where = str(path)
    if label_map is not None:
        unmapped = sorted((c for c in used if c not in label_map), key=str)
        if unmapped:
            raise ProblemError(
                Problem(
                    f"has annotations of category ids {shown(unmapped)}, which data.label_map "
                    f"lacks (it has {shown(list(label_map))})",
                    where,
                    "add them to label_map",
                )
            )
        return dict(label_map)
    again = _repeated(map(category_name, categories))
    if again:
        raise ProblemError(
            Problem(
                f"has categories that repeat {few(again)}",
                where,
                "give each one entry, or set data.label_map",
            )
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    disagreement = _disagreement(categories, class_names, used)
    if disagreement is not None:
        raise ProblemError(disagreement.at(where))
    labels = {c["id"]: label_of.get(category_name(c) or "") for c in categories}
    return {key: label for key, label in labels.items() if label is not None}


def category_problem(
    category: Mapping[str, Any], number: int, needed: Collection[str] = CATEGORY_KEYS
) -> tuple[str, Problem] | None:
    """(kind, what is wrong) with entry `number` of categories; None for a sound one. needed: as of
    image_problem()."""
    key, name = category.get("id"), category.get("name")
    where = f"category {shown(f'number {number}' if name is None and key is None else name or key)}"
    missing = [k for k in CATEGORY_KEYS if k in needed and category.get(k) is None]
    if missing:
        return "keys", Problem(f"has no {' and no '.join(missing)}", where, "add what is missing")
    if not is_id(key) or (name is not None and category_name(category) is None):
        pair = f"has the id {shown(key)} and the name {shown(name)}"
        return "types", Problem(pair, where, "write the id as a number or text, the name as text")
    if not is_line(category_name(category) or ""):
        what = "has a name with a line break or another control character"
        return "line", Problem(what, where, "rename it")
    return None


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _disagreement(
    categories: list[dict[str, Any]], class_names: tuple[str, ...], used: set[Id]
) -> Problem | None:
    """Categories with annotations that are no class, and classes that are no category."""
    names = [category_name(c) or "" for c in categories]
    foreign = [
        name for name, c in zip(names, categories) if c["id"] in used and name not in class_names
    ]
    absent = [name for name in class_names if name not in names]
    if not foreign and not absent:
        return None
    cases = [
        f"category {name!r} is not in data.class_names{did_you_mean(name, class_names)}"
        for name in foreign[:3]
    ]
    cases += [f"class {name!r} has no category{did_you_mean(name, names)}" for name in absent[:3]]
    listed = json.dumps(names if len(names) <= 12 else [*names[:12], "..."])
    return Problem(
        f"has {len(names)} categories and data.class_names has {len(class_names)}, which "
        f"disagree ({'; '.join(cases)})",
        fix=f"set data.class_names={listed}, or give data.label_map",
    )


# -------------------------------------------------------------------------------------- annotations


def reference_problem(
    annotation: Mapping[str, Any], images: Mapping[Id, Any], categories: Collection[Any]
) -> tuple[str, Problem] | None:
    """(kind, what is wrong) where an annotation refers to an image or a category that is not
    listed."""
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if not is_id(image) or image not in images:
        return "image", Problem(
            f"belongs to image {shown(image)}, which is not listed under images"
            f"{other_type(image, images)}",
            fix="add the image or remove the annotation",
        )
    if not is_id(category) or category not in categories:
        return "category", Problem(
            f"has category id {shown(category)}, which is not listed under categories"
            f"{other_type(category, categories)}",
            fix="correct the id, or add the category",
        )
    return None


def other_type(key: Any, known: Collection[Any]) -> str:
    """A hint where an id is there, but as text instead of a number or the other way round."""
    if not is_id(key):
        return ""
    other: Any = str(key)
    if isinstance(key, str):
        other = int(key) if key.isdecimal() and len(key) < 20 else None
    return f" (there is {shown(other)}, of another type)" if other in known else ""


def annotation_problem(
    annotation: Mapping[str, Any],
    size: tuple[int, int] | None,
    needed: Collection[str] = ("bbox", "segmentation"),
    pixels: int | None = None,
) -> tuple[str, Problem] | None:
    """(the kind of mistake, the mistake) that makes an annotation unusable; None for a sound one.

    size: (height, width) of its image, in pixels, if it is known. needed: what must be there; the
    other may be missing, null or []. pixels: of its RLE, by rle_lengths(), where it was asked
    already. A box without area is not a mistake here.
    """
    box, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    if "bbox" in needed or box not in (None, []):
        found = box_problem(box, LARGEST if size is None else max(size))
        if found is not None:
            return "box", found
    for key, problem in (("iscrowd", _flag_problem), ("area", _area_problem)):
        found = problem(annotation.get(key))
        if found is not None:
            return key, found
    if size is None or ("segmentation" not in needed and segmentation in (None, [])):
        return None
    return segmentation_problem(segmentation, *size, pixels)


def box_problem(box: Any, side: float) -> Problem | None:
    """What is wrong with [x, y, width, height] in an image whose longer side is `side`."""
    if not isinstance(box, list) or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
        fix = "write bbox as [x, y, width, height] in pixels"
        return Problem(f"has the box {shown(box)}", fix=fix)
    x, y, w, h = box
    least, most = -FARTHEST * side, (FARTHEST + 1) * side
    if least <= x <= most and least <= y <= most and 0 <= w <= most and 0 <= h <= most:
        return None
    if any(v != v or v in (math.inf, -math.inf) for v in box):
        return Problem(f"has the box {box}, with NaN or infinity", fix="correct or remove it")
    if w < 0 or h < 0:
        return Problem(
            f"has the box {shown(box)}, of negative size",
            fix="correct it; bbox is [x, y, width, height], not two corners",
        )
    fix = "correct or remove it; coordinates are pixels"
    return Problem(f"has the box {shown(box)}, far outside any image", fix=fix)


def _flag_problem(flag: Any) -> Problem | None:
    if flag is None or type(flag) in (bool, int, float) and flag in (0, 1):
        return None
    return Problem(f"has iscrowd {shown(flag)}", fix="write iscrowd as 0 or 1")


def _area_problem(area: Any) -> Problem | None:
    if area is None or type(area) in NUMBERS and 0 <= area <= sys.float_info.max:
        return None
    return Problem(f"has the area {shown(area)}", fix="write it in pixels, or remove the key")
