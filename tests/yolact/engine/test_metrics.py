"""COCO metrics: known answers, ids of any kind, and what a user can get wrong."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from yolact.engine.metrics import THRESHOLDS, coco_metrics

EVAL100 = Path(__file__).parents[2] / "reference" / "coco_eval100"


def square(image: dict, left: int, top: int, side: int) -> dict:
    mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    encoded = rle.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def dataset(image_ids=(0, 1, 2), category_ids=(0, 5), annotation_ids=None) -> dict:
    """Two squares of each category on every image, ids as asked for."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in image_ids]
    annotations = []
    for image in images:
        for k, category in enumerate(category_ids * 2):
            left, side = 2 + 18 * k, 8 + k
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": category,
                    "iscrowd": 0,
                    "area": side * side,
                    "bbox": [left, 10, side, side],
                    "segmentation": square(image, left, 10, side),
                }
            )
    if annotation_ids:
        for annotation, number in zip(annotations, annotation_ids):
            annotation["id"] = number
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
    }


def perfect(gt: dict, iou_type: str) -> list[dict]:
    field = "bbox" if iou_type == "bbox" else "segmentation"
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, field: a[field]}
        for a in gt["annotations"]
    ]


@pytest.mark.parametrize(
    "iou_type, expected",
    [
        (
            "segm",
            [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381],
        ),
        (
            "bbox",
            [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
        ),
    ],
)
def test_published_figures_of_cocos_example(iou_type, expected):
    detections = json.loads(
        (EVAL100 / f"instances_val2014_fake{iou_type}100_results.json").read_text()
    )
    m = coco_metrics(EVAL100 / "instances_val2014_100.json", detections, iou_type)
    found = [
        m.ap,
        m.ap50,
        m.ap75,
        m.ap_small,
        m.ap_medium,
        m.ap_large,
        m.ar_1,
        m.ar_10,
        m.ar_max,
        m.ar_small,
        m.ar_medium,
        m.ar_large,
    ]
    assert [round(x, 3) for x in found] == expected


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize(
    "gt",
    [
        dataset(),
        dataset((7, 3, 90), (2, 40)),
        dataset(("b", "a", "c"), ("x", "y")),
        dataset(("b", 0, "c"), ("x", 0)),
        dataset(annotation_ids=[f"ann-{i}" for i in range(12)]),
    ],
    ids=["from 0", "gaps", "strings", "mixed", "string annotation ids"],
)
def test_perfect_detections_give_one_whatever_the_ids(gt, iou_type):
    metrics = coco_metrics(gt, perfect(gt, iou_type), iou_type)
    assert (
        metrics.ap == 1.0 and set(metrics.per_threshold.values()) == {1.0} and metrics.ar_max == 1.0
    )
    assert list(metrics.per_threshold) == list(THRESHOLDS)
    assert set(metrics.per_class.values()) == {1.0} and len(metrics.per_class) == 2


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ground_truth_and_detections_are_not_modified(iou_type):
    gt = dataset()
    detections = perfect(gt, iou_type)
    before = copy.deepcopy((gt, detections))
    coco_metrics(gt, detections, iou_type)
    assert (gt, detections) == before


def test_images_without_detections_count():
    gt = dataset(image_ids=(1, 2, 3, 4))
    half = [d for d in perfect(gt, "bbox") if d["image_id"] <= 2]
    metrics = coco_metrics(gt, half, "bbox")
    # COCO interpolates precision at 101 recalls
    assert metrics.ar_max == 0.5 and 0.5 <= metrics.ap < 0.51
    assert coco_metrics(gt, [], "bbox").ap == 0.0 and coco_metrics(gt, [], "segm").ar_max == 0.0


def test_crowds_are_ignored_and_a_class_without_ground_truth_is_left_out():
    gt = dataset()
    crowd = {
        **gt["annotations"][0],
        "id": 99,
        "bbox": [0, 30, 80, 30],
        "area": 2400,
        "iscrowd": 1,
        "segmentation": {"size": [60, 80], "counts": [0, *([30, 30] * 80)][1:]},
    }
    gt["annotations"].append(crowd)
    gt["categories"].append({"id": 77, "name": "never"})
    found = perfect(gt, "bbox")[:-1]
    on_crowd = [
        {
            "image_id": 0,
            "category_id": crowd["category_id"],
            "score": 0.99,
            "bbox": [3 + 9 * i, 32, 8, 8],
        }
        for i in range(5)
    ]
    stray = [{"image_id": 1, "category_id": 77, "score": 0.99, "bbox": [1, 1, 5, 5]}]
    metrics = coco_metrics(gt, found + on_crowd + stray, "bbox")
    assert metrics.ap == 1.0
    assert (
        math.isnan(metrics.per_class["never"]) and metrics.to_dict()["per_class"]["never"] is None
    )
    json.dumps(metrics.to_dict(), allow_nan=False)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_missing_area_is_computed(iou_type):
    gt = dataset()
    expected = coco_metrics(gt, perfect(gt, iou_type), iou_type)
    for annotation in gt["annotations"]:
        del annotation["area"]
        if iou_type == "segm":
            del annotation["bbox"]
    found = coco_metrics(gt, perfect(dataset(), iou_type), iou_type)
    assert repr(found) == repr(expected)  # NaN included
    assert expected.ap_small == 1.0 and math.isnan(expected.ap_large)


def test_more_than_100_detections_an_image():
    image = {"id": 1, "file_name": "a.png", "height": 400, "width": 400}
    boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(200)]
    gt = {
        "images": [image],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    detections = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 1000, "bbox": box}
        for i, box in enumerate(boxes)
    ]
    metrics = coco_metrics(gt, detections, "bbox", max_dets=300)
    assert (
        metrics.max_dets == 300
        and metrics.ap == 1.0
        and metrics.ar_max == 1.0
        and metrics.ar_10 == 0.05
    )
    assert 0.49 < metrics.ap_at_100 < 0.51
    at_100 = coco_metrics(gt, detections, "bbox")
    assert at_100.ap == metrics.ap_at_100 and at_100.ap_at_100 is None
    at_5 = coco_metrics(gt, detections, "bbox", max_dets=5)
    assert at_5.ar_max == at_5.ar_10 == 0.025


