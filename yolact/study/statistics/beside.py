"""What stands beside AP in every table: errors, calibration and boundaries, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from yolact.run_files import BOUNDARY
from yolact.study.folder.reading import read_object
from yolact.study.statistics.finished import FinishedRun


def quality_of(run: FinishedRun, shape: str = "mask") -> dict[str, float]:
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
        **(read_object(run.folder / BOUNDARY) if shape == "mask" else {}),
    }


def mean_quality(runs: Iterable[FinishedRun], shape: str = "mask") -> dict[str, float]:
    """Means of quality_of() over runs, of what all of them have."""
    rows = [found for run in runs if (found := quality_of(run, shape))]
    names = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}
