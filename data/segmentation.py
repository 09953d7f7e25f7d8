"""COCO segmentations: polygons, and run-length encodings (RLE) with counts as numbers or as text.

pycocotools hands them to C code that checks nothing: counts that do not fill the image read beyond
their memory, and a size of 0 ends the process. Only what segmentation_problem() passes may reach
it, and encoded() is the one way there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from layers.problems import Problem, shown

NUMBERS = frozenset((int, float))  # no bool, which Python counts among them
# a coordinate farther outside than this many image sides is a mistake, and would cost pycocotools
# gigabytes
FARTHEST = 10
# OpenCV reads no longer side; 6 characters of COCO's text hold no longer run
LONGEST_SIDE, MOST_PIXELS = 1 << 20, 1 << 29
# pycocotools walks along a polygon in fifths of a pixel, and takes 16 bytes a step
MOST_STEPS = 1 << 26
_AT_ONCE = 1 << 22  # characters of RLEs that are looked at together
_NO_OUTLINE = Problem(
    "has no segmentation",
    fix="remove it, or annotate its outline; instance masks need polygons or RLE",
)


def encoded(
    segmentation: Mapping[str, Any] | list[list[float]], height: int, width: int
) -> dict[str, Any]:
    """A COCO segmentation of an image of height x width, which segmentation_problem() passes, as a
    pycocotools RLE."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return dict(segmentation)


