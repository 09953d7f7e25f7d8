"""Known answers of intervals, p, sharing, Holm and verdicts, worked out by hand or by scipy's own
tests."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from yolact.study.statistics.inference import (
    critical,
    crossed,
    half_width,
    shared_variance,
    sign_flip_p,
    tail,
    two_sided_p,
)
from yolact.study.statistics.power import plan_power, seeds_needed
from yolact.study.statistics.verdict import (
    BETTER,
    EQUIVALENT,
    IDENTICAL,
    NONE,
    UNDECIDED,
    WORSE,
    holm,
    judge,
    spending,
)


@pytest.mark.parametrize("df", [2, 4, 9, 18])
def test_seeds_alone_are_students_t_and_images_alone_normal(df):
    assert half_width(1.0, 0.0, df) == pytest.approx(stats.t.ppf(0.975, df), rel=3e-3)
    assert half_width(0.0, 4.0, df, 0.1) == pytest.approx(2 * stats.norm.ppf(0.95), rel=1e-9)
    assert two_sided_p(-1.7, 1.0, 0.0, df) == pytest.approx(2 * stats.t.sf(1.7, df), rel=0.02)


def test_p_is_the_mean_over_midpoint_quantiles():
    c = stats.chi2.ppf((np.arange(200) + 0.5) / 200, 4)
    expected = np.mean(2 * stats.norm.cdf(-1.3 / np.sqrt(0.8 / 5 * 4 / c + 0.1)))
    assert two_sided_p(1.3, 0.8 / 5, 0.1, 4) == pytest.approx(expected, rel=1e-12)
    assert two_sided_p(-1.3, 0.8 / 5, 0.1, 4) == pytest.approx(expected, rel=1e-12)
    assert tail(-1.3, 0.8 / 5, 0.1, 4) == pytest.approx(1 - expected / 2, rel=1e-12)


def test_error_is_the_sum_of_t_and_normal():
    rng = np.random.default_rng(0)
    error = np.sqrt(0.3) * rng.standard_t(4, 400_000) + np.sqrt(0.5) * rng.standard_normal(400_000)
    width = half_width(0.3, 0.5, 4)
    assert (np.abs(error) > width).mean() == pytest.approx(0.05, abs=0.0015)


def test_the_interval_inverts_p():
    rng = np.random.default_rng(1)
    seed_part, image, df = (
        rng.exponential(size=50),
        rng.exponential(size=50),
        rng.integers(1, 20, 50),
    )
    for level in (0.05, 0.001):
        width = half_width(seed_part, image, df, level)
        assert two_sided_p(width, seed_part, image, df) == pytest.approx(level, rel=1e-6)
    assert critical(seed_part, image, 4, 0.01) == pytest.approx(
        half_width(seed_part, image, np.full(50, 4), 0.01), rel=1e-3
    )
    assert half_width(0.0, 0.0, 4) == 0


def test_parts_of_the_variance_by_hand():
    # the last resample is left out
    draws = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0], [np.nan, 1.0]])
    d, s2, image = crossed(np.array([1.0, 3.0]), draws)
    assert (d, s2) == (2, 2) and image == pytest.approx(np.cov(draws[:3].T)[0, 1])
    d, s2, image = crossed(np.array([1.0]), draws[:, :1])
    assert np.isnan(s2) and image == pytest.approx(4)
    opposite = np.array([[1.0, -1], [-1, 1], [2, -2]])
    assert crossed(np.array([0.0, 0]), opposite)[2] == 0  # a negative covariance counts as none
    three = np.random.default_rng(0).normal(size=(200, 3))
    off = np.cov(three.T)[~np.eye(3, dtype=bool)].mean()
    assert crossed(np.zeros(3), three)[2] == pytest.approx(max(0, off))


def test_quiet_arms_borrow_and_noisy_ones_keep_their_own():
    s2 = np.array([0.1, 1.0, 2.0, 9.0])
    typical = 1.5 * 4 / stats.chi2.ppf(0.5, 4)
    v, df = shared_variance(s2, 5)
    assert v == pytest.approx([(0.1 + typical) / 2, (1 + typical) / 2, 2, 9]) and df.tolist() == [
        8,
        8,
        4,
        4,
    ]
    assert 1 < typical < 2
    v, df = shared_variance(s2[:3], 5)
    assert v.tolist() == s2[:3].tolist() and df.tolist() == [4, 4, 4]


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04], arms=5) == pytest.approx([0.05, 0.16])  # three arms failed
    assert holm([0.5, 0.9]) == pytest.approx([1, 1]) and holm([[0.01], [0.2]]).tolist() == [
        [0.01],
        [0.2],
    ]


def test_spending():
    assert spending([3, 5, 10]) == pytest.approx([0.01, 0.015, 0.025]) and spending([5]) == [0.05]
    for count in range(2, 7):
        levels = spending(range(3, 3 + count))
        assert sum(levels) == pytest.approx(0.05) and levels == sorted(levels)
    for looks in ([5, 3], [3, 3], [0, 3]):
        with pytest.raises(ValueError, match="looks"):
            spending(looks)


@pytest.mark.parametrize("count", [1, 5, 6, 9])
def test_sign_flips_against_every_choice(count):
    values = np.random.default_rng(count).normal(0.3, 1, count)
    every = [
        abs(np.dot(signs, values)) >= abs(values.sum()) - 1e-9
        for signs in product((-1, 1), repeat=count)
    ]
    assert sign_flip_p(values) == pytest.approx(np.mean(every))
    assert sign_flip_p(np.arange(1.0, count + 1)) == 2.0 ** (1 - count)
    assert sign_flip_p(np.zeros(count)) == 1 and sign_flip_p(np.ones(41)) is None


def one(d, s2=0.01, image=0.0001, seeds=5, **options):
    judged = judge(np.array([d]), np.array([s2]), np.array([image]), seeds, **options)
    return str(judged.verdict[0]), bool(judged.small[0])


def test_verdicts():
    assert one(2.0) == (BETTER, False) and one(-2.0) == (WORSE, False)
    assert one(0.3) == (BETTER, True)  # certainly there, certainly smaller than the margin
    assert (
        one(0.02) == (EQUIVALENT, False)
        and one(0.02, s2=4.0) == (UNDECIDED, False)
        and one(0.02, image=4.0) == (UNDECIDED, False)
    )
    assert one(0.02, margin=0.01) == (UNDECIDED, False)
    assert one(0.0, 0.0, 0.0) == (IDENTICAL, False) and one(1.0, 0.0, 0.0) == (UNDECIDED, False)
    assert one(2.0, seeds=2)[0] == NONE and one(2.0, np.nan, seeds=1)[0] == NONE
    assert one(0.3, seeds=3) == (BETTER, True) and one(0.15, seeds=3)[0] == EQUIVALENT
    assert (
        one(0.3, seeds=3, level=0.01)[0] == UNDECIDED and one(0.3, seeds=3, arms=2)[0] == UNDECIDED
    )


def test_equivalence_is_the_90_percent_interval_inside_the_margin():
    for d in np.linspace(0, 0.6, 25):
        judged = judge(np.array([d]), np.array([0.1]), np.array([0.01]), 5)
        width = half_width(0.1 / 5, 0.01, 4, 0.1)
        assert (judged.p_equivalent[0] < 0.05) == (d + width < 0.5)
        assert judged.small[0] == (d + width < 0.5 and judged.p[0] < 0.05)


def test_arms_of_two_seeds_take_part_in_the_family_without_a_verdict():
    judged = judge([2.0, 2.0, 2.0], [0.01, 0.01, np.nan], [1e-4] * 3, [5, 2, 1])
    assert judged.verdict.tolist() == [BETTER, NONE, NONE] and judged.p_holm[0] == pytest.approx(
        3 * judged.p[0]
    )


def test_seeds_that_would_decide():
    near = seeds_needed(0.8, 0.5, 0.5, 4, 0.001, 5, images=200)
    assert 5 < near.seeds < 20 and f"about {near.seeds} seeds" in str(near)
    family = seeds_needed(0.8, 0.5, 0.5, 4, 0.001, 5, images=200, arms=8)
    assert near.seeds < family.seeds <= 50
    hopeless = seeds_needed(0.3, 0.5, 0.5, 4, 0.09, 5, images=200)
    assert (
        hopeless.seeds is None
        and hopeless.floor == pytest.approx(1.96 * 0.3)
        and hopeless.images == 648
    )
    assert (
        "seeds will not decide" in str(hopeless)
        and "+-0.59" in str(hopeless)
        and "648 images" in str(hopeless)
    )
    assert seeds_needed(0.3, 0.5, 0.5, 49, 0.09, 50, images=200).seeds is None
    for image in (0.0, 0.001):  # it is the seeds
        noisy = seeds_needed(0.3, 25.0, 25.0, 4, image, 5, images=200)
        assert noisy.seeds is None and str(noisy).startswith("more than 50 seeds would be needed")


def test_a_plan():
    plan = plan_power(5, arms=1, seed_sd=0.5, floor=0.0)
    # the textbook power of a t test
    noncentral = stats.nct.sf(stats.t.ppf(0.975, 4), 4, 0.5 / (0.5 / np.sqrt(5)))
    assert plan.power == pytest.approx(noncentral, abs=0.02)
    assert plan_power(
        5, arms=1, seed_sd=0.5, floor=0.0, margin=plan.smallest
    ).power == pytest.approx(0.8, abs=0.005)
    assert (
        plan_power(10, arms=1, seed_sd=0.5, floor=0.0).smallest
        < plan.smallest
        < plan_power(5, arms=6, seed_sd=0.5, floor=0.0).smallest
    )
    assert plan.reachable and not plan_power(50, arms=1, seed_sd=0.01, floor=0.7).reachable
    assert "cannot be reached" in str(
        plan_power(50, arms=1, seed_sd=0.01, floor=0.7)
    ) and "80 % power" in str(plan)
    once, looks = (
        plan_power(10, arms=1, seed_sd=0.5, floor=0.1),
        plan_power([3, 5, 10], arms=1, seed_sd=0.5, floor=0.1),
    )
    assert once.smallest < looks.smallest < plan_power(5, arms=1, seed_sd=0.5, floor=0.1).smallest
    with pytest.raises(ValueError, match="at least 3 seeds"):
        plan_power(2, arms=1, seed_sd=0.5, floor=0.1)
