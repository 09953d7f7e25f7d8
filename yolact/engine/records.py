"""Per-image records of an evaluation: which detection is right at which IoU threshold, so that
statistics need neither model nor masks.

A records file (records.npz) holds, for boxes and masks, what pycocotools' matching found on every
image. AP of the set, or of the set with its images counted any number of times, follows from it
exactly; see yolact/study. COCO val takes a few megabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from data.annotations import Id
from yolact import cli
from yolact.engine.metrics import THRESHOLDS, CocoRun, IouType, read_annotations, run_coco
from yolact.files import writing
from yolact.run_files import LAST, RECORDS, RESULTS, run_of_weights

AREAS = ("all", "small", "medium", "large")
SHAPES: dict[str, IouType] = {"mask": "segm", "box": "bbox"}  # our name -> COCO's


def place_of(weights: Path) -> Path | None:
    """Where the records of a run's weights go: results/records.npz for its last weights,
    results/records_best.npz for best.pth. None for weights of no run, and, with a note, where
    nothing can be written."""
    run = run_of_weights(weights)
    if run is None or not (results := run / RESULTS).is_dir():
        return None
    if not os.access(results, os.W_OK):
        cli.note(f"{results} cannot be written, so per-image records are not kept")
        return None
    if weights.name == Path(LAST).name:  # by what these find, runs are compared
        return run / RECORDS
    return results / f"records_{weights.stem}.npz"


@dataclass(frozen=True)
class Truth:
    """The ground truth that counts, G instances ordered by image. ignored (areas, G) bool: a crowd,
    or outside that range of areas."""

    image: np.ndarray  # (G,) int32, row of Records.image_ids
    label: np.ndarray  # (G,) int32, row of Records.category_ids
    area: np.ndarray  # (G,) float32, pixels
    ignored: np.ndarray


@dataclass(frozen=True)
class Found:
    """D detections of one shape, at most max_dets an image and class; by class, then image, then
    falling score, as COCO ranks them.

    right    (areas, thresholds, D) bool: matched to an instance that counts at this IoU threshold
             within this range of areas
    ignored  (areas, thresholds, D) bool: counts neither as right nor as wrong; wrong is what is
             left
    iou      (areas, D) float32: IoU with the instance it is matched to at IoU .50, 0 where it is
             matched to none
    best_iou (D,) float32: the highest IoU with an instance of its class that is no crowd, matched
    or not

    Records written by older versions lack what follows, and hold None.
    matched  (thresholds, D) int32: the row of Truth that it is matched to at this IoU threshold,
             within all areas; -1 where it is matched to none
    any_iou  (D,) float32: the highest IoU with an instance of any class that is no crowd;
             any_match (D,) int32: its row of Truth, -1 where none overlaps
    box      (D,4) float32: x, y, width, height in pixels
    own_match (D,) int32: the row of Truth that best_iou is with, -1 where that is 0
    other_iou (D,) float32: as any_iou, of the other classes alone; other_match (D,) int32: its row
    """

    image: np.ndarray  # (D,) int32
    label: np.ndarray  # (D,) int32
    score: np.ndarray  # (D,) float64
    area: np.ndarray  # (D,) float32, pixels
    right: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray
    best_iou: np.ndarray
    matched: np.ndarray | None = None
    any_iou: np.ndarray | None = None
    any_match: np.ndarray | None = None
    box: np.ndarray | None = None
    own_match: np.ndarray | None = None
    other_iou: np.ndarray | None = None
    other_match: np.ndarray | None = None


@dataclass(frozen=True)
class Records:
    """One evaluation. found holds 'mask', 'box' or both; note says what was evaluated (step,
    weights, settings), for people and checks."""

    image_ids: tuple[Id, ...]  # sorted, numbers before strings
    category_ids: tuple[Id, ...]
    class_names: tuple[str, ...]
    max_dets: int
    truth: Truth
    found: Mapping[str, Found]
    note: Mapping[str, Any]

    @cached_property
    def truth_digest(self) -> str:
        """Equal for records of the same images, classes and ground truth, and only for these."""
        content = hashlib.sha256(json.dumps([self.image_ids, self.category_ids]).encode())
        for array in (self.truth.image, self.truth.label, self.truth.area, self.truth.ignored):
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()


def coco_records(runs: Mapping[str, CocoRun], note: Mapping[str, Any] | None = None) -> Records:
    """The records of {'mask': matching, 'box': matching}, one or both, of one ground truth."""
    first = next(iter(runs.values()))
    return Records(
        first.image_ids,
        first.category_ids,
        first.class_names,
        first.max_dets,
        _truth(first),
        {shape: _found(run) for shape, run in runs.items()},
        dict(note or {}),
    )


def records_of_results(
    ground_truth: str | Path | dict,
    results: Sequence[dict],
    max_dets: int = 100,
    *,
    note: Mapping[str, Any] | None = None,
) -> Records:
    """The records of COCO results on all images of a ground truth: of boxes where each has a bbox,
    of masks where each has a segmentation.

    Raises ValueError as coco_metrics() does, and for results that hold neither.
    """
    # no results are results of what the ground truth has
    described = results or read_annotations(ground_truth)[1]["annotations"]
    shapes = [
        shape
        for shape, key in (("mask", "segmentation"), ("box", "bbox"))
        if all(key in entry for entry in described)
    ]
    if not shapes:
        raise ValueError(
            "the results have neither a bbox each nor a segmentation each: give COCO detection "
            "results"
        )
    return coco_records(
        {shape: run_coco(ground_truth, results, SHAPES[shape], max_dets) for shape in shapes}, note
    )


def _truth(run: CocoRun) -> Truth:
    evaluator = run.evaluator
    rows = [
        (
            image - 1,
            category - 1,
            truth["area"],
            *(
                truth["ignore"] or not low <= truth["area"] <= high
                for low, high in evaluator.params.areaRng
            ),
        )
        for image, category, truth in _instances(run)
    ]
    table = np.array(rows, np.float64).reshape(len(rows), 3 + len(AREAS))
    return Truth(
        table[:, 0].astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2].astype(np.float32),
        table[:, 3:].T != 0,
    )


def _instances(run: CocoRun) -> Iterator[tuple[int, int, dict]]:
    """(image, category, instance) in the order of Truth's rows."""
    parameters = run.evaluator.params
    for image in parameters.imgIds:
        for category in parameters.catIds:
            for truth in run.evaluator._gts.get((image, category), ()):
                yield image, category, truth


