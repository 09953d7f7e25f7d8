"""oLRP against the published implementation's numbers, calibration by hand, boundary AP against a
literal computation."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from yolact.engine.records import AREAS, SHAPES, records_of_results
from yolact.study.statistics import boundary
from yolact.study.statistics.quality import calibration, olrp, pooled

REFERENCE = Path(__file__).parents[3] / "reference"
FIELDS = {"box": "bbox", "mask": "segmentation"}


@pytest.mark.parametrize("limit", [1, 10, 100])
@pytest.mark.parametrize("shape", FIELDS)
@pytest.mark.parametrize("case", ["main", "second", "score_ties"])
def test_olrp_is_that_of_the_authors(case, shape, limit):
    gt, dt, expected = (
        json.loads((REFERENCE / "assigners_losses" / "4_olrp" / f"{case}_{part}.json").read_text())
        for part in ("gt", "dt", "expected")
    )
    expected = expected[SHAPES[shape]]
    results = [
        {key: d[key] for key in ("image_id", "category_id", "score", FIELDS[shape])} for d in dt
    ]
    records = records_of_results(gt, results, limit)
    for a, area in enumerate(AREAS):
        found = olrp(records, shape, a)
        for row, category in zip(found.per_class, records.category_ids):
            values = expected["per_class"][str(category)][area][str(limit)]
            if values["olrp"] == -1:  # a class without ground truth
                assert np.isnan(row).all()
            else:
                assert row == pytest.approx(
                    [values[key] for key in ("olrp", "loc", "fp", "fn", "thr")],
                    abs=1e-6,
                    nan_ok=True,
                )
        if area == "all" and limit == 100:
            summary = expected["summary"]
            assert [
                found.olrp,
                found.localisation,
                found.false_positive,
                found.false_negative,
            ] == pytest.approx(
                [summary[key] for key in ("oLRP", "oLRP_loc", "oLRP_FP", "oLRP_FN")], abs=1e-6
            )


def boxes(*rows):
    gt = {
        "images": [{"id": 1, "height": 100, "width": 400}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [100 * i, 0, 50, 50],
                "iscrowd": int(i == 3),
            }
            for i in range(4)
        ],
    }
    return records_of_results(
        gt,
        [
            {"image_id": 1, "category_id": 1, "score": score, "bbox": [left, 0, width, 50]}
            for score, left, width in rows
        ],
    )


def test_calibration_by_hand():
    """Scores .95, .85 and .81 on IoU 1, .5 and 0; one detection on the crowd is left out."""
    found = calibration(
        boxes((0.95, 0, 50), (0.85, 100, 25), (0.81, 160, 30), (0.99, 300, 50)), "box"
    )
    assert found.count.tolist() == [0] * 8 + [2, 1]
    assert found.score[8:] == pytest.approx([0.83, 0.95]) and found.iou[8:] == pytest.approx(
        [0.25, 1.0]
    )
    assert np.isnan(found.score[:8]).all()
    assert found.error == pytest.approx((2 * 0.58 + 0.05) / 3) and found.bias == pytest.approx(
        (0.95 + 0.85 + 0.81 - 1.5) / 3
    )
    perfect = calibration(boxes((1.0, 0, 50), (1.0, 100, 50)), "box")
    assert perfect.error == 0 and perfect.count[9] == 2
    assert np.isnan(calibration(boxes(), "box").error)


def test_calibration_of_several_runs_is_that_of_all_their_detections():
    rows = ((0.95, 0, 50), (0.85, 100, 25), (0.81, 160, 30), (0.2, 0, 40))
    whole = calibration(boxes(*rows), "box")
    parts = [calibration(boxes(*some), "box") for some in (rows[:1], rows[1:], ())]
    found = pooled(parts)
    for name in ("count", "score", "iou", "error", "bias"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), nan_ok=True), name
    # bins that cancel out in one run and not in another: the mean of errors is another figure
    assert found.error != pytest.approx(np.nanmean([part.error for part in parts]))


def test_olrp_without_detections_and_with_wrong_ones_only():
    for rows in ((), ((0.9, 60, 30),)):
        found = olrp(boxes(*rows), "box")
        assert (found.olrp, found.false_negative) == (1, 1) and np.isnan(
            [found.localisation, found.false_positive]
        ).all()


class Literal(COCOeval):
    """COCOeval whose overlap is min(mask IoU, IoU of the inner bands), the bands by scipy."""

    def computeIoU(self, image, category):
        overlaps = super().computeIoU(image, category)
        if len(overlaps) == 0:
            return overlaps
        order = np.argsort([-d["score"] for d in self._dts[image, category]], kind="mergesort")[
            : overlaps.shape[0]
        ]
        found = [self.band(self._dts[image, category][i]["segmentation"]) for i in order]
        truths = self._gts[image, category]
        banded = rle.iou(
            found,
            [self.band(g["segmentation"]) for g in truths],
            [int(g["iscrowd"]) for g in truths],
        )
        plain = np.array([not g["iscrowd"] for g in truths])
        return np.where(plain, np.minimum(overlaps, banded), overlaps)

    @staticmethod
    def band(segmentation):
        mask = rle.decode(segmentation).astype(bool)
        width = max(1, round(0.02 * np.hypot(*mask.shape)))
        inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)[
            1:-1, 1:-1
        ]
        return rle.encode(np.asfortranarray((mask & ~inner).astype(np.uint8)))


def test_boundary_ap_is_that_of_its_definition():
    pytest.importorskip(
        "faster_coco_eval", reason="faster-coco-eval is optional: pip install -e '.[boundary]'"
    )
    folder = REFERENCE / "coco_eval100"
    gt = json.loads((folder / "instances_val2014_100.json").read_text())
    images = {image["id"] for image in gt["images"][:30]}
    gt = {
        **gt,
        "images": gt["images"][:30],
        "annotations": [a for a in gt["annotations"] if a["image_id"] in images],
    }
    results = [
        d
        for d in json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
        if d["image_id"] in images
    ]
    found = boundary.boundary_ap(gt, results)
    truth = COCO()
    truth.dataset = {"info": {}, **gt}
    truth.createIndex()
    literal = Literal(truth, truth.loadRes(results), "segm")
    literal.evaluate()
    literal.accumulate()
    literal.summarize()
    assert [*found.values()] == pytest.approx(list(100 * literal.stats[:3]), abs=1e-6)
