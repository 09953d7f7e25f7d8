"""Candidates for the rule that gives an arm its seed variance, and the simulation that chose one.

    python -m tests.yolact.study.statistics.variance_rules [--studies 20000]

K arms share a baseline, so their differences to it are correlated, and so are their s2. No arm
differs. A rule is admissible where, in every case, at most 5 % of studies have a false alarm and
the 95 % interval of every arm covers at least 93 %, both within twice the error of simulation. Of
the admissible rules the one with the shorter mean interval is to be used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import stats
from scipy.special import polygamma, psi

from yolact.study.statistics.inference import half_width, shared_variance

Array = np.ndarray
Rule = Callable[[Array, int], tuple[Array, Array]]  # s2 (studies, K), seeds -> v, df

ARMS, SEEDS, IMAGES = (4, 5, 8, 11), (3, 5, 10), (0.0, 0.5)
MOST_ALARMS, LEAST_COVERAGE = 0.05, 0.93
_MANY = 1e4  # degrees of freedom that count as infinitely many


def plain(s2: Array, seeds: int) -> tuple[Array, Array]:
    """The paired t test of each arm by itself."""
    return s2, np.full(s2.shape, seeds - 1.0)


def moderated(s2: Array, seeds: int) -> tuple[Array, Array]:
    """Smyth's moderated t: a scaled inverse chi-square prior for the variances, its s0² and d0 from
    the mean and variance of log s2 (Smyth 2004, section 6.2). Where that leaves no spread to
    explain, all arms are pooled. The degrees of freedom are at most those of the pool, as in
    limma."""
    d = seeds - 1.0
    e = np.log(s2) - psi(d / 2) + np.log(d / 2)
    spread = e.var(-1, ddof=1, keepdims=True) - polygamma(1, d / 2)
    d0 = 2 * _inverse_trigamma(spread)
    log_s0 = e.mean(-1, keepdims=True) + psi(d0 / 2) - np.log(d0 / 2)
    pooled = np.log(s2.mean(-1, keepdims=True))
    return _posterior(s2, d, d0, np.where(d0 < _MANY, log_s0, pooled))


def robust(s2: Array, seeds: int) -> tuple[Array, Array]:
    """The robust form (Phipson et al. 2016): log s2 is winsorised, 5 % below and 10 % above, and
    its mean and variance are matched with those of a winsorised log F. An arm that is improbably
    noisy has less prior: down to the d0 under which the noisiest arm is a median one. limma does
    so from ten arms on, and takes moderated() below."""
    d = seeds - 1.0
    z = np.log(s2)
    low, high = np.quantile(z, _TAILS, axis=-1, keepdims=True)
    clipped = np.clip(z, low, high)
    grid, means, variances = _winsorised(d)
    wanted = clipped.var(-1, ddof=1, keepdims=True)
    # variances fall with d0; below those of many degrees of freedom d0 is infinite
    d0 = np.exp(np.interp(wanted, variances[::-1], np.log(grid)[::-1]))
    log_s0 = clipped.mean(-1, keepdims=True) - np.interp(np.log(d0), np.log(grid), means)
    ratio = np.exp(z - log_s0)
    p = stats.f.sf(ratio, d, d0)
    arms = s2.shape[-1]
    expected = (np.argsort(np.argsort(p, -1), -1) + 0.5) / arms
    order = np.argsort(p, -1)
    inlier = np.minimum(1, np.take_along_axis(p / expected, order, -1))
    inlier = np.maximum.accumulate(inlier, -1)  # a noisier arm is never less of an outlier
    weight = np.empty_like(p)
    np.put_along_axis(weight, order, inlier, -1)
    outlier = np.minimum(d0, _median_prior(ratio.max(-1, keepdims=True), d))
    return _posterior(s2, d, weight * d0 + (1 - weight) * outlier, log_s0)


def _posterior(s2: Array, d: float, d0: Array, log_s0: Array) -> tuple[Array, Array]:
    d0 = np.minimum(d0, _MANY)
    v = (d0 * np.exp(log_s0) + d * s2) / (d0 + d)
    return v, np.broadcast_to(np.minimum(d0 + d, d * s2.shape[-1]), v.shape)


_TAILS = (0.05, 0.9)


def _inverse_trigamma(x: Array) -> Array:
    """y with trigamma(y) = x, and half of _MANY where x is not above 0."""
    grid = np.geomspace(1e-3, _MANY / 2, 4000)
    values = polygamma(1, grid)
    found = np.exp(
        np.interp(np.log(np.maximum(x, 1e-300)), np.log(values[::-1]), np.log(grid)[::-1])
    )
    return np.where(x > values[-1], found, _MANY / 2)


@cache
def _winsorised(d: float) -> tuple[Array, Array, Array]:
    """d0, and mean and variance of log F(d, d0) winsorised at _TAILS, for a grid of d0."""
    grid = np.geomspace(0.05, _MANY, 100)
    shares = (np.arange(1000) + 0.5) / 1000
    z = np.log(stats.f.ppf(np.clip(shares, *_TAILS), d, grid[:, None]))
    return grid, z.mean(1), z.var(1)


@cache
def _medians(d: float) -> tuple[Array, Array]:
    grid = np.geomspace(0.01, _MANY, 2000)
    return grid, stats.f.ppf(0.5, d, grid)


def _median_prior(ratio: Array, d: float) -> Array:
    """The d0 under which F(d, d0) has this median; _MANY where the median is below any."""
    grid, medians = _medians(d)
    found = np.exp(np.interp(-ratio, -medians, np.log(grid)))
    return np.where(ratio > medians[-1], found, _MANY)


RULES: dict[str, Rule] = {
    "shrunk to the median": shared_variance,
    "moderated t": moderated,
    "robust moderated t": robust,
    "plain t": plain,
}
CANDIDATES = tuple(RULES)[:3]  # the plain t stands beside


@dataclass(frozen=True)
class Case:
    """noisy: what one arm has four times of. images: I, in units of the variance over seeds of one
    run."""

    noisy: str
    arms: int
    seeds: int
    images: float


@dataclass(frozen=True)
class Rates:
    """alarms: share of studies with any; coverage: of the arm that has least; width: mean half
    width of the intervals."""

    alarms: float
    coverage: float
    width: float


Found = dict[Case, dict[str, Rates]]
# variance of the first arm's runs, of which the others' and the baseline's is 1
NOISY = {"that of all": 1.0, "x 4": 4.0, "x 4, of its difference": 7.0}
CASES = tuple(Case(*values) for values in product(NOISY, ARMS, SEEDS, IMAGES))


def simulate(case: Case, studies: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """D and s2 (studies, K). Runs have variance 1, or that of NOISY. Images shift an arm's
    differences alike at every seed; half of that is the baseline's."""
    arms, seeds = case.arms, case.seeds
    sds = np.ones(arms)
    sds[0] = np.sqrt(NOISY[case.noisy])
    runs = sds[:, None] * rng.standard_normal((studies, arms, seeds))
    d_s = runs - rng.standard_normal((studies, 1, seeds))
    shift = rng.standard_normal((studies, arms)) - rng.standard_normal((studies, 1))
    return d_s.mean(-1) + np.sqrt(case.images / 2) * shift, d_s.var(-1, ddof=1)