_TYPES = {
    "image": np.int32,
    "label": np.int32,
    "score": np.float64,
    "area": np.float32,
    "right": bool,
    "ignored": bool,
    "iou": np.float32,
    "best_iou": np.float32,
    "matched": np.int32,
    "any_iou": np.float32,
    "any_match": np.int32,
    "box": np.float32,
    "own_match": np.int32,
    "other_iou": np.float32,
    "other_match": np.int32,
}
_NEAREST = ("any_iou", "any_match", "own_match", "other_iou", "other_match")
_NOTHING = (0.0, -1, -1, 0.0, -1)


def _found(run: CocoRun) -> Found:
    parameters = run.evaluator.params
    areas, thresholds = len(parameters.areaRng), len(THRESHOLDS)
    row_of = {truth["id"]: row for row, (_, _, truth) in enumerate(_instances(run))}
    nearest = _nearest(run, row_of)
    parts = [
        part
        for c, category in enumerate(parameters.catIds)
        for i, image in enumerate(parameters.imgIds)
        if (part := _of_image(run, c, category, i, image, row_of, nearest)) is not None
    ]
    leading = {"right": (areas, thresholds), "ignored": (areas, thresholds), "iou": (areas,)}
    leading |= {"matched": (thresholds,), "box": (4,)}
    columns = {
        name: np.concatenate(
            [
                np.zeros((*leading.get(name, ()), 0), kind),
                *(np.asarray(part[name], kind) for part in parts),
            ],
            axis=-1,
        )
        for name, kind in _TYPES.items()
    }
    return Found(**{**columns, "box": columns["box"].T})


def _of_image(
    run: CocoRun,
    c: int,
    category: int,
    i: int,
    image: int,
    row_of: Mapping[int, int],
    nearest: Mapping[int, tuple[float, ...]],
) -> dict[str, Any] | None:
    """The columns of Found for one class of one image, detections last; None without any."""
    evaluator = run.evaluator
    found = evaluator.of_pair(c, i)
    if found is None:
        return None
    ids, matched, ignored = found.ids, found.matched, found.ignored
    detections = [evaluator.cocoDt.anns[d] for d in ids]
    iou, best = _overlaps(evaluator, image, category, matched[:, 0])
    # 0 stands for none: ids of instances count from 1
    rows = [[row_of[int(m)] if m > 0 else -1 for m in row] for row in matched[0]]
    return {
        "image": np.full(len(ids), i),
        "label": np.full(len(ids), c),
        "score": found.scores,
        "area": [detection["area"] for detection in detections],
        "right": (matched > 0) & ~ignored,
        "ignored": ignored,
        "iou": iou,
        "best_iou": best,
        "matched": rows,
        "box": np.array([_box_of(detection) for detection in detections], np.float32).T,
        **dict(zip(_NEAREST, zip(*(nearest.get(d, _NOTHING) for d in ids)))),
    }


def _box_of(detection: dict) -> Sequence[float]:
    """x, y, width, height: its own, else its mask's."""
    return detection["bbox"] if "bbox" in detection else rle.toBbox(detection["segmentation"])


