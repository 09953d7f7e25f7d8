"""Runs that collapse: warnings in studies of known truth, and what verdicts make of them."""

import numpy as np
import pytest

from tests.yolact.study.statistics.test_comparison import runs
from yolact.study.statistics.collapse import about_collapses, collapse_limit, spreads
from yolact.study.statistics.verdict import BETTER, WORSE, judge

SHAPES = [(2, 5), (2, 10), (2, 20), (5, 3), (5, 10), (12, 5)]  # arms with the baseline, seeds
STUDIES = 4000


def below(values):
    """(studies, arms, seeds) robust standard deviations below the arm's median, worked out anew."""
    off = np.median(values, 2, keepdims=True) - values
    return off / (np.median(np.abs(off).reshape(len(off), -1), 1) * 1.4826)[:, None, None]


@pytest.mark.parametrize("arms, seeds", SHAPES)
def test_without_a_collapse_one_study_in_twenty_is_warned(arms, seeds):
    values = np.random.default_rng(arms * seeds).standard_normal((STUDIES, arms, seeds))
    worst, limit = below(values).max((1, 2)), collapse_limit((seeds,) * arms)
    assert (worst > limit).mean() == pytest.approx(0.05, abs=0.011) and limit > 3
    assert (worst > 3).mean() > 0.12, "3 alone would warn of many"


@pytest.mark.parametrize("drop", [3, 10, 30])
@pytest.mark.parametrize("arms, seeds", SHAPES)
def test_collapsing_seeds_of_all_arms_make_no_false_alarms(arms, seeds, drop):
    """15 % of all runs lose `drop` standard deviations."""
    rng = np.random.default_rng(arms * seeds + drop)
    gone = rng.random((STUDIES, arms, seeds)) < 0.15
    values = rng.standard_normal(gone.shape) - drop * gone
    d = values[:, 1:] - values[:, :1]
    found = judge(d.mean(2), d.var(2, ddof=1), np.zeros(d.shape[:2]), seeds).verdict
    assert np.isin(found, (BETTER, WORSE)).any(1).mean() <= 0.06
    if drop == 30 and seeds >= 5:
        warned = below(values) > collapse_limit((seeds,) * arms)
        assert warned[gone].mean() > 0.85 and warned[~gone].mean() < 0.01


APS = [30.0, 30.4, 29.7, 30.1, 30.3]


def test_a_collapsed_run_is_named():
    arms = {"base": runs(APS), "arm": runs([31.0, 31.2, 12.0, 31.5, 30.9]), "none": {}}
    found = spreads(arms, "mask_ap")
    assert list(found) == ["base", "arm"] and found["base"].collapsed == ()
    arm = found["arm"]
    assert (arm.median, arm.worst, arm.worst_seed, arm.collapsed) == (31.0, 12.0, 2, (2,))
    residuals = [0.1, 0.3, 0.4, 0.0, 0.2, 0.0, 0.2, 19.0, 0.5, 0.1]
    assert arm.below == pytest.approx(19 / (1.4826 * np.median(residuals)))
    assert arm.limit == collapse_limit((5, 5)) == found["base"].limit
    (sentence,) = about_collapses(found)
    assert "arm may have collapsed at seed 2" in sentence and "median of 31.00" in sentence
    assert "its worst seed, 2, has 12.00" in sentence


def test_fewer_than_ten_runs_and_copies_do_not_tell():
    few = {"base": runs(APS), "arm": runs([31.0, 31.2, 12.0, 31.5])}
    found = spreads(few, "mask_ap")
    assert found["arm"].below is None and found["arm"].collapsed == () and found["arm"].worst == 12
    copies = {"base": runs([30.0] * 6), "arm": runs([30.0] * 5 + [12.0])}
    assert spreads(copies, "mask_ap")["arm"].below is None and not about_collapses(found)
    assert spreads({"base": {}}, "mask_ap") == {}