def rates(rule: Rule, case: Case, d: Array, s2: Array) -> Rates:
    """Of studies without a difference. Holm finds something where the least p is below level/K."""
    v, df = rule(s2, case.seeds)
    part = v / case.seeds
    half, alarm = (_widths(part, case.images, df, level) for level in (0.05, 0.05 / case.arms))
    alarms = (np.abs(d) > alarm).any(-1).mean()
    return Rates(float(alarms), float((np.abs(d) <= half).mean(0).min()), float(half.mean()))


def _widths(part: Array, images: float, df: Array, level: float) -> Array:
    """half_width(), from tables of few different df: those 2 % apart count as one."""
    steps = np.round(np.log(df) / 0.02)
    out = np.empty(part.shape)
    for step in np.unique(steps):
        at = steps == step
        share = part[at] / (part[at] + images)
        out[at] = np.sqrt(part[at] + images) * np.interp(share, *_table(float(step), level))
    return out


@cache
def _table(step: float, level: float) -> tuple[Array, Array]:
    grid = np.linspace(0, 1, 33)
    return grid, half_width(grid, 1 - grid, np.full(grid.shape, np.exp(0.02 * step)), level)


def run(studies: int, which: Iterable[Case] = CASES) -> Found:
    """All rules judge the same studies."""
    found = {}
    for i, case in enumerate(which):
        d, s2 = simulate(case, studies, np.random.default_rng(i))
        found[case] = {name: rates(rule, case, d, s2) for name, rule in RULES.items()}
    return found


def admissible(rates: Rates, studies: int) -> bool:
    """Within twice the error of simulation."""

    def error(share: float) -> float:
        return 2 * float(np.sqrt(share * (1 - share) / studies))

    return rates.alarms <= MOST_ALARMS + error(
        MOST_ALARMS
    ) and rates.coverage >= LEAST_COVERAGE - error(LEAST_COVERAGE)


def chosen(found: Found, studies: int) -> str:
    """Of the candidates that are admissible in every case, the one with the shortest intervals."""
    fit = [
        name
        for name in CANDIDATES
        if all(admissible(by_rule[name], studies) for by_rule in found.values())
    ]
    return min(fit, key=lambda name: _width(found, name))


def _width(found: Found, name: str) -> float:
    """Mean over cases of the width over that of the plain t."""
    return float(np.mean([r[name].width / r["plain t"].width for r in found.values()]))


def table(found: Found, studies: int) -> str:
    """Per variance of one arm and number of seeds: of each rule the worst case over K and I."""
    lines = [
        f"| one arm's variance | seeds | {' | '.join(RULES)} |",
        "|---|---|" + "---|" * len(RULES),
    ]
    for noisy, seeds in product(NOISY, SEEDS):
        cells = []
        for name in RULES:
            some = [r[name] for c, r in found.items() if (c.noisy, c.seeds) == (noisy, seeds)]
            alarms, coverage = max(r.alarms for r in some), min(r.coverage for r in some)
            cells.append(f"{100 * alarms:.1f}, {100 * coverage:.1f}")
        lines.append(f"| {noisy} | {seeds} | {' | '.join(cells)} |")
    widths = [f"{100 * _width(found, name):.0f}" for name in RULES]
    bad = [sum(not admissible(r[name], studies) for r in found.values()) for name in RULES]
    lines.append(f"| cases not admissible, of {len(found)} | | {' | '.join(map(str, bad))} |")
    lines.append(f"| mean width, of the plain t's | | {' | '.join(widths)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=20_000)
    studies = parser.parse_args().studies
    results = run(studies)
    print(table(results, studies))
    print(f"chosen: {chosen(results, studies)}")