def _nearest(run: CocoRun, row_of: Mapping[int, int]) -> dict[int, tuple[float, ...]]:
    """{detection: its values of _NEAREST}, of images with instances that are no crowd."""
    evaluator, key = run.evaluator, "bbox" if run.iou_type == "bbox" else "segmentation"
    truths: dict[int, list[tuple[int, dict]]] = {}
    for image, category, truth in _instances(run):
        if not truth["iscrowd"]:
            truths.setdefault(image, []).append((category, truth))
    best: dict[int, tuple[float, ...]] = {}
    for image, there in truths.items():
        found = [
            (c, d) for c in evaluator.params.catIds for d in evaluator._dts.get((image, c), ())
        ]
        if not found:
            continue
        overlaps = rle.iou(
            [detection[key] for _, detection in found],
            [truth[key] for _, truth in there],
            [0] * len(there),
        )
        rows = np.array([row_of[truth["id"]] for _, truth in there])
        own = np.array([c for c, _ in found])[:, None] == np.array([c for c, _ in there])
        any_iou, any_match = _best(overlaps, rows)
        _, own_match = _best(np.where(own, overlaps, 0), rows)
        other_iou, other_match = _best(np.where(own, 0, overlaps), rows)
        columns = zip(any_iou, any_match, own_match, other_iou, other_match)
        best |= {d["id"]: values for (_, d), values in zip(found, columns)}
    return best


def _best(overlaps: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """overlaps (D,G) -> the highest of each detection, and its entry of rows (G,), -1 where none
    overlaps."""
    k = overlaps.argmax(1)
    iou = overlaps[np.arange(len(k)), k]
    return iou, np.where(iou > 0, rows[k], -1)


def _overlaps(
    evaluator, image: int, category: int, matched: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """matched (areas, D): ids of the instances that detections are matched to, 0 for none -> IoU
    with these, and the highest IoU (D,)."""
    truths = evaluator._gts.get((image, category), ())
    overlaps = np.asarray(evaluator.ious[image, category], np.float64)
    if not len(truths) or not overlaps.size:
        return np.zeros(matched.shape), np.zeros(matched.shape[1])
    ids = np.array([truth["id"] for truth in truths])
    order = np.argsort(ids)
    column = order[np.searchsorted(ids[order], np.maximum(matched, ids.min()).astype(ids.dtype))]
    counted = overlaps[:, [not truth["iscrowd"] for truth in truths]]
    return np.where(matched > 0, overlaps[np.arange(len(overlaps)), column], 0), counted.max(
        1, initial=0
    )


# -------------------------------------------------------------------------------------------- files


def write_records(path: str | Path, records: Records) -> None:
    """Writes a records file, whole or not at all. OSError where it cannot be written, with an older
    file kept."""
    arrays: dict[str, np.ndarray] = {
        f"truth_{name}": value for name, value in vars(records.truth).items() if name != "ignored"
    }
    arrays["truth_ignored"] = np.packbits(records.truth.ignored, axis=0)
    for shape, found in records.found.items():
        arrays |= {
            f"{shape}_{name}": value for name, value in vars(found).items() if value is not None
        }
        for name in ("right", "ignored"):
            arrays[f"{shape}_{name}"] = np.packbits(
                getattr(found, name).reshape(len(AREAS) * len(THRESHOLDS), len(found.image)), axis=0
            )
    head = {
        "image_ids": records.image_ids,
        "category_ids": records.category_ids,
        "class_names": records.class_names,
        "max_dets": records.max_dets,
        "shapes": list(records.found),
        "note": records.note,
    }
    write_npz(path, head=np.array(json.dumps(head)), **arrays)


def read_records(path: str | Path) -> Records:
    """What write_records() wrote. ValueError for a file that is missing, cut off or something
    else."""
    try:
        # opened here, since numpy leaves a file open that is cut off
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            head = json.loads(str(file["head"]))
            image, label, area = (file[f"truth_{name}"] for name in ("image", "label", "area"))
            truth = Truth(image, label, area, _unpacked(file["truth_ignored"], len(AREAS)))
            found = {shape: _read_found(file, shape) for shape in head["shapes"]}
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist: the last validation of a run writes it, and eval.py on the "
            "run's last.pth"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        raise ValueError(
            f"{path} is no records file of this version, or cut off: evaluate again with eval.py"
        ) from None
    return Records(
        tuple(head["image_ids"]),
        tuple(head["category_ids"]),
        tuple(head["class_names"]),
        head["max_dets"],
        truth,
        found,
        head["note"],
    )


def _read_found(file: Mapping[str, np.ndarray], shape: str) -> Found:
    columns: dict[str, Any] = {
        name: file[f"{shape}_{name}"]
        for name, field in Found.__dataclass_fields__.items()
        if field.default is MISSING or f"{shape}_{name}" in file
    }
    for name in ("right", "ignored"):
        columns[name] = _unpacked(columns[name], len(AREAS) * len(THRESHOLDS)).reshape(
            len(AREAS), len(THRESHOLDS), len(columns["image"])
        )
    return Found(**columns)


def _unpacked(packed: np.ndarray, rows: int) -> np.ndarray:
    return np.unpackbits(packed, axis=0, count=rows).astype(bool)


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes a compressed .npz file so that a reader, or a kill, finds the old one or the new
    one."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                # no array of ours is called like its switch
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
