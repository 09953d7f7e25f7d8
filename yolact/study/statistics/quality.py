"""What AP does not tell: the errors at the best score threshold (oLRP), and whether scores say how
good masks are (calibration)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolact.engine.records import Records

TAU = 0.5
BINS = 10


@dataclass(frozen=True)
class LRP:
    """Optimal localisation-recall-precision error (Oksuz et al., One Metric to Measure Them All,
    TPAMI 2021), tau = .5; lower is better.

    olrp            min over score thresholds of (sum over right detections of (1 - IoU) / (1 - tau)
                    + wrong + missed) / (right + wrong + missed)
    localisation    mean 1 - IoU of the right detections at that threshold
    false_positive  share of wrong detections there
    false_negative  share of missed instances there
    per_class       (C,5): these four columns, and the threshold, the score of the last detection
                    kept. A class without ground truth is NaN. One without a right detection has
                    olrp and false_negative 1, and NaN elsewhere

    The figures are means over the classes, without NaN.
    """

    olrp: float
    localisation: float
    false_positive: float
    false_negative: float
    per_class: np.ndarray


def olrp(records: Records, shape: str, area: int = 0) -> LRP:
    """oLRP of one shape, with the instances of one range of areas (an index of records.AREAS)."""
    found, truth = records.found[shape], records.truth
    rows = np.full((len(records.category_ids), 5), np.nan)
    totals = np.bincount(truth.label[~truth.ignored[area]], minlength=len(rows))
    order = np.lexsort((-found.score, found.label))  # equal scores stay in the order of images
    order = order[~found.ignored[area, 0, order]]
    bounds = np.searchsorted(found.label[order], np.arange(len(rows) + 1))
    for label in np.flatnonzero(totals):
        chosen = order[bounds[label] : bounds[label + 1]]
        rows[label] = _class_lrp(
            found.right[area, 0, chosen],
            found.iou[area, chosen].astype(float),
            found.score[chosen],
            totals[label],
        )
    with np.errstate(invalid="ignore"):
        means = [
            float(np.nanmean(column)) if (~np.isnan(column)).any() else float("nan")
            for column in rows.T
        ]
    best, localisation, false_positive, false_negative, _ = means
    return LRP(best, localisation, false_positive, false_negative, rows)


def _class_lrp(
    right: np.ndarray, iou: np.ndarray, score: np.ndarray, total: int
) -> tuple[float, float, float, float, float]:
    """Every prefix of the detections by falling score is a threshold; the first minimum counts."""
    if not right.any():
        return 1.0, np.nan, np.nan, 1.0, np.nan
    true, wrong = np.cumsum(right), np.cumsum(~right)
    off = np.cumsum(np.where(right, 1 - iou, 0))
    error = (off / (1 - TAU) + wrong + total - true) / (wrong + total)
    k = int(np.argmin(error))
    if not true[k]:
        return float(error[k]), np.nan, np.nan, 1.0, np.nan
    return (
        float(error[k]),
        off[k] / true[k],
        wrong[k] / (true[k] + wrong[k]),
        1 - true[k] / total,
        score[k],
    )


@dataclass(frozen=True)
class Calibration:
    """Reliability of scores against IoU: detections in ten bins of score.

    count, score, iou (10,): detections, their mean score and the mean of their highest IoU with an
    instance of their class; NaN in empty bins. error: mean |score - iou| of the bins, weighted by
    count. bias: mean score - mean IoU, above 0 = overconfident.
    """

    count: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    error: float
    bias: float


def calibration(records: Records, shape: str = "mask") -> Calibration:
    """Calibration of one shape's scores. Detections of what is ignored (crowds) are left out."""
    found = records.found[shape]
    counted = ~found.ignored[0, 0]
    score, iou = found.score[counted], found.best_iou[counted].astype(float)
    bins = np.clip((score * BINS).astype(int), 0, BINS - 1)
    return _calibration(*(np.bincount(bins, values, BINS) for values in (None, score, iou)))


def pooled(parts: Sequence[Calibration]) -> Calibration:
    """Calibration of the detections of several runs together."""
    counts = np.array([part.count for part in parts])
    sums = (
        np.nansum([part.count * values for part, values in zip(parts, columns)], axis=0)
        for columns in ([part.score for part in parts], [part.iou for part in parts])
    )
    return _calibration(counts.sum(0), *sums)


def _calibration(count: np.ndarray, score: np.ndarray, iou: np.ndarray) -> Calibration:
    """Of the number of detections in each bin, and the sums of their scores and IoUs."""
    total = count.sum()
    with np.errstate(invalid="ignore"):
        return Calibration(
            count,
            score / count,
            iou / count,
            float(np.abs(score - iou).sum() / total),
            float((score - iou).sum() / total),
        )
