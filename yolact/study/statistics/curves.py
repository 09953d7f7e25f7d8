"""Precision against recall, and errors per instance with intervals, of the runs of one arm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolact.engine.records import Records
from yolact.study.statistics.ap import RECALLS
from yolact.study.statistics.errors import WRONG, judge_detections
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.resample import RESAMPLES, image_weights


def precision_at_recalls(records: Records, shape: str, threshold: int = 0) -> np.ndarray:
    """(101,): COCO's interpolated precision, the mean over the classes that have ground truth, at
    the IoU threshold of an index of THRESHOLDS. Its mean is AP at this threshold."""
    found, truth = records.found[shape], records.truth
    right, counted = found.right[0, threshold], ~found.ignored[0, threshold]
    rows = []
    for label in range(len(records.category_ids)):
        total = int((~truth.ignored[0] & (truth.label == label)).sum())
        if not total:
            continue
        own = np.flatnonzero((found.label == label) & counted)
        own = own[np.argsort(-found.score[own], kind="stable")]
        true = np.cumsum(right[own])
        precision = true / np.arange(1, len(own) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(true / total, RECALLS, side="left")
        rows.append(np.append(precision, 0)[np.minimum(at, len(precision))])
    return np.mean(rows, 0) if rows else np.full(len(RECALLS), np.nan)


def errors_of_runs(
    runs: Sequence[FinishedRun], shape: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{kind of error: (per 100 instances of each run (S,), the same on resamples (B, S))}."""
    weights: np.ndarray | None = None
    points: dict[str, list[float]] = {kind: [] for kind in WRONG}
    draws: dict[str, list[np.ndarray]] = {kind: [] for kind in WRONG}
    for run in runs:
        records = run.records()
        if weights is None:
            weights = image_weights(records.image_ids, RESAMPLES)
        counts = judge_detections(records, shape).counts
        there = ~records.truth.ignored[0]
        instances = np.bincount(records.truth.image[there], minlength=len(records.image_ids))
        with np.errstate(divide="ignore", invalid="ignore"):
            for kind in WRONG:
                points[kind].append(float(100 * counts[kind].sum() / instances.sum()))
                draws[kind].append(100 * (weights @ counts[kind]) / (weights @ instances))
    return {kind: (np.array(points[kind]), np.stack(draws[kind], -1)) for kind in WRONG}
