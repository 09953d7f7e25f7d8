"""Which images a loss makes better or worse, paired over seeds, and how many would seem so by
chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolact.engine.records import Records
from yolact.study.statistics.errors import kept_detections
from yolact.study.statistics.family import SIGN_FLIP_FROM
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.resample import image_weights

ENUMERATED = 12  # seeds up to which all flips are gone through
DRAWN = 4096  # flips beyond


@dataclass(frozen=True)
class ImageChanges:
    """by_seed (S, images): what the arm's score of an image is above the baseline's at each seed.

    better, worse  images that change to that side at every seed
    by_chance      how many do to either side under sign flips of the seeds, on average; p: the
                   share of flips with as many or more
    correlation    over the resampled images, of the mean change with the difference of AP; NaN
                   where one of them does not vary
    """

    by_seed: np.ndarray
    better: int
    worse: int
    by_chance: float
    p: float
    correlation: float

    @property
    def mean(self) -> np.ndarray:
        """(images,)"""
        return self.by_seed.mean(0)

    @property
    def agree(self) -> np.ndarray:
        """(images,): seeds whose change has the sign of the mean."""
        return (np.sign(self.by_seed) == np.sign(self.mean)).sum(0) * (self.mean != 0)


TO_LOOK_AT = f"Below {SIGN_FLIP_FROM} seeds these are images to look at, not findings."


def image_scores(records: Records, shape: str) -> np.ndarray:
    """(images,): F1 of each image, the mean over the IoU thresholds, of the detections that the
    run's oLRP keeps. 1 where nothing is there and nothing is found."""
    found, images = records.found[shape], len(records.image_ids)
    kept = kept_detections(records, shape)
    there = np.bincount(records.truth.image[~records.truth.ignored[0]], minlength=images)
    scores = []
    for right, ignored in zip(found.right[0], found.ignored[0]):
        true = np.bincount(found.image[kept & right], minlength=images)
        false = np.bincount(found.image[kept & ~right & ~ignored], minlength=images)
        total = true + false + there
        scores.append(np.where(total > 0, 2 * true / np.maximum(total, 1), 1.0))
    return np.mean(scores, 0)


def image_changes(
    arm: Sequence[FinishedRun], base: Sequence[FinishedRun], shape: str, metric: str
) -> ImageChanges:
    """The changes of an arm's runs against the baseline's at the same seeds, given in one order."""
    pairs = [(one.records(), two.records()) for one, two in zip(arm, base)]
    by_seed = np.stack([image_scores(a, shape) - image_scores(b, shape) for a, b in pairs])
    draws = np.mean(
        [a.resampled.draws[metric] - b.resampled.draws[metric] for a, b in zip(arm, base)], 0
    )
    weights = image_weights(pairs[0][0].image_ids, len(draws))
    drawn = weights @ by_seed.mean(0)
    there = ~np.isnan(draws)
    varies = there.sum() > 1 and np.ptp(drawn[there]) > 0 and np.ptp(draws[there]) > 0
    correlation = float(np.corrcoef(drawn[there], draws[there])[0, 1]) if varies else float("nan")
    counts = np.array([_unanimous(sign[:, None] * by_seed) for sign in sign_flips(len(by_seed))])
    seen = _unanimous(by_seed)
    return ImageChanges(
        by_seed,
        int((by_seed > 0).all(0).sum()),
        int((by_seed < 0).all(0).sum()),
        float(counts.mean()),
        float((counts >= seen).mean()),
        correlation,
    )


def sign_flips(seeds: int) -> np.ndarray:
    """(flips, seeds) of +1 and -1: all of them, or a fixed draw where they are too many."""
    if seeds <= ENUMERATED:
        return 1 - 2 * (np.arange(2**seeds)[:, None] >> np.arange(seeds) & 1)
    return np.random.default_rng(0).choice([-1, 1], (DRAWN, seeds))


def _unanimous(by_seed: np.ndarray) -> int:
    return int(((by_seed > 0).all(0) | (by_seed < 0).all(0)).sum())
