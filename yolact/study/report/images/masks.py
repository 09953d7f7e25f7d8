"""The masks of a run's detections: of its last validation, or the compact file that kept runs have.

The compact file (results/detections.npz) holds the run lengths of the detections that the run's
oLRP keeps, by their rows in the per-image records, which have class, score, box and matches. A mask
takes some 50 bytes: 13 KB a run on 300 images of one object each.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.results import read_results
from yolact.engine.records import Records, write_npz
from yolact.run_files import DETECTIONS, MASK_DETECTIONS
from yolact.study.statistics import FinishedRun
from yolact.study.statistics.errors import kept_detections

Masks = Mapping[int, dict[str, Any]]  # {row of the records' masks: COCO's run lengths}


def has_masks(run: FinishedRun) -> bool:
    """Whether the masks of a run's detections are there."""
    if run.path.suffix == ".json":
        return "mask" in run.records().found
    return any((run.folder / name).is_file() for name in (DETECTIONS, MASK_DETECTIONS))


def masks_of_run(run: FinishedRun, records: Records) -> Masks:
    """Those of the detections that the run's oLRP keeps. ValueError where they are not there, or
    are of another evaluation than the records."""
    if run.path.suffix == ".json":  # COCO results
        return _of_results(run.path, records)
    if (run.folder / DETECTIONS).is_file():
        return _read_compact(run.folder / DETECTIONS)
    return _of_results(run.folder / MASK_DETECTIONS, records)


def write_masks(path: Path, masks: Masks) -> None:
    """The compact file, whole or not at all."""
    counts = [mask["counts"].encode("ascii") for mask in masks.values()]
    write_npz(
        path,
        rows=np.array(list(masks), np.int32),
        sizes=np.array([mask["size"] for mask in masks.values()], np.int32).reshape(-1, 2),
        ends=np.cumsum([len(one) for one in counts], dtype=np.int64),
        counts=np.frombuffer(b"".join(counts), np.uint8),
    )


def _read_compact(path: Path) -> Masks:
    try:
        with np.load(path, allow_pickle=False) as file:
            rows, sizes, ends = (file[name].tolist() for name in ("rows", "sizes", "ends"))
            text = file["counts"].tobytes().decode("ascii")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path} is no file of kept detections, or cut off: remove it") from None
    starts = [0, *ends[:-1]]
    return {
        row: {"size": size, "counts": text[start:end]}
        for row, size, start, end in zip(rows, sizes, starts, ends)
    }


def _of_results(path: Path, records: Records) -> Masks:
    """From COCO results: within an image and class, both go by falling score."""
    found = records.found["mask"]
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for entry in read_results(path):
        groups[entry.get("image_id"), entry.get("category_id")].append(entry)
    for entries in groups.values():
        entries.sort(key=lambda entry: -entry["score"])
    group = found.label.astype(np.int64) * len(records.image_ids) + found.image
    first = np.searchsorted(group, group)
    masks: dict[int, dict[str, Any]] = {}
    for row in np.flatnonzero(kept_detections(records, "mask")).tolist():
        key = records.image_ids[found.image[row]], records.category_ids[found.label[row]]
        place, entries = row - int(first[row]), groups.get(key, [])
        if place >= len(entries) or entries[place]["score"] != found.score[row]:
            raise ValueError(f"{path} is of another evaluation than the records beside it")
        masks[row] = entries[place]["segmentation"]
    return masks
