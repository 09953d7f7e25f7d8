"""The rule that gives v and df was chosen by simulation, and is the one in use."""

import numpy as np
import pytest
from scipy import stats

from tests.yolact.study.statistics import variance_rules
from tests.yolact.study.statistics.variance_rules import CASES, chosen, moderated, robust, run
from yolact.study.statistics.inference import paired_t_p, shared_variance

STUDIES = 1000
SOME = [case for case in CASES if case.arms in (4, 11) and case.seeds == 5 and case.images == 0]


def test_the_rule_in_use_is_the_one_that_the_simulation_chooses():
    found = run(STUDIES, SOME)
    assert variance_rules.RULES[chosen(found, STUDIES)] is shared_variance
    noisy = [by_rule for case, by_rule in found.items() if case.noisy != "that of all"]
    for name in ("moderated t", "robust moderated t"):  # an arm of more noise passes for quiet
        assert max(by_rule[name].coverage for by_rule in noisy) < 0.92
        assert min(by_rule[name].alarms for by_rule in noisy) > 0.055
    for by_rule in found.values():
        assert by_rule["plain t"].coverage == pytest.approx(0.95, abs=0.02)
        assert by_rule["moderated t"].width < by_rule["shrunk to the median"].width


@pytest.mark.parametrize("rule", [moderated, robust])
def test_the_candidates_find_the_prior_of_many_arms(rule):
    """Variances drawn from a prior of 4 degrees of freedom around 3."""
    rng = np.random.default_rng(0)
    true = 3 * 4 / rng.chisquare(4, 20_000)
    s2 = true * rng.chisquare(5, true.shape) / 5
    v, df = rule(s2[None], 6)
    assert np.median(df) == pytest.approx(9, abs=0.5)
    assert v[0] == pytest.approx((4 * 3 + 5 * s2) / 9, rel=0.05)


def test_the_candidates_are_limmas():
    """squeezeVar of limma on 4 degrees of freedom, as its port pylimma 0.2.0 prints it."""
    v, df = moderated(np.array([[0.21, 1.3, 0.9, 2.2, 0.55, 7.4, 1.1, 0.8]]), 5)
    expected = [0.7755, 1.2291, 1.0627, 1.6036, 0.917, 3.7674, 1.1459, 1.0211]
    assert v[0] == pytest.approx(expected, abs=1e-4) and df[0] == pytest.approx(4 + 5.612644)
    v, df = moderated(np.array([[0.1, 3.0, 0.9, 14.0]]), 5)
    assert v[0] == pytest.approx([0.2245, 2.4609, 0.8414, 10.9438], abs=1e-4)
    assert df[0] == pytest.approx(4 + 1.1868848)
    v, df = moderated(np.array([[1.0, 1.1, 0.9, 1.05, 1.2]]), 5)
    assert v[0] == pytest.approx(1.05, rel=1e-3) and df[0] == pytest.approx(20)
    s2 = np.random.default_rng(3).chisquare(4, 40) / 4
    s2[7] = 60
    v, df = robust(s2[None], 5)
    expected = [1.3568, 1.1222, 1.0506, 0.9888, 1.0271, 1.1035, 1.0622, 56.0935, 1.1287]
    assert v[0, :9] == pytest.approx(expected, rel=0.015)  # its d0 of an outlier is approximate
    assert df[0, :7] == pytest.approx(4 + 27.2605, rel=1e-3) and 4 < df[0, 7] < 4.4


def test_the_robust_form_gives_an_outlier_little_prior():
    rng = np.random.default_rng(1)
    s2 = rng.chisquare(4, 40) / 4
    s2[7] = 400.0
    (v,), (df,) = robust(s2[None], 5)
    (plain,), (pooled,) = moderated(s2[None], 5)
    assert v[7] > 350 and df[7] < 5 and df[8] > 20
    assert plain[7] < 350 and pooled[8] < 10


def test_the_paired_t_is_scipys():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 6))
    assert paired_t_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)
    assert paired_t_p(np.array([1.0])) is None and paired_t_p(np.ones(4)) is None
