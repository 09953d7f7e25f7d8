"""Kinds of errors against a loop that reads TIDE's rules off, and images against the same sums by
hand."""

import itertools

import numpy as np
import pytest

from tests.yolact.engine.test_records import TRUTH, results
from yolact.engine.records import records_of_results
from yolact.study.statistics.ap import weighted_ap
from yolact.study.statistics.curves import precision_at_recalls
from yolact.study.statistics.errors import (
    BACKGROUND,
    CLASS,
    DUPLICATE,
    MISSED,
    PLACE,
    RIGHT,
    judge_detections,
    kept_detections,
)
from yolact.study.statistics.images import image_scores, sign_flips
from yolact.testing.synthetic import synthetic_records


def square(number, image, x, category=1, side=20):
    box = [x, 10, side, side]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": side * side,
        "iscrowd": 0,
    }


def found(image, x, score, category=1):
    box = [x, 10, 20, 20]
    return {"image_id": image, "category_id": category, "score": score, "bbox": box}


def test_each_kind_of_error_is_named():
    """Squares of 20 px, shifted: 2 px keep IoU .82, 10 px .33."""
    truth = {
        "images": [{"id": i, "width": 200, "height": 50} for i in range(1, 16)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            *(square(n, 1, 40 * n) for n in range(1, 4)),
            square(4, 2, 40, 2),
            square(5, 3, 40),
            *(square(n + 2, n, 40) for n in range(4, 16)),
        ],
    }
    made = [
        found(1, 42, 0.99),
        found(1, 80, 0.98),
        found(1, 43, 0.97),  # on what the first has
        found(1, 130, 0.96),  # 10 px off
        found(2, 40, 0.95, 1),  # of the other class
        found(2, 120, 0.94),  # on nothing
        found(3, 42, 0.93),
        found(2, 150, 0.9, 2),
        found(2, 41, 0.8, 2),
        found(3, 150, 0.01),  # below the threshold
        *(found(n, 40, 0.92) for n in range(4, 16)),
    ]
    records = records_of_results(truth, made)
    judged = judge_detections(records, "box")
    kinds = dict(zip(np.round(records.found["box"].score, 2).tolist(), judged.kind.tolist()))
    assert kinds == {
        0.99: RIGHT,
        0.98: RIGHT,
        0.97: DUPLICATE,
        0.96: PLACE,
        0.95: CLASS,
        0.94: BACKGROUND,
        0.93: RIGHT,
        0.92: RIGHT,
        0.9: BACKGROUND,
        0.8: RIGHT,
        0.01: "",
    }
    # the third of image 1 has a detection in the wrong place, which is one error
    assert not judged.missed.any() and judged.counts[PLACE].tolist() == [1, *[0] * 14]


def test_what_no_detection_touches_is_missed():
    records = records_of_results(TRUTH, results())
    for shape in records.found:
        judged, kept = judge_detections(records, shape), kept_detections(records, shape)
        matched = set(records.found[shape].matched[0, kept].tolist())
        assert not matched & set(np.flatnonzero(judged.missed).tolist())
        assert judged.counts[MISSED].sum() == judged.missed.sum()


def test_the_score_of_an_image_is_f1_over_the_thresholds():
    records = synthetic_records(30)
    mask, kept = records.found["mask"], kept_detections(records, "mask")
    expected = []
    for image in range(30):
        there = int((~records.truth.ignored[0] & (records.truth.image == image)).sum())
        values = []
        for t in range(10):
            rows = [d for d in np.flatnonzero(kept & (mask.image == image))]
            true = sum(bool(mask.right[0, t, d]) for d in rows)
            false = sum(not (mask.right[0, t, d] or mask.ignored[0, t, d]) for d in rows)
            missed = there - true
            total = 2 * true + false + missed
            values.append(2 * true / total if total else 1.0)
        expected.append(np.mean(values))
    assert image_scores(records, "mask") == pytest.approx(expected)


def test_flips_are_all_choices_of_signs():
    rows = {tuple(row) for row in sign_flips(4).tolist()}
    assert rows == set(itertools.product((-1, 1), repeat=4)) and len(sign_flips(13)) == 4096


@pytest.mark.parametrize("threshold", [0, 5])
def test_the_area_of_the_curve_is_ap(threshold):
    """As weighted_ap, which is checked against pycocotools, has it."""
    records = synthetic_records(40)
    ap = weighted_ap(records, "mask", np.ones((1, 40), int)).values[0, 1 + threshold]
    assert precision_at_recalls(records, "mask", threshold).mean() == pytest.approx(ap, abs=1e-9)
