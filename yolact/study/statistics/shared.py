"""Mask IoU of the instances that two arms both find: how good masks are where detection does not
decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolact.engine.records import Found, Records
from yolact.study.statistics.comparison import Comparison, Interval
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.inference import crossed, half_width
from yolact.study.statistics.resample import RESAMPLES, image_weights


@dataclass(frozen=True)
class SharedIoU:
    """Means over seeds, in percent. instances: how many both arms find; iou, baseline_iou: their
    mean IoU in each arm. interval: of the difference, over seeds and images as for AP."""

    instances: float
    iou: float
    baseline_iou: float
    interval: Interval


def shared_iou(
    comparison: Comparison,
    arms: Mapping[str, Mapping[int, FinishedRun]],
    shape: str = "mask",
    resamples: int = RESAMPLES,
) -> SharedIoU | None:
    """Of the instances that an arm and the baseline both find at the same seed, over the seeds of
    the comparison.

    An instance is found where a detection of any score is matched to it at IoU .50, as COCO
    matches. None without seeds, without such an instance, or where records are too old to say which
    instance was matched.
    """
    rows = []
    for seed in comparison.seeds:
        ours, theirs = (arms[name][seed] for name in (comparison.arm, comparison.baseline))
        sums = _by_image(ours.records(), theirs.records(), shape)
        if sums is None or not sums[0].any():
            return None
        rows.append(sums)
    if not rows:
        return None
    counts, own, base = (np.stack(column) for column in zip(*rows))  # (S, images)
    weights = image_weights(theirs.records().image_ids, resamples)
    with np.errstate(invalid="ignore"):  # a resample without such an instance is left out
        draws = ((own - base) @ weights.T / (counts @ weights.T)).T  # (B, S)
    by_seed = (own - base).sum(1) / counts.sum(1)
    d, s2, image = crossed(by_seed, draws)
    variance = s2 / len(by_seed) if len(by_seed) > 1 else np.zeros(())
    half = float(half_width(variance, image, np.array(max(1, len(by_seed) - 1))))
    return SharedIoU(
        float(counts.sum(1).mean()),
        float((own.sum(1) / counts.sum(1)).mean()),
        float((base.sum(1) / counts.sum(1)).mean()),
        Interval(float(d), float(d) - half, float(d) + half),
    )


def _by_image(ours: Records, theirs: Records, shape: str) -> tuple[np.ndarray, ...] | None:
    """(images,) each: instances that both find, and their IoU in percent, summed, of each."""
    found = [records.found[shape] for records in (ours, theirs) if shape in records.found]
    if len(found) < 2 or any(one.matched is None for one in found):
        return None
    one, two = (_iou_of_instances(part, len(ours.truth.image)) for part in found)
    both = (one > 0) & (two > 0) & ~ours.truth.ignored[0]
    image, images = ours.truth.image[both], len(ours.image_ids)
    return (
        np.bincount(image, minlength=images).astype(float),
        np.bincount(image, 100 * one[both], images),
        np.bincount(image, 100 * two[both], images),
    )


def _iou_of_instances(found: Found, instances: int) -> np.ndarray:
    """(G,): IoU of each instance with what is matched to it at IoU .50, 0 where nothing is."""
    assert found.matched is not None
    there = found.matched[0] >= 0
    iou = np.zeros(instances)
    iou[found.matched[0, there]] = found.iou[0, there]
    return iou
