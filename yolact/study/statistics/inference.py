"""A difference between two arms over S seeds and n images: its variance, interval and p. Every
function takes arrays of studies.

Seeds and images are crossed: all seeds of both arms see the same images. With D_s the difference of
AP at seed s, D its mean,

    Var(D) = s2/S + I        s2  sample variance of D_s over seeds; the interaction of seed and
                             image is in it
                             I   covariance of D_s and D_s' over resampled images: what more seeds
                                 do not reduce

and the error of D is distributed as sqrt(v/S) T_df + sqrt(I) Z (Behrens-Fisher), v the seed
variance on df degrees of freedom.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2
from scipy.stats import t as student

Array = np.ndarray
_QUANTILES = 200
SHARED_FROM = 4  # arms
VARIANCE_RULE = "paired t; from 4 arms on, quiet variances shrunk to the median"


def crossed(differences: Array, draws: Array) -> tuple[Array, Array, Array]:
    """D, s2 and I of differences (..., S) and the same on B resamples, draws (..., B, S). Resamples
    with NaN are left out.

    One seed has no s2 (NaN); its I is the variance over images of that one pair of checkpoints.
    """
    seeds = differences.shape[-1]
    there = ~np.isnan(draws).any(-1)
    if not there.all():
        draws = np.where(there[..., None], draws, np.nan)
    total = _variance(draws.sum(-1))  # the sum of all entries of the covariance matrix C (S, S)
    if seeds == 1:
        return differences[..., 0], np.full(differences.shape[:-1], np.nan), total
    diagonal = sum(_variance(draws[..., s]) for s in range(seeds))
    return (
        differences.mean(-1),
        differences.var(-1, ddof=1),
        np.maximum(0, (total - diagonal) / (seeds * (seeds - 1))),
    )


def _variance(values: Array) -> Array:
    """Sample variance along the last axis, without NaN; NaN for fewer than two values."""
    if not np.isnan(values).any():
        return values.var(-1, ddof=1)
    there = ~np.isnan(values)
    count = there.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(there, values, 0).sum(-1) / count
        return np.where(
            count > 1,
            (np.where(there, values - mean[..., None], 0) ** 2).sum(-1) / (count - 1),
            np.nan,
        )


def shared_variance(s2: Array, seeds: Array | int) -> tuple[Array, Array]:
    """Seed variances v and degrees of freedom df of K arms from their s2 (..., K), each of `seeds`
    seeds (K,). This is VARIANCE_RULE, by which all verdicts are given.

    From four arms on a quiet arm borrows from the others: m is the typical variance, estimated from
    the median of s2; an arm with s2 >= m keeps its own, one below takes (s2 + m) / 2 on twice its
    degrees of freedom. A noisy arm never lends its noise away.
    """
    s2 = np.asarray(s2, float)
    df = np.broadcast_to(np.asarray(seeds, float) - 1, s2.shape)
    if s2.shape[-1] < SHARED_FROM:
        return s2, df
    typical = np.median(s2 * df / chi2.ppf(0.5, df), axis=-1, keepdims=True)
    quiet = s2 < typical
    return np.where(quiet, (s2 + typical) / 2, s2), np.where(quiet, 2 * df, df)


def tail(distance: Array, seed_part: Array, image_part: Array, df: Array) -> Array:
    """P(E > distance) of the error E = sqrt(seed_part) T_df + sqrt(image_part) Z: the mean of a
    normal tail over the chi2_df that divides seed_part = v/S, at 200 midpoint quantiles. Without
    any variance it is 0 above 0, and a half at 0."""
    distance, seed_part, image_part, df = np.broadcast_arrays(
        *(np.asarray(a, float) for a in (distance, seed_part, image_part, df))
    )
    out = np.empty(distance.shape)
    for value in np.unique(df):
        at = df == value
        scale = np.sqrt(
            seed_part[at][:, None] * value / _midpoints(float(value)) + image_part[at][:, None]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(distance[at][:, None] == 0, 0, distance[at][:, None] / scale)
        out[at] = ndtr(-ratio).mean(1)
    return out


def two_sided_p(difference: Array, seed_part: Array, image_part: Array, df: Array) -> Array:
    """p of the hypothesis that the true difference is 0."""
    return 2 * tail(np.abs(difference), seed_part, image_part, df)


def half_width(seed_part: Array, image_part: Array, df: Array, level: float = 0.05) -> Array:
    """The interval of confidence 1 - level is D +- this: where two_sided_p equals level.

    The tail is convex above 0, so Newton's steps from 0 approach it from below, without a bracket.
    """
    arrays = np.broadcast_arrays(*(np.asarray(a, float) for a in (seed_part, image_part, df)))
    shape = arrays[0].shape
    seed_part, image_part, df = (a.ravel() for a in arrays)
    width = np.zeros(seed_part.shape)
    scale = np.sqrt(seed_part + image_part)
    active = scale > 0
    for _ in range(100):
        if not active.any():
            break
        part = tuple(a[active] for a in (width, seed_part, image_part, df))
        step = (2 * tail(*part) - level) / (2 * _density(*part))
        width[active] += step
        active[active] = step > 1e-12 * scale[active]
    return width.reshape(shape)


def _density(distance: Array, seed_part: Array, image_part: Array, df: Array) -> Array:
    points = np.stack([_midpoints(float(value)) for value in df])
    scale = np.sqrt(seed_part[:, None] * df[:, None] / points + image_part[:, None])
    return (np.exp(-0.5 * (distance[:, None] / scale) ** 2) / scale).mean(1) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=256)
def _midpoints(df: float) -> Array:
    return chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, df)


def critical(seed_part: Array, image_part: Array | float, df: int, level: float) -> Array:
    """half_width() of very many studies of one df, interpolated: over sqrt(v/S + I) it depends on
    the share of v/S alone."""
    grid, widths = _critical_table(int(df), float(level))
    variance = np.asarray(seed_part) + image_part
    share = np.divide(seed_part, variance, out=np.zeros(np.shape(variance)), where=variance > 0)
    return np.sqrt(variance) * np.interp(share, grid, widths)


@lru_cache(maxsize=1024)
def _critical_table(df: int, level: float) -> tuple[Array, Array]:
    grid = np.linspace(0, 1, 129)
    return grid, half_width(grid, 1 - grid, np.full(grid.shape, df), level)


def paired_t_p(differences: Array) -> float | None:
    """p of the plain paired t test of D_s: on these images alone, each arm by itself. None below
    two seeds, or where the seeds do not differ."""
    differences = np.asarray(differences, float)
    if len(differences) < 2 or not (sd := differences.std(ddof=1)) > 0:
        return None
    t = abs(differences.mean()) * np.sqrt(len(differences)) / sd
    return float(2 * student.sf(t, len(differences) - 1))


def sign_flip_p(differences: Array) -> float | None:
    """The exact p of the mean of D_s among all 2^S choices of signs; None beyond 40 seeds. Its
    smallest value is 2^(1 - S).

    Every choice is one of the first half of the seeds and one of the second, so pairs are counted
    instead of listed.
    """
    differences = np.asarray(differences, float)
    if len(differences) > 40:
        return None
    reached = abs(differences.sum()) * (1 - 1e-12) - 1e-12
    left, right = (_signed_sums(half) for half in np.array_split(differences, 2))
    right = np.sort(right)
    above = len(right) - np.searchsorted(right, reached - left, side="left")
    below = np.searchsorted(right, -reached - left, side="right")
    return 1.0 if reached <= 0 else float((above.sum() + below.sum()) / 2.0 ** len(differences))


def _signed_sums(values: Array) -> Array:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
