"""AP of a set of images counted any number of times, exactly, from per-image records.

Counting image i w_i times is what pycocotools gives on a set that really holds w_i copies of it,
one after the other. That holds for equal scores too, which it ranks by image, and within an image
as they stand. Precision and recall are cumulative sums of w over the detections by falling score.
Precision has its peaks where a right detection ends a run of wrong ones, so both are needed at
right detections only; the wrong ones between two of these enter as one sum.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from yolact.engine.metrics import THRESHOLDS
from yolact.engine.records import AREAS, Found, Records, Truth

RECALLS = np.linspace(0, 1, 101)  # as pycocotools has them: 0.01 * k, rounded
_AT_ONCE = 512  # weightings at a time, so that what is worked on stays in the processor's cache
_TINY = np.spacing(1)
MOST_COPIES = 64  # of an image with equal scores; heavier ones rank these together


@dataclass(frozen=True)
class WeightedAP:
    """values (B, metrics): AP as fractions, NaN where no image that is counted holds ground truth;
    columns are metric_names().

    dropped: share of (class, weighting) pairs without ground truth under the weighting, among the
    classes that have some. As in pycocotools they are left out of the mean over classes.
    """

    values: np.ndarray
    dropped: float


def metric_names(shape: str) -> list[str]:
    """mask_ap, mask_ap50, ..., mask_ap95, mask_ap_small, mask_ap_medium, mask_ap_large (or
    box_...)."""
    return [
        f"{shape}_{name}"
        for name in ("ap", *(f"ap{t}" for t in THRESHOLDS), *(f"ap_{area}" for area in AREAS[1:]))
    ]


def weighted_ap(
    records: Records, shape: str, weights: np.ndarray, *, workers: int | None = None
) -> WeightedAP:
    """AP of one shape under B weightings. weights (B, images): how often each of records.image_ids
    counts, whole numbers."""
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != len(records.image_ids):
        raise ValueError(
            f"weights need shape (B, {len(records.image_ids)}), one column an image; these have "
            f"{weights.shape}"
        )
    found, truth = records.found[shape], records.truth
    columns = np.ascontiguousarray(weights.T, dtype=np.float32)  # (images, B)
    # counts are sums of small whole numbers, exact in float32 below 2^24; processing in float32
    # halves the traffic
    heaviest = columns.max(initial=0) * max(len(found.image), len(truth.image))
    if heaviest >= 2**24:
        columns = columns.astype(np.float64)
    copies = int(columns.max(initial=0))
    classes = _Classes(found, truth, len(records.category_ids), len(records.image_ids), copies)
    blocks = [
        np.ascontiguousarray(columns[:, start : start + _AT_ONCE])
        for start in range(0, columns.shape[1], _AT_ONCE)
    ]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda block: _mean_over_classes(classes, block), blocks))
    return WeightedAP(
        np.concatenate([values for values, _ in parts]),
        float(np.mean(np.concatenate([share for _, share in parts]))),
    )


class _Classes:
    """The detections of each class by falling score, and sparse counts of its ground truth: (areas,
    classes, images). copies: how often an image is counted at most."""

    def __init__(self, found: Found, truth: Truth, classes: int, images: int, copies: int):
        # stable: equal scores stay in the order of images
        order = np.lexsort((-found.score, found.label))
        order, self.image, self.tied = _rank_copies(found, order, images, copies)
        self.right, self.wrong = found.right[..., order], ~(found.right | found.ignored)[..., order]
        self.bounds = np.searchsorted(found.label[order], np.arange(classes + 1))
        self.truth = []
        for ignored in truth.ignored:
            label, image = truth.label[~ignored], truth.image[~ignored]
            self.truth.append(
                sparse.csr_array(
                    (np.ones(len(label), np.float32), (label, image)), shape=(classes, images)
                )
            )
        self.present = np.array([counts.sum(1) > 0 for counts in self.truth])  # (areas, classes)

    def weigh(self, columns: np.ndarray) -> np.ndarray:
        """Weights (images, b) with a row more for each copy of an image that holds equal scores: 1
        where it is counted that often."""
        images, copies = self.tied
        if not len(images):
            return columns
        there = columns[images][:, None] > np.arange(copies)[:, None]
        return np.concatenate([columns, there.reshape(-1, columns.shape[1]).astype(columns.dtype)])

    def rows(self, label: int) -> slice:
        return slice(*self.bounds[label : label + 2])


def _rank_copies(
    found: Found, order: np.ndarray, images: int, copies: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, int]]:
    """Detections by rank (D,), the row of weights of each, and (the images that hold equal scores
    of one class, how many copies of each have a row). Equal scores a, b of an image that is there
    twice rank a, b, a, b, not a, a, b, b."""
    rows, image = np.arange(len(order)), found.image[order]
    keys = np.stack([found.label[order], image, found.score[order]])
    again = np.zeros(len(order), bool)
    again[1:] = (keys[:, 1:] == keys[:, :-1]).all(0)
    in_tie = again.copy()
    in_tie[:-1] |= again[1:]
    if copies > MOST_COPIES or not in_tie.any():
        return order, image, (np.zeros(0, int), 0)
    first = np.maximum.accumulate(np.where(again, 0, rows))  # of its tie
    times = np.where(in_tie, copies, 1)
    row = np.repeat(rows, times)
    copy = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
    row, copy = (each[np.lexsort((row, copy, first[row]))] for each in (row, copy))
    tied = np.unique(image[in_tie])
    own = images + np.searchsorted(tied, image[row]) * copies + copy
    return order[row], np.where(in_tie[row], own, image[row]), (tied, copies)


def _mean_over_classes(classes: _Classes, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """columns (images, b) -> AP (b, metrics), share of classes dropped (b,)."""
    sums = np.zeros((len(AREAS), len(THRESHOLDS), columns.shape[1]))
    counted = np.zeros((len(AREAS), columns.shape[1]), int)
    weighed = classes.weigh(columns)
    for a in range(len(AREAS)):
        totals = classes.truth[a] @ columns  # (classes, b)
        counted[a] = (totals > 0).sum(0)
        for label in np.flatnonzero(classes.present[a]):
            rows = classes.rows(int(label))
            image, total = classes.image[rows], totals[label].astype(np.float64)
            for t in range(len(THRESHOLDS)):
                sums[a, t] += _average_precision(
                    classes.right[a, t, rows], classes.wrong[a, t, rows], image, total, weighed
                )
    with np.errstate(invalid="ignore"):
        by_threshold = sums / counted[:, None]
    # every class has all thresholds, so the order of the two means does not matter
    means = by_threshold.mean(1)
    return np.vstack([means[:1], by_threshold[0], means[1:]]).T, 1 - counted[0] / max(
        1, classes.present[0].sum()
    )


def _average_precision(
    right: np.ndarray, wrong: np.ndarray, image: np.ndarray, total: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """101-point AP of one class at one threshold under b weightings; 0 where total, the weighted
    ground truth (b,), is 0.

    right, wrong, image (D,): the detections by falling score; columns (images, b): the weights.
    """
    places = np.flatnonzero(right)
    if not len(places):
        return np.zeros(len(total))
    before = np.flatnonzero(wrong[: places[-1]])
    segments = sparse.csr_array(
        (np.ones(len(before), columns.dtype), (np.searchsorted(places, before), image[before])),
        shape=(len(places), len(columns)),
    )
    true = columns[image[places]]  # (n, b): row k counts right detection k
    # (n, b): row k counts the wrong ones between right detection k - 1 and k
    false = segments @ columns
    for k in range(1, len(places)):  # numpy's own accumulate down the columns is ten times slower
        true[k] += true[k - 1]
        false[k] += false[k - 1]
    false += true
    precision = true / (false.astype(np.float64) + _TINY)
    for k in range(len(places) - 2, -1, -1):
        np.maximum(precision[k], precision[k + 1], out=precision[k])
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = true / total
    # reached (n, b): how many of the 101 recalls are at most this one. The rounded guess is settled
    # by pycocotools' own comparison
    guess = (np.nan_to_num(recall) * 100 + 1e-9).astype(np.intp)
    reached = guess + (RECALLS[guess] <= recall)
    reached[1:] -= reached[:-1].copy()
    return np.einsum("kb,kb->b", precision, reached) / len(RECALLS)