def extent(mask: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width, height of the foreground of a pycocotools RLE."""
    x, y, width, height = coco_mask.toBbox(mask).tolist()
    return x, y, width, height


def pixels_of(mask: Mapping[str, Any]) -> int:
    """Foreground pixels of a pycocotools RLE."""
    return int(coco_mask.area(mask))


def segmentation_problem(
    segmentation: Any, height: int, width: int, pixels: int | None = None
) -> tuple[str, Problem] | None:
    """(kind, what is wrong) of a segmentation of an image of height x width; None for a sound one.

    pixels: what rle_lengths() found of it, where it was asked already.
    """
    if isinstance(segmentation, Mapping):
        found = _rle_problem(segmentation, height, width, pixels)
        return None if found is None else ("RLE", found)
    if not isinstance(segmentation, list) or not segmentation:
        return "outline", _NO_OUTLINE
    for polygon in segmentation:
        found = _polygon_problem(polygon, height, width)
        if found is not None:
            return "polygon", found
    return None


def _polygon_problem(polygon: Any, height: int, width: int) -> Problem | None:
    fix = "correct or remove it"
    if isinstance(polygon, (int, float)):
        return Problem(
            "has a flat list of coordinates as its segmentation",
            fix="nest it: segmentation is a list of polygons, [[x1, y1, x2, y2, x3, y3, ...]]",
        )
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        points = len(polygon) // 2 if isinstance(polygon, list) else 0
        return Problem(
            f"has a polygon of {points} points",
            fix=f"{fix}; a polygon needs at least 3 as [x1, y1, x2, y2, x3, y3, ...]",
        )
    if not NUMBERS.issuperset(map(type, polygon)):
        return Problem("has a polygon with something that is not a number", fix=fix)
    low, high, side = min(polygon), max(polygon), max(height, width)
    # where NaN comes first, both are NaN; later it may hide from both
    inside = low >= -FARTHEST * side and high <= (FARTHEST + 1) * side
    if (inside or low != low) and math.isnan(sum(polygon)) or math.inf in (high, -low):
        return Problem("has a polygon with NaN or infinity", fix=fix)
    if not inside:
        return Problem(
            f"has a polygon from {shown(low)} to {shown(high)} in an image of {width}x{height}",
            fix=f"{fix}; coordinates are pixels",
        )
    if (high - low) * len(polygon) > MOST_STEPS and _steps(polygon) > MOST_STEPS:
        return Problem("has a polygon that crosses its image thousands of times", fix=fix)
    return None


def _steps(polygon: Sequence[float]) -> float:
    points = np.array(polygon, np.float64).reshape(-1, 2)
    return float(5 * np.abs(points - np.roll(points, 1, 0)).max(1).sum())


def _rle_problem(
    segmentation: Mapping[str, Any], height: int, width: int, pixels: int | None
) -> Problem | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or counts is None:
        return Problem("has an RLE without size or counts", fix="correct or remove it")
    if not isinstance(size, (list, tuple)) or [*size] != [height, width]:
        swapped = ", height and width swapped" if size == [width, height] else ""
        return Problem(
            f"has an RLE of size {shown(size)}, but its image is {[height, width]} (height, "
            f"width){swapped}",
            fix="make them agree",
        )
    if isinstance(counts, list):
        if not {int}.issuperset(map(type, counts)):
            return Problem(
                f"has an RLE with counts {shown(counts)}, which are no list of whole numbers",
                fix="correct or remove it",
            )
        sound, pixels = not counts or min(counts) >= 0, sum(counts)
    else:
        sound = isinstance(counts, (str, bytes))
        if pixels is None:
            pixels = rle_length(counts) if sound else -1
    if not sound or pixels != height * width:
        covered = f"whose runs cover {shown(pixels)} pixels, but its image has {height * width}"
        return Problem(
            f"has an RLE {covered if sound and pixels >= 0 else 'with malformed counts'}",
            fix="remove it or make it again; it is damaged",
        )
    return None


# ------------------------------------------------------------------------------------- run lengths


def rle_length(counts: str | bytes) -> int:
    """Number of pixels that a compressed RLE covers; -1 where it is malformed."""
    return rle_lengths([counts])[0]


def mask_lengths(entries: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """rle_lengths() of the segmentation of each entry, None where it is no text."""
    masks = (entry.get("segmentation") for entry in entries)
    counts = [mask.get("counts") if isinstance(mask, Mapping) else None for mask in masks]
    texts = [text if isinstance(text, (str, bytes)) else None for text in counts]
    lengths = iter(rle_lengths(text for text in texts if text is not None))
    return [None if text is None else next(lengths) for text in texts]


def rle_lengths(texts: Iterable[Any]) -> list[int]:
    """rle_length() of many; -1 of what is no text."""
    lengths: list[int] = []
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        data = text.encode("ascii", "ignore") if isinstance(text, str) else text
        whole = isinstance(data, bytes) and len(data) == len(text)
        waiting.append(data if whole else b"")
        size += len(waiting[-1])
        if size > _AT_ONCE:
            lengths += _lengths(waiting)
            waiting, size = [], 0
    return lengths + _lengths(waiting)


def _lengths(texts: list[bytes]) -> list[int]:
    filled = [text for text in texts if text]
    if not filled:
        return [-1] * len(texts)
    runs, first, broken = _runs(filled)
    totals, least = np.add.reduceat(runs, first), np.minimum.reduceat(runs, first)
    found = iter(np.where(broken | (least < 0), -1, totals).tolist())
    return [next(found) if text else -1 for text in texts]


def run_lengths(texts: Sequence[bytes]) -> list[np.ndarray]:
    """The lengths of the runs of sound compressed RLEs, background first, column by column."""
    if not texts:
        return []
    runs, first, _ = _runs(texts)
    return np.split(runs, first[1:])


def filled_columns(lengths: np.ndarray, height: int, first: int, last: int) -> np.ndarray:
    """(height, last - first) uint8 0/1: columns of a mask of that height by its run_lengths()."""
    bounds = np.cumsum(lengths).clip(first * height, max(first, last) * height) - first * height
    columns = np.zeros((max(first, last) - first) * height, np.uint8)
    for start, stop in zip(bounds[0::2].tolist(), bounds[1::2].tolist()):
        columns[start:stop] = 1
    return columns.reshape(-1, height).T


def _runs(filled: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs of texts that are not empty, one text after another; the place of the first of each;
    and which are malformed.

    COCO's form (maskApi.c): 5 bits a character, 0x20 = more follow, 0x10 of the last = sign; runs
    after the third are stored as the difference to the run two before.
    """
    codes = np.frombuffer(b"".join(filled), np.uint8).astype(np.int64) - 48
    begin = np.r_[0, np.cumsum([len(text) for text in filled])]
    more = (codes & 0x20) != 0
    bad = (codes < 0) | (codes > 63)
    bad[begin[1:] - 1] |= more[begin[1:] - 1]  # a text may not end where more should follow
    starts = np.r_[True, ~more[:-1]]
    starts[begin[:-1]] = True
    first = np.flatnonzero(starts)  # of each run
    last = np.r_[first[1:], codes.size] - 1
    place = np.arange(codes.size) - np.repeat(first, last + 1 - first)
    bad |= place > 5  # pycocotools shifts 32 bits
    broken = np.add.reduceat(bad, begin[:-1]) > 0
    values = np.add.reduceat((codes & 0x1F) << (5 * np.minimum(place, 5)), first)
    signed = (codes[last] & 0x10) != 0
    values -= np.where(signed, 1 << (5 * (np.minimum(place[last], 5) + 1)), 0)
    run = np.searchsorted(first, begin[:-1])  # the first run of each text
    return _undone(values, np.r_[run, first.size]), run, broken


def _undone(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Runs from stored values (N,): those of bounds[i]:bounds[i + 1] belong together. Each but the
    first three of them is the sum of every second value up to it, the very first left out."""
    length = np.diff(bounds)
    place = np.arange(values.size) - np.repeat(bounds[:-1], length)
    # within a text: the first run, those at odd places, those at even places
    part = np.where(place == 0, 0, 2 - place % 2) + 3 * np.repeat(np.arange(length.size), length)
    order = np.argsort(part, kind="stable")
    part = part[order]
    heads = np.flatnonzero(np.r_[True, part[1:] != part[:-1]])
    sums = np.cumsum(values[order])
    before = np.r_[0, sums[heads[1:] - 1]]
    runs = np.empty_like(values)
    runs[order] = sums - np.repeat(before, np.diff(np.r_[heads, values.size]))
    return runs
