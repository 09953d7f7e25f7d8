"""Rates over 2,000 simulated studies of known truth: false alarms, coverage, power, false
equivalence, looks, seeds still needed."""

import numpy as np
import pytest
from scipy import stats

from tests.yolact.study.statistics.crossed import simulate
from yolact.study.statistics.inference import crossed, shared_variance, two_sided_p
from yolact.study.statistics.power import plan_power, seeds_needed
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, UNDECIDED, WORSE, judge, spending

STUDIES = 2000
SEEDS = (3, 5, 10)
# image_sd; the second has I = 1.28, floor 2.2
NULLS = {"same distribution": 0.0, "equal mean AP, images differ": 8.0}


def wrong(verdict):
    return np.isin(verdict, (BETTER, WORSE))


def coverage(d, s2, image, seeds, truth=0.0):
    v, df = shared_variance(s2, seeds)
    return (two_sided_p(d - truth, v / seeds, image, df) >= 0.05).mean(0)


@pytest.mark.parametrize("image_sd", NULLS.values(), ids=NULLS)
@pytest.mark.parametrize("seeds", SEEDS)
def test_one_arm(seeds, image_sd):
    d, s2, image = crossed(*simulate(STUDIES, seeds, image_sd=image_sd, rng_seed=seeds))
    assert wrong(judge(d, s2, image, seeds).verdict).mean() <= 0.06
    assert 0.935 <= coverage(d, s2, image, seeds)[0] <= 0.985
    assert image.mean() == pytest.approx(2 * image_sd**2 / 100, rel=0.1, abs=0.02)


@pytest.mark.parametrize(
    "mistake, seeds, image_sd",
    [
        ("images drawn per seed", 5, 8.0),
        ("without I", 5, 8.0),
        ("z for t", 3, 0.0),
        ("z for t", 5, 0.0),
    ],
)
def test_the_coverage_test_sees_a_mistake(mistake, seeds, image_sd):
    d, s2, image = crossed(
        *simulate(
            STUDIES,
            seeds,
            image_sd=image_sd,
            rng_seed=seeds,
            draw_per_seed=mistake == "images drawn per seed",
        )
    )
    image = 0 * image if mistake == "without I" else image
    df = 10_000 if mistake == "z for t" else seeds - 1
    assert (two_sided_p(d, s2 / seeds, image, df) >= 0.05).mean() < 0.9


def coverage_over_starts(seeds, residual, start_sd, per_seed, studies=STUDIES):
    """How often the interval of one arm holds the difference over all starts. residual: sd over
    seeds of the difference from one start, all of it."""
    noise = 1.0
    sd = np.sqrt((residual**2 - 2 * noise**2 / 100) / 2)
    found = simulate(
        studies,
        seeds,
        seed_sd=[sd],
        baseline_sd=sd,
        noise=noise,
        start_sd=start_sd,
        start_per_seed=per_seed,
        draws=100,
        rng_seed=seeds,
    )
    return coverage(*crossed(*found), seeds)[0]


@pytest.mark.parametrize(
    "seeds, residual, start_sd, expected",
    [
        (5, 0.59, 0.25, 0.886),
        (5, 0.59, 0.5, 0.735),
        (5, 0.45, 0.25, 0.843),
        (5, 0.45, 0.5, 0.642),
        (10, 0.59, 0.25, 0.791),
        (10, 0.59, 0.5, 0.551),
    ],
)
def test_one_start_leaves_out_a_part_of_the_variance(seeds, residual, start_sd, expected):
    """As docs/reference/statistics.md has it. Beside the simulation, the closed form without
    images: P(|T_df| < t / sqrt(1 + S start_sd^2 / residual^2)), t the quantile of the interval."""
    reach = stats.t.ppf(0.975, seeds - 1) / np.sqrt(1 + seeds * (start_sd / residual) ** 2)
    assert 1 - 2 * stats.t.sf(reach, seeds - 1) == pytest.approx(expected, abs=0.0006)
    shared = coverage_over_starts(seeds, residual, start_sd, False)
    assert shared == pytest.approx(expected, abs=0.025)
    assert 0.935 <= coverage_over_starts(seeds, residual, start_sd, True) <= 0.965
    assert 0.935 <= coverage_over_starts(seeds, residual, 0.0, False) <= 0.965


def cases(arms):
    few = np.ones(arms)
    one, three = few.copy(), few.copy()
    one[0], three[:3] = 4, 3
    lognormal = np.exp(np.random.default_rng(arms).normal(0, 0.5, arms))
    return {
        "equal": (few, 1),
        "lognormal .5": (lognormal, 1),
        "one arm x4": (one, 1),
        "three arms x3": (three, 1),
        "baseline x3": (few, 3),
    }


