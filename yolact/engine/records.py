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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

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
    """

    image: np.ndarray  # (D,) int32
    label: np.ndarray  # (D,) int32
    score: np.ndarray  # (D,) float64
    area: np.ndarray  # (D,) float32, pixels
    right: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray
    best_iou: np.ndarray


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
        for image in evaluator.params.imgIds
        for category in evaluator.params.catIds
        for truth in evaluator._gts.get((image, category), ())
    ]
    table = np.array(rows, np.float64).reshape(len(rows), 3 + len(AREAS))
    return Truth(
        table[:, 0].astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2].astype(np.float32),
        table[:, 3:].T != 0,
    )


def _found(run: CocoRun) -> Found:
    evaluator, parameters = run.evaluator, run.evaluator.params
    images, areas = len(parameters.imgIds), len(parameters.areaRng)
    detections = {d["id"]: d["area"] for d in evaluator.cocoDt.dataset["annotations"]}
    columns: list[tuple] = []
    for c, category in enumerate(parameters.catIds):
        for i, image in enumerate(parameters.imgIds):
            by_area = [evaluator.evalImgs[(c * areas + a) * images + i] for a in range(areas)]
            if by_area[0] is None or not by_area[0]["dtIds"]:
                continue
            count = len(by_area[0]["dtIds"])
            matched = np.stack([found["dtMatches"] for found in by_area])  # (areas, thresholds, D)
            ignored = np.stack([found["dtIgnore"] for found in by_area]).astype(bool)
            iou, best = _overlaps(evaluator, image, category, matched[:, 0])
            columns.append(
                (
                    np.full(count, i),
                    np.full(count, c),
                    by_area[0]["dtScores"],
                    [detections[d] for d in by_area[0]["dtIds"]],
                    (matched > 0) & ~ignored,
                    ignored,
                    iou,
                    best,
                )
            )
    shapes = (
        (0,),
        (0,),
        (0,),
        (0,),
        (areas, len(THRESHOLDS), 0),
        (areas, len(THRESHOLDS), 0),
        (areas, 0),
        (0,),
    )
    types = (np.int32, np.int32, np.float64, np.float32, bool, bool, np.float32, np.float32)
    return Found(
        *(
            np.concatenate(
                [np.zeros(shape, kind), *(np.asarray(part, kind) for part in parts)], axis=-1
            )
            for shape, kind, *parts in zip(shapes, types, *columns)
        )
    )


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
        arrays |= {f"{shape}_{name}": value for name, value in vars(found).items()}
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
    columns = {name: file[f"{shape}_{name}"] for name in Found.__dataclass_fields__}
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
