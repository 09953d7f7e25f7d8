"""What mending an error gains, by hand: squares of 20 px, whose IoU is .82 where 2 px off, and .33
where 10 px off. Recall up to one half is 51 of COCO's 101 points."""

import numpy as np
import pytest

from tests.yolact.study.statistics.test_errors import found, square
from yolact.engine.records import records_of_results
from yolact.study.report.errors import gains as gains_module
from yolact.study.report.errors.classes import class_ap
from yolact.study.report.errors.figures import shown_classes
from yolact.study.report.errors.gains import (
    BOTH,
    DRAWS,
    FALSE_NEGATIVES,
    FALSE_POSITIVES,
    GAINS,
    first_weights,
    gains,
)
from yolact.study.statistics.ap import weighted_ap
from yolact.study.statistics.errors import BACKGROUND, CLASS, DUPLICATE, MISSED, PLACE
from yolact.study.statistics.resample import RESAMPLES, image_weights
from yolact.testing.synthetic import synthetic_records

HALF = 100 * 51 / 101  # AP of one right detection, first, and one instance not found
REST = 100 - HALF
ALL = FALSE_NEGATIVES  # not found at all, counted out
FALSE = FALSE_POSITIVES


def records_with(annotations, detections, categories=1):
    truth = {
        "images": [{"id": i, "width": 200, "height": 50} for i in (1, 2, 3)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(categories)],
        "annotations": annotations,
    }
    return records_of_results(truth, detections)


A, B = square(1, 1, 40), square(2, 2, 40)
OTHER = square(2, 2, 40, 2)  # of the second class
RIGHT_A = found(1, 42, 0.9)
CASES = {
    "place": ([A, B], [RIGHT_A, found(2, 50, 0.8)], {PLACE: REST, ALL: REST}),
    "of two in one place, one is mended": (
        [A, B],
        [RIGHT_A, found(2, 50, 0.8), found(2, 30, 0.7)],
        {PLACE: REST, ALL: REST},
    ),
    "missed": ([A, B], [RIGHT_A], {MISSED: REST, ALL: REST}),
    "background": ([A], [found(3, 100, 0.95), RIGHT_A], {BACKGROUND: 50, FALSE: 50}),
    "near what is found: no instance is left to mend it to": (
        [A],
        [found(1, 50, 0.8), found(1, 42, 0.7), found(1, 30, 0.9)],
        {PLACE: 200 / 3, FALSE: 200 / 3},
    ),
    "duplicate": (
        [A, B],
        [RIGHT_A, found(1, 43, 0.8), found(2, 42, 0.7)],
        {DUPLICATE: 100 - (51 * 100 + 50 * 200 / 3) / 101, FALSE: 100 - (5100 + 10000 / 3) / 101},
    ),
    # the second class has AP 0, and no instance and no detection where what is not found is not
    # counted: the mean is then of the first
    "class": ([A, OTHER], [RIGHT_A, found(2, 42, 0.8)], {CLASS: 50, ALL: 50}),
    "class and place": (
        [A, OTHER],
        [found(2, 50, 0.95), RIGHT_A, found(2, 40, 0.9, 2)],
        {BOTH: 25, FALSE: 25},
    ),
    "place comes before class": (
        [A, square(2, 2, 40), square(3, 2, 52, 2)],
        [RIGHT_A, found(2, 50, 0.8), found(2, 52, 0.8, 2)],
        {PLACE: REST / 2, ALL: REST / 2},
    ),
    "nothing is wrong": ([A, B], [RIGHT_A, found(2, 42, 0.8)], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_gains_by_hand(case):
    annotations, detections, expected = CASES[case]
    categories = max(one["category_id"] for one in annotations)
    records = records_with(annotations, detections, categories)
    got = {kind: values[0] for kind, values in gains(records, "box", np.ones((1, 3), int)).items()}
    assert got == pytest.approx({kind: expected.get(kind, 0) for kind in GAINS}, abs=1e-6)


def test_a_resample_counts_images_as_often_as_it_draws_them():
    """Image 1 thrice: of four instances three are found, and the wrong place is one of four."""
    records = records_with([A, B], [RIGHT_A, found(2, 50, 0.8)])
    got = gains(records, "box", np.array([[3, 1, 0], [0, 2, 0], [1, 0, 0]]))
    assert got[PLACE] == pytest.approx([100 - 100 * 76 / 101, 100, 0], abs=1e-6)


def test_records_that_do_not_tell_kinds_apart_have_none():
    assert gains(synthetic_records(5, classes=2), "mask", np.ones((1, 5), int)) is None


def test_ap_by_class_has_the_mean_of_the_records():
    records, weights = synthetic_records(40, classes=3), np.ones((2, 40), int)
    by_class = class_ap(records, "mask", weights)
    whole = 100 * weighted_ap(records, "mask", weights).values[:, 0]
    assert by_class.shape == (2, 3) and by_class.mean(1) == pytest.approx(whole)
    assert np.ptp(by_class[0]) > 0.1


def test_the_classes_in_which_arms_differ_are_shown():
    means = np.array([[10.0, 50, np.nan, 20], [30.0, 51, np.nan, 26]])
    assert shown_classes(means, 2) == [0, 3] and shown_classes(means, 9) == [0, 1, 3]


def test_weights_are_the_first_of_those_of_statistics_and_drawn_once(monkeypatch):
    records, other = (synthetic_records(7, run_seed=seed) for seed in (0, 1))
    drawn, real = [], gains_module.image_weights
    monkeypatch.setattr(
        gains_module, "image_weights", lambda *given: drawn.append(given) or real(*given)
    )
    gains_module._drawn.cache_clear()
    found = first_weights(records)
    assert (found[0] == 1).all()
    assert np.array_equal(found[1:], image_weights(records.image_ids, RESAMPLES)[:DRAWS])
    assert first_weights(other) is found and len(drawn) == 1
