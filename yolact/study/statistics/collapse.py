"""Runs that collapsed: far below the median of their arm, by the spread of all runs of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from yolact.study.statistics.finished import FinishedRun

LEAST_RUNS = 10
LEAST_SDS = 3.0  # robust standard deviations below the median
FALSE_WARNINGS = 0.05  # share of studies without a collapse that are warned all the same
_NORMAL = 1.4826  # the standard deviation of a normal over its median absolute deviation
_DRAWS = 10_000


@dataclass(frozen=True)
class Spread:
    """The runs of one arm, in AP points. worst: the least, of worst_seed; below: how many robust
    standard deviations that lies below the median, None where fewer than LEAST_RUNS runs or no
    spread tell. limit: from how many on a run counts as collapsed."""

    median: float
    worst: float
    worst_seed: int
    below: float | None
    limit: float
    collapsed: tuple[int, ...] = ()


def spreads(arms: Mapping[str, Mapping[int, FinishedRun]], metric: str) -> dict[str, Spread]:
    """{label: Spread} of the arms that have runs.

    The robust standard deviation is 1.4826 times the median absolute residual of all runs of all
    arms, each to its arm's median. The limit is what 5 % of studies of this shape exceed without a
    collapse, and at least 3: of many runs one lies 3 below by chance, and few runs do not tell the
    deviation well.
    """
    values = {
        label: np.array([run.resampled.point[metric] for run in runs.values()])
        for label, runs in arms.items()
        if runs
    }
    off = {label: own - np.median(own) for label, own in values.items()}
    sizes = tuple(sorted(map(len, values.values())))
    sd = (
        _NORMAL * float(np.median(np.abs(np.concatenate([*off.values(), np.zeros(0)]))))
        if off
        else 0
    )
    told = sum(sizes) >= LEAST_RUNS and sd > 0
    limit = collapse_limit(sizes) if told else LEAST_SDS
    found = {}
    for label, own in values.items():
        seeds, worst = list(arms[label]), int(own.argmin())
        below = -off[label] / sd if told else None
        found[label] = Spread(
            float(np.median(own)),
            float(own[worst]),
            seeds[worst],
            None if below is None else float(below[worst]),
            limit,
            () if below is None else tuple(s for s, b in zip(seeds, below) if b > limit),
        )
    return found


@lru_cache(maxsize=64)
def collapse_limit(sizes: tuple[int, ...]) -> float:
    """The limit for arms of so many runs each, from _DRAWS studies of normal runs."""
    rng = np.random.default_rng(0)
    off = []
    for size in sizes:
        runs = rng.standard_normal((_DRAWS, size))
        off.append(runs - np.median(runs, axis=1, keepdims=True))
    residuals = np.concatenate(off, 1)
    sd = _NORMAL * np.median(np.abs(residuals), axis=1)
    return max(LEAST_SDS, float(np.quantile(-residuals.min(1) / sd, 1 - FALSE_WARNINGS)))


def about_collapses(found: Mapping[str, Spread]) -> Sequence[str]:
    """A sentence for each arm with a collapsed run."""
    return [
        f"{label} may have collapsed at seed {', '.join(map(str, one.collapsed))}: more than "
        f"{one.limit:.1f} robust standard deviations below its median of {one.median:.2f}; its "
        f"worst seed, {one.worst_seed}, has {one.worst:.2f}"
        for label, one in found.items()
        if one.collapsed
    ]
