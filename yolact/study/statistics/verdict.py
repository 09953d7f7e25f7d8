"""Verdicts on K arms against one baseline: Holm over the differences and over the equivalence
tests, and planned looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolact.study.statistics.inference import Array, shared_variance, tail, two_sided_p

LEVEL, MARGIN = 0.05, 0.5  # of the whole family and study; in AP points
LEAST_SEEDS = 3
BETTER, WORSE, EQUIVALENT, UNDECIDED, IDENTICAL, NONE = (
    "better",
    "worse",
    "equivalent",
    "undecided",
    "identical runs",
    "no verdict",
)


@dataclass(frozen=True)
class Judgement:
    """What K arms' numbers say; arrays (..., K).

    v, df         seed variance and its degrees of freedom, after sharing
    p             of no difference; p_holm adjusted for the number of arms
    p_equivalent  of a true difference beyond the margin; p_equivalent_holm adjusted
    verdict       BETTER, WORSE, EQUIVALENT, UNDECIDED, IDENTICAL or, below three seeds, NONE
    small         better or worse, yet the (1 - 2 level) interval lies inside the margin
    """

    v: Array
    df: Array
    p: Array
    p_holm: Array
    p_equivalent: Array
    p_equivalent_holm: Array
    verdict: Array
    small: Array


def judge(
    difference: Array,
    s2: Array,
    image: Array,
    seeds: Array | int,
    *,
    arms: int | None = None,
    margin: float = MARGIN,
    level: float = LEVEL,
) -> Judgement:
    """Verdicts from D, s2 and I of K arms, each (..., K), of `seeds` seeds (K,).

    arms: how many the study has, with those that failed and have no numbers here; they make Holm's
    steps smaller all the same.
    """
    difference, s2, image = (np.asarray(a, float) for a in (difference, s2, image))
    seeds = np.broadcast_to(np.asarray(seeds), difference.shape[-1:])
    enough = seeds >= LEAST_SEEDS
    several = seeds > 1  # of one seed there is the image part only
    v, df = np.zeros(difference.shape), np.ones(difference.shape)
    v[..., several], df[..., several] = shared_variance(s2[..., several], seeds[several])
    p = two_sided_p(difference, v / seeds, image, df)
    p_equivalent = tail(margin - np.abs(difference), v / seeds, image, df)
    still = several & (s2 == 0) & (image == 0)
    p, p_equivalent = np.where(still, 1, p), np.where(still, 1, p_equivalent)
    p_holm, p_equivalent_holm = (holm(np.where(enough, q, 1), arms) for q in (p, p_equivalent))
    verdict = np.where(p_equivalent_holm < level, EQUIVALENT, UNDECIDED).astype("<U16")
    found = p_holm < level
    verdict[found] = np.where(difference > 0, BETTER, WORSE)[found]
    verdict[still & (difference == 0)] = IDENTICAL
    verdict[np.broadcast_to(~enough, verdict.shape)] = NONE
    return Judgement(
        v,
        df,
        p,
        p_holm,
        p_equivalent,
        p_equivalent_holm,
        verdict,
        found & enough & (p_equivalent < level),
    )


def holm(p: Array, arms: int | None = None) -> Array:
    """Holm's step-down adjusted p of K hypotheses (..., K), of a family of `arms` (at least K)
    hypotheses."""
    p = np.asarray(p, float)
    arms = max(arms or 0, p.shape[-1])
    order = np.argsort(p, axis=-1, kind="stable")
    steps = (arms - np.arange(p.shape[-1])) * np.take_along_axis(p, order, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(steps, axis=-1)), -1)
    return adjusted


def spending(looks: Sequence[int], level: float = LEVEL) -> list[float]:
    """The level of each look, in shares 2 : 3 : 5 : 8 ... that add up to `level`: [3, 5, 10] gets
    .01, .015, .025.

    A union bound over the looks, so it holds whatever the dependence between them. ValueError for
    looks that do not ascend.
    """
    if list(looks) != sorted(set(looks)) or (looks and looks[0] < 1):
        raise ValueError(
            f"looks {list(looks)}: give numbers of seeds that ascend, such as [3, 5, 10]"
        )
    if len(looks) == 1:
        return [level]
    shares = [2.0, 3.0]
    while len(shares) < len(looks):
        shares.append(shares[-1] + shares[-2])
    return [level * share / sum(shares) for share in shares[: len(looks)]]
