"""Mask IoU of the instances that two arms both find."""

from dataclasses import replace

import numpy as np
import pytest

from yolact.engine.records import Found, Records, Truth
from yolact.study.statistics.comparison import Comparison
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.resample import Resampled
from yolact.study.statistics.shared import shared_iou
from yolact.study.statistics.table import shared_table

# four instances in two images, the last a crowd; an arm's IoU with each, 0 = not found
IMAGE, CROWD = np.array([0, 0, 1, 1]), np.array([False, False, False, True])


def run(seed, *iou, old=False):
    there = np.flatnonzero(iou)
    right = np.zeros((4, 10, len(there)), bool)
    matched = np.where(np.arange(10)[:, None] < 1, there, -1).astype(np.int32)
    overlaps = np.tile(np.array(iou, np.float32)[there], (4, 1))
    ones = np.ones(len(there))
    found = Found(IMAGE[there], 0 * there, ones, ones, right, right, overlaps, overlaps[0], matched)
    if old:
        found = replace(found, matched=None)
    truth = Truth(IMAGE, 0 * IMAGE, np.ones(4), np.tile(CROWD, (4, 1)))
    records = Records((1, 2), (1,), ("x",), 100, truth, {"mask": found}, {})
    return FinishedRun("", seed, Resampled({"mask_ap": 0.0}, {}, 0), "", 2, 100, {}, kept=records)


def judged(*seeds):
    return Comparison("b", "a", "mask_ap", 0.5, "undecided", seeds=seeds)


def test_by_hand():
    """Seed 0: both find instances 0 and 2 (.6, .8 against .7, .9); seed 1: 0 and 1, where only
    one differs, by .2."""
    arms = {
        "a": {0: run(0, 0.6, 0.9, 0.8, 0.9), 1: run(1, 0.6, 0.7, 0, 0)},
        "b": {0: run(0, 0.7, 0, 0.9, 0.5), 1: run(1, 0.6, 0.9, 0.9, 0)},
    }
    found = shared_iou(judged(0, 1), arms)
    assert found.instances == 2
    assert found.baseline_iou == pytest.approx((70 + 65) / 2)
    assert found.iou == pytest.approx((80 + 75) / 2)
    assert found.interval.difference == pytest.approx(10)
    assert found.interval.low < 10 < found.interval.high
    assert shared_table([judged(0, 1)], arms).splitlines()[1].split()[:5] == [
        "b",
        "2",
        "67.50",
        "77.50",
        "+10.00",
    ]


def test_one_seed_has_the_spread_of_images():
    """Differences of .1 on both images of one seed: nothing varies."""
    arms = {"a": {3: run(3, 0.6, 0, 0.8, 0)}, "b": {3: run(3, 0.7, 0, 0.9, 0)}}
    found = shared_iou(judged(3), arms)
    assert found.interval.difference == pytest.approx(10)
    assert found.interval.half == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    "other",
    [run(0, 0, 0.9, 0, 0), run(0, 0, 0, 0, 0.9), run(0, 0.9, 0, 0, 0, old=True)],
    ids=["none in common", "a crowd", "old records"],
)
def test_nothing_to_say(other):
    arms = {"a": {0: run(0, 0.9, 0, 0, 0.9)}, "b": {0: other}}
    assert shared_iou(judged(0), arms) is None
    assert shared_iou(judged(), arms) is None
    assert shared_table([judged(0)], arms) == ""