def test_mask_areas_decide_the_size_class_of_masks():
    """A thin diagonal has a large box and a small mask: as a mask result it is small, as
    pycocotools has it for results without boxes."""
    mask = np.asfortranarray(np.eye(120, dtype=np.uint8))
    segmentation = rle.encode(mask)
    gt = {
        "images": [{"id": 1, "height": 120, "width": 120}],
        "categories": [{"id": 1, "name": "line"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [0, 0, 120, 120],
                "segmentation": segmentation,
            }
        ],
    }
    found = [
        {
            "image_id": 1,
            "category_id": 1,
            "score": 0.9,
            "segmentation": segmentation,
            "bbox": [0, 0, 120, 120],
        }
    ]
    stray = [
        {
            **found[0],
            "score": 0.99,
            "segmentation": rle.encode(np.asfortranarray(np.eye(120, dtype=np.uint8)[::-1])),
        }
    ]
    metrics = coco_metrics(gt, found, "segm")
    assert metrics.ap_small == pytest.approx(1) and math.isnan(metrics.ap_large)
    assert coco_metrics(gt, stray + found, "segm").ap_small == pytest.approx(0.5)


def test_a_part_of_the_images_and_of_the_categories():
    gt = dataset(image_ids=("a", "b", "c"))
    detections = [d for d in perfect(gt, "segm") if d["image_id"] == "b"]
    assert coco_metrics(gt, detections, "segm").ar_max == pytest.approx(1 / 3)
    assert coco_metrics(gt, detections, "segm", image_ids=["b"]).ap == 1.0
    one = [d for d in perfect(gt, "segm") if d["category_id"] == 5]
    assert coco_metrics(gt, one, "segm").ap == 0.5
    only = coco_metrics(gt, one, "segm", category_ids=[5])
    assert only.ap == 1.0 and list(only.per_class) == ["class 5"]


def test_categories_of_one_name_are_told_apart():
    gt = dataset()
    gt["categories"][1]["name"] = gt["categories"][0]["name"]
    assert list(coco_metrics(gt, perfect(gt, "bbox"), "bbox").per_class) == [
        "class 0 (0)",
        "class 0 (5)",
    ]


def test_unusable_ground_truth_is_named(tmp_path):
    path = tmp_path / "gt.json"
    with pytest.raises(ValueError, match="gt.json.*does not exist"):
        coco_metrics(path, [], "bbox")
    path.write_text(json.dumps(dataset())[:200])
    with pytest.raises(ValueError, match="gt.json.*cut off"):
        coco_metrics(path, [], "bbox")
    path.write_text("[]")
    with pytest.raises(ValueError, match="gt.json has no list of images, annotations, categories"):
        coco_metrics(path, [], "bbox")
    with pytest.raises(ValueError, match="no images"):
        coco_metrics({"images": [], "annotations": [], "categories": []}, [], "bbox")
    gt = dataset()
    gt["annotations"][3]["category_id"] = 44
    with pytest.raises(ValueError, match="annotation 3 has category id 44"):
        coco_metrics(gt, [], "bbox")
    gt = dataset()
    gt["annotations"][3]["segmentation"] = []
    with pytest.raises(ValueError, match="annotation 3 .*no segmentation"):
        coco_metrics(gt, [], "segm")


def test_unusable_detections_are_named():
    gt = dataset()
    good = perfect(gt, "bbox")[0]
    for wrong, message in [
        ({"image_id": 12}, "detection 1 has image_id 12"),
        ({"image_id": "0"}, "a number is not a string"),
        ({"category_id": 3}, "category_id 3"),
        ({"score": math.nan}, "cannot be ranked"),
    ]:
        with pytest.raises(ValueError, match=message):
            coco_metrics(gt, [good, {**good, **wrong}], "bbox")
    with pytest.raises(ValueError, match="no segmentation"):
        coco_metrics(gt, [good], "segm")
    with pytest.raises(ValueError, match="image ids to evaluate are not in it, such as 55"):
        coco_metrics(gt, [good], "bbox", image_ids=[55])
