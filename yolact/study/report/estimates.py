"""Means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolact.study.statistics import FinishedRun
from yolact.study.statistics.inference import crossed, half_width


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in AP points, and the half width of its 95 % interval over seeds and
    images; NaN where there is none. least, most: what the quantity can be, beyond which no end of
    the interval lies."""

    mean: float
    half: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def low(self) -> float:
        return max(self.mean - self.half, self.least)

    @property
    def high(self) -> float:
        return min(self.mean + self.half, self.most)


def mean_over_seeds(
    runs: Sequence[FinishedRun], metric: str, base: Sequence[FinishedRun] = ()
) -> Estimate:
    """The mean of a metric over the runs of one arm, or of its difference to as many paired runs,
    and its interval."""
    values = np.array([run.resampled.point[metric] for run in runs])
    draws = np.stack([run.resampled.draws[metric] for run in runs], -1)
    if base:
        values = values - [run.resampled.point[metric] for run in base]
        draws = draws - np.stack([run.resampled.draws[metric] for run in base], -1)
    return estimate(values, draws, least=-100 if base else 0, most=100)


def estimate(
    values: np.ndarray, draws: np.ndarray, *, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """From the values of S runs, and the same on B resamples (B, S)."""
    mean, s2, image = crossed(values, draws)
    half = width(float(s2), float(image), len(values), len(values) - 1)
    return Estimate(float(mean), half, least, most)


def over_seeds(values: Sequence[float], *, least: float = 0, most: float = 100) -> Estimate:
    """The mean of what is known of whole runs alone, with an interval over seeds; none of one."""
    found = np.array(values, float)
    if len(found) < 2:
        return Estimate(float(found.mean()), math.nan, least, most)
    half = width(float(found.var(ddof=1)), 0.0, len(found), len(found) - 1)
    return Estimate(float(found.mean()), half, least, most)


def width(s2: float, image: float, seeds: int, df: float, level: float = 0.05) -> float:
    """Half of an interval from a variance over seeds and one over images; one seed has the image
    part only."""
    seed_part, df = (s2 / seeds, df) if seeds > 1 else (0.0, 1)
    return float(half_width(np.array([seed_part]), np.array([image]), np.array([df]), level)[0])
