"""COCO AP of made-up detections: crowds, a class without ground truth, tied scores, images without
detections."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np

from yolact.engine.metrics import IouType, coco_metrics
from yolact.testing.reference_cases import Case

SETS = ("plain", "crowd", "nogtclass", "ties", "nodet")


def cases(root: Path) -> list[Case]:
    folder = Path(root) / "ap"
    return [
        Case(f"ap/{name}/{iou_type}", partial(worst_difference, folder, name, iou_type), 1e-12)
        for name in SETS
        for iou_type in ("bbox", "segm")
        if (folder / "ap_results.json").exists()
        and (folder / f"ap_{name}_det_{iou_type}.json").exists()
    ]


def worst_difference(folder: Path, name: str, iou_type: IouType) -> float:
    """Largest difference to pycocotools' own figures: its 12 numbers, AP per threshold, AP per
    class and threshold."""
    expected = json.loads((folder / "ap_results.json").read_text())[name]["pycocotools"][iou_type]
    found = coco_metrics(
        folder / f"ap_{name}_gt.json",
        json.loads((folder / f"ap_{name}_det_{iou_type}.json").read_text()),
        iou_type,
    )
    stats = [
        found.ap,
        found.ap50,
        found.ap75,
        found.ap_small,
        found.ap_medium,
        found.ap_large,
        found.ar_1,
        found.ar_10,
        found.ar_max,
        found.ar_small,
        found.ar_medium,
        found.ar_large,
    ]
    pairs = [
        (expected["stats"], stats),
        (expected["ap_per_iou"], list(found.per_threshold.values())),
        (expected["ap_per_class_per_iou"], list(found.per_class_thresholds.values())),
    ]
    return max(
        float(np.abs(_undefined_as_minus_one(a) - _undefined_as_minus_one(b)).max())
        for a, b in pairs
    )


def _undefined_as_minus_one(values) -> np.ndarray:
    """pycocotools writes -1 where there is no ground truth; NaN becomes -1 too, so that the two
    sides must agree on where."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(array), -1.0, array)
