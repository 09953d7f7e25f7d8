"""COCO results, as evaluation writes and compares them: a JSON list of detections."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from data.contents import parse_json
from data.rules import LARGEST, box_problem, is_id
from data.segmentation import segmentation_problem
from layers.problems import Problem, ProblemError, shown

_HIGHEST = 1e300  # of a score


def read_results(path: str | Path, what: str = "results file") -> list[dict[str, Any]]:
    """The detections in a file, each an object with ids. ProblemError, which calls it `what`, where
    it holds something else."""
    content = parse_json(path, what)
    where = f"{what} {path}"
    if not isinstance(content, list):
        raise ProblemError(
            Problem(
                f"holds a {type(content).__name__}, not a list of detections",
                where,
                "give the file that evaluation wrote",
            )
        )
    for number, entry in enumerate(content):
        found = _ids_problem(entry)
        if found is not None:
            raise ProblemError(found.at(f"{where}: detection {number}"))
    return content


def _ids_problem(entry: Any) -> Problem | None:
    if not isinstance(entry, dict):
        return Problem(f"is {shown(entry)}, not an object", fix="give COCO detection results")
    for key in ("image_id", "category_id"):
        if key in entry and not is_id(entry[key]):
            fix = "write the id of the annotation file, a number or text"
            return Problem(f"has {key} {shown(entry[key])}", fix=fix)
    return None


def detection_problem(
    detection: Mapping[str, Any],
    field: str,
    size: tuple[int, int] | None,
    pixels: int | None = None,
) -> Problem | None:
    """What is wrong with a score and a 'bbox' or 'segmentation', the field; None for sound ones.

    size: (height, width) of its image, None where that is unknown; pixels: of its RLE, by
    rle_lengths(), where it was asked already.
    """
    score, value = detection["score"], detection[field]
    if not _is_number(score) or not -_HIGHEST < score < _HIGHEST:
        fix = "the model that made it has diverged, or the file is damaged"
        return Problem(f"has the score {shown(score)}, which cannot be ranked", fix=fix)
    if field == "bbox":
        box = value
        if isinstance(value, (list, tuple)) and all(map(_is_number, value)):
            box = [v if isinstance(v, int) else float(v) for v in value]
        return box_problem(box, LARGEST)
    if not isinstance(value, Mapping):
        fix = "encode masks of results as RLE, as pycocotools does"
        return Problem("has a segmentation that is no RLE", fix=fix)
    if size is None:
        fix = "add them to the annotation file"
        return Problem("is a mask on an image of unknown height and width", fix=fix)
    found = segmentation_problem(value, *size, pixels)
    return None if found is None else found[1]


def _is_number(value: Any) -> bool:
    """Whether a value is a number; those of NumPy are."""
    return isinstance(value, Real) and not isinstance(value, bool)
