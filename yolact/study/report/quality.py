"""What a report says beside AP: oLRP with its parts, calibration, boundary AP, FPS of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from yolact.engine.evaluate import MASK_FILE
from yolact.files import write_whole
from yolact.study.report.data import BENCHMARK, Report
from yolact.study.statistics.boundary import boundary_of_run
from yolact.study.statistics.conditions import Trained, read_json

BOUNDARY = "results/boundary.json"  # what report.py --boundary leaves in a run's folder
TITLES = {
    "olrp": "oLRP",
    "olrp_localisation": "localisation",
    "olrp_false_positives": "false positives",
    "olrp_false_negatives": "false negatives",
    "calibration_error": "calibration error",
    "score_minus_iou": "score − IoU",
    "boundary_ap": "boundary AP",
}


def quality_of(run: Trained, shape: str = "mask") -> dict[str, float]:
    """oLRP and its parts in percent, calibration of the scores, and boundary AP where it was
    measured. Empty without records."""
    if shape not in run.quality:
        return {}
    error, scores = run.quality[shape]
    return {
        "olrp": 100 * error.olrp,
        "olrp_localisation": 100 * error.localisation,
        "olrp_false_positives": 100 * error.false_positive,
        "olrp_false_negatives": 100 * error.false_negative,
        "calibration_error": scores.error,
        "score_minus_iou": scores.bias,
        **(read_json(run.folder / BOUNDARY) if shape == "mask" else {}),
    }


def quality(runs: Iterable[Trained], shape: str = "mask") -> dict[str, float]:
    """Means of quality_of() over runs, of what all of them have."""
    rows = [found for run in runs if (found := quality_of(run, shape))]
    names = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def frames_per_second(run: Trained) -> float | None:
    """As eval.py --benchmark measured it, None where it did not."""
    return read_json(run.folder / BENCHMARK).get("fps")


def measure_boundary(report: Report) -> None:
    """Boundary AP of every run that has its mask results, left in its folder: kept runs have no
    masks."""
    for _, _, run in tqdm(report.runs, desc="boundary AP", unit="run", leave=False, disable=None):
        if (run.folder / "results" / MASK_FILE).is_file():
            write_whole(run.folder / BOUNDARY, json.dumps(boundary_of_run(run.run)) + "\n")
