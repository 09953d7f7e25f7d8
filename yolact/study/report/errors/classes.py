"""AP of each class, with the same resamples of the images as everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from yolact.engine.records import Found, Records
from yolact.study.report.errors.gains import first_weights
from yolact.study.statistics import FinishedRun
from yolact.study.statistics.ap import weighted_ap


def class_ap(records: Records, shape: str, weights: np.ndarray) -> np.ndarray:
    """(B, classes): AP in points under B weightings of the images (B, images); NaN where a class
    has no instance that counts."""
    columns = [
        weighted_ap(of_class(records, shape, label), shape, weights).values[:, 0]
        for label in range(len(records.category_ids))
    ]
    return 100 * np.stack(columns, 1)


def of_class(records: Records, shape: str, label: int) -> Records:
    """The instances and detections of one class, of all areas alone."""
    found, truth = records.found[shape], records.truth
    own, there = found.label == label, truth.label == label
    columns = {
        one.name: _rows(one.name, value, own)
        for one in fields(Found)
        if (value := getattr(found, one.name)) is not None
    }
    ignored = truth.ignored[:, there].copy()
    ignored[1:] = True
    kept = replace(
        truth,
        image=truth.image[there],
        label=truth.label[there],
        area=truth.area[there],
        ignored=ignored,
    )
    return replace(records, truth=kept, found={shape: Found(**columns)})


def _rows(name: str, values: np.ndarray, own: np.ndarray) -> np.ndarray:
    return values[own] if name == "box" else values[..., own]  # box alone has detections first


def class_ap_of_runs(
    runs: Sequence[FinishedRun], shape: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each class: (AP of each run (S,), the same on resamples (B, S))."""
    found = []
    for run in runs:
        records = run.records()
        found.append(class_ap(records, shape, first_weights(records)))
    values = np.stack(found, -1)  # (1 + B, classes, S)
    return [(values[0, k], values[1:, k]) for k in range(values.shape[1])]
