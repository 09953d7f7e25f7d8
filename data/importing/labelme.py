"""labelme: one JSON file an image, with a list of shapes."""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.contents import parse_json
from data.images import IMAGE_SUFFIXES, header_sizes
from data.importing.listing import Listing, folder_split
from data.importing.records import (
    Hints,
    Picture,
    Segmentation,
    Shape,
    Size,
    Source,
    joined,
    mask_rle,
)
from data.importing.sound import check_points
from data.mend.notes import Notes
from data.rules import is_text
from data.segmentation import NUMBERS
from layers.problems import Problem, ProblemError, shown

_CIRCLE = 64  # corners that stand for a circle
_NO_AREA = ("point", "points", "line", "linestrip")


def labelme_files(listing: Listing) -> list[str]:
    """The files of the format in a source."""
    return [
        name for name in listing.ending(".json") if _is_labelme((listing.root / name).read_bytes())
    ]


def _is_labelme(data: bytes) -> bool:
    return b'"shapes"' in data and b'"imagePath"' in data


def read_labelme(listing: Listing, hints: Hints) -> Source:
    """ProblemError for a file that is not as labelme writes it, and for one without its image."""
    notes, pictures = Notes(), []
    for name in labelme_files(listing):
        where = f"labelme file {name}"
        content = parse_json(listing.root / name, "labelme file")
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise ProblemError(Problem("has no list of shapes", where, "save it again"))
        path = _image(listing, name, content.get("imagePath"))
        if path is None:
            if not hints.drop_missing:
                fix = "copy it beside the file, or leave such files out by --drop_missing"
                what = f"belongs to image {shown(content.get('imagePath'))}, which is not there"
                raise ProblemError(Problem(what, where, fix))
            notes.left_out("labels without an image", name)
            continue
        size = _size(path, content, where)
        shapes, spoiled = _shapes(content["shapes"], size, name, notes)
        pictures.append(Picture(path, size, shapes, folder_split(name), spoiled))
    return Source(pictures, lines=notes.lines())


def _image(listing: Listing, name: str, stated: Any) -> Path | None:
    """The image of a labelme file: as it says, beside it, or anywhere below by its name."""
    place = os.path.dirname(name)
    stem = name.rpartition(".")[0]
    if is_text(stated) and stated and "\0" not in stated:
        slashed = stated.replace("\\", "/")
        last = slashed.rpartition("/")[2]
        for candidate in (os.path.join(place, slashed), os.path.join(place, last)):
            path = listing.root / candidate
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                return path
        found = listing.folder.find(last)
        if found is not None and found[0].lower().endswith(IMAGE_SUFFIXES):
            return listing.root / found[0]
    beside = listing.image_of(stem)
    return None if beside is None else listing.root / beside


def _size(path: Path, content: dict[str, Any], where: str) -> Size:
    stored, upright = header_sizes(path)
    if stored is None or upright is None:
        fix = "copy it again; it is damaged or no image"
        raise ProblemError(Problem("cannot be read", f"image {path}", fix))
    stated = content.get("imageHeight"), content.get("imageWidth")
    if stated == (None, None) or stated == upright:
        return upright
    if stated == stored:
        return stored
    raise ProblemError(
        Problem(
            f"is of an image of {shown(stated[1])}x{shown(stated[0])}, and {path.name} has "
            f"{upright[1]}x{upright[0]}",
            where,
            "put back the image that was annotated",
        )
    )


def _shapes(entries: list[Any], size: Size, name: str, notes: Notes) -> tuple[list[Shape], bool]:
    """The objects of an image, and whether some could not be read. Shapes of one label and
    group_id are one object; a null group_id joins nothing."""
    groups: dict[Any, tuple[str, list[Segmentation]]] = {}
    spoiled = False
    for number, entry in enumerate(entries):
        where = f"{name}, shape {number + 1}"
        if not isinstance(entry, dict) or not is_text(entry.get("label")):
            fix = "give it a label, or remove it"
            raise ProblemError(Problem("has no label that is text", where, fix))
        kind = entry.get("shape_type") or "polygon"
        if kind in _NO_AREA:
            notes.left_out(f"shapes without area ({kind})", where)
            continue
        outline = _outline(entry, kind, size, where)
        if outline is None:
            notes.left_out("shapes of too few points", where)
            spoiled = True
            continue
        group = entry.get("group_id")
        key = (number,) if group is None else (entry["label"], str(group))
        groups.setdefault(key, (entry["label"], []))[1].append(outline)
    return [Shape(label, joined(parts, *size)) for label, parts in groups.values()], spoiled


def _outline(entry: dict[str, Any], kind: str, size: Size, where: str) -> Segmentation | None:
    points = entry.get("points")
    if isinstance(points, list):
        check_points(len(points), where)
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        fix = "write points as [[x, y], ...]"
        raise ProblemError(Problem("has points that are not pairs of numbers", where, fix))
    if kind == "polygon":
        return [[v for point in points for v in point]] if len(points) >= 3 else None
    if len(points) < 2:
        return None
    (x1, y1), (x2, y2) = points[:2]
    if kind == "rectangle":
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        turns = [2 * math.pi * step / _CIRCLE for step in range(_CIRCLE)]
        return [[v for t in turns for v in (x1 + radius * math.cos(t), y1 + radius * math.sin(t))]]
    if kind == "mask":
        return _mask(entry.get("mask"), (x1, y1), size, where)
    fix = "draw it as a polygon, or remove it"
    raise ProblemError(Problem(f"has the shape_type {shown(kind)}", where, fix))


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and NUMBERS.issuperset(map(type, value))


def _mask(text: Any, corner: tuple[float, float], size: Size, where: str) -> Segmentation:
    """A PNG in base64 that lies with its first pixel at `corner`."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError, TypeError, binascii.Error, Image.DecompressionBombError):
        fix = "draw it again"
        raise ProblemError(Problem("has a mask that is no PNG in base64", where, fix)) from None
    left, top = (round(v) for v in corner)
    whole = np.zeros(size, bool)
    place = whole[max(0, top) : top + part.shape[0], max(0, left) : left + part.shape[1]]
    seen = part[max(0, -top) :, max(0, -left) :][: place.shape[0], : place.shape[1]]
    place[: seen.shape[0], : seen.shape[1]] = seen
    return mask_rle(whole)