@pytest.mark.parametrize("case", cases(4))
@pytest.mark.parametrize("arms", [4, 8])
@pytest.mark.parametrize("seeds", SEEDS)
def test_families_of_arms(seeds, arms, case):
    sds, baseline = cases(arms)[case]
    d, s2, image = crossed(
        *simulate(
            STUDIES,
            seeds,
            truth=np.zeros(arms),
            seed_sd=sds,
            baseline_sd=baseline,
            noise=3.0,
            image_sd=3.0,
            images=50,
            draws=100,
            rng_seed=100 * arms + seeds,
        )
    )
    assert wrong(judge(d, s2, image, seeds).verdict).any(1).mean() <= 0.06
    assert coverage(d, s2, image, seeds).min() >= 0.92


@pytest.mark.parametrize(
    "seeds, truth, image_sd, arms",
    [(3, 4.0, 4.0, 1), (5, 2.0, 0.0, 1), (5, 3.0, 6.0, 3), (10, 1.6, 2.0, 2)],
)
def test_power_is_what_the_plan_says(seeds, truth, image_sd, arms):
    noise = 3.0
    planned = plan_power(
        seeds,
        arms=arms,
        seed_sd=float(np.sqrt(2 + 2 * noise**2 / 100)),
        floor=1.96 * np.sqrt(2 * image_sd**2 / 100),
        margin=truth,
    )
    d, s2, image = crossed(
        *simulate(
            STUDIES,
            seeds,
            truth=[truth] + [0] * (arms - 1),
            image_sd=image_sd,
            noise=noise,
            rng_seed=seeds,
        )
    )
    found = (judge(d, s2, image, seeds, margin=truth).verdict[:, 0] == BETTER).mean()
    assert 0.15 < planned.power < 0.97 and found == pytest.approx(planned.power, abs=0.05)


@pytest.mark.parametrize("image_sd", [0.0, 3.0])
@pytest.mark.parametrize("truth", [4.0, -4.0])
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_difference_as_large_as_the_margin_is_not_equivalent(seeds, truth, image_sd):
    d, s2, image = crossed(
        *simulate(STUDIES, seeds, truth=[truth], image_sd=image_sd, rng_seed=seeds)
    )
    assert (judge(d, s2, image, seeds, margin=4.0).verdict == EQUIVALENT).mean() <= 0.06


def test_no_difference_is_found_equivalent_as_often_as_the_plan_says():
    planned = plan_power(
        5, arms=1, seed_sd=float(np.sqrt(2 + 0.5)), floor=1.96 * np.sqrt(0.08), margin=2.5
    )
    d, s2, image = crossed(*simulate(STUDIES, 5, image_sd=2.0, rng_seed=5))
    found = (judge(d, s2, image, 5, margin=2.5).verdict == EQUIVALENT).mean()
    assert (
        planned.reachable
        and 0.5 < found < 0.95
        and found == pytest.approx(planned.equivalent, abs=0.05)
    )


@pytest.mark.parametrize("arms, image_sd", [(1, 0.0), (1, 8.0), (4, 3.0)])
def test_looks_together_keep_the_level(arms, image_sd):
    differences, draws = simulate(
        STUDIES, 10, truth=np.zeros(arms), image_sd=image_sd, noise=3.0, draws=100, rng_seed=arms
    )
    ever = np.zeros(STUDIES, bool)
    for seeds, level in zip(SEEDS, spending(SEEDS)):
        ever |= wrong(
            judge(
                *crossed(differences[..., :seeds], draws[..., :seeds]), seeds, level=level
            ).verdict
        ).any(1)
    assert ever.mean() <= 0.06


@pytest.mark.parametrize("arms, truth", [(1, 0.0), (1, 0.75), (1, 1.1), (4, 0.75)])  # in margins
@pytest.mark.parametrize("seeds", SEEDS)
def test_seeds_still_needed_are_enough(seeds, arms, truth):
    """Of the undecided studies that are told a number of seeds, at least 70 % are decided with that
    many."""
    margin, studies = {3: 3.0, 5: 2.0, 10: 1.3}[seeds], 300 if arms == 1 else 200
    differences, draws = simulate(
        studies,
        50,
        truth=[truth * margin] * arms,
        image_sd=0.7,
        noise=3.0,
        images=50,
        draws=100,
        rng_seed=seeds,
    )
    d, s2, image = crossed(differences[..., :seeds], draws[..., :seeds])
    judged = judge(d, s2, image, seeds, margin=margin)
    decided, told = 0, 0
    for i in np.flatnonzero(judged.verdict[:, 0] == UNDECIDED):
        needed = seeds_needed(
            d[i, 0],
            s2[i, 0],
            judged.v[i, 0],
            judged.df[i, 0],
            image[i, 0],
            seeds,
            images=50,
            arms=arms,
            margin=margin,
        )
        if needed.seeds is not None:
            told += 1
            more = crossed(differences[i, ..., : needed.seeds], draws[i, ..., : needed.seeds])
            decided += judge(*more, needed.seeds, margin=margin).verdict[0] != UNDECIDED
    assert told > 60 and decided / told >= 0.7
