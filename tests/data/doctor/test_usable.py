"""Sets from which nothing, or something else than meant, is learned: each is named for what it is,
by the fast check too."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from data.doctor.anchors import check_coverage
from data.doctor.check import check_dataset
from data.doctor.findings import Findings
from data.doctor.split import Split
from data.schema import DataConfig, ModelConfig
from tests.data.sets import annotation, image_entry, write_set

W, H = 320, 200


def star(x, y, side, sy=1.0) -> list[float]:
    """A polygon that is no rectangle, with the box [x, y, side, side * sy]."""
    shape = [0, 0.4, 0.5, 0, 1, 0.4, 0.8, 1, 0.2, 1]
    return [
        v for px, py in zip(shape[::2], shape[1::2]) for v in (x + side * px, y + side * sy * py)
    ]


def stars(count=24, **changes) -> list[dict]:
    """Annotations all over images of W x H, on two images."""
    found = []
    for i in range(count):
        x, y, side = 5 + 11 * i, 5 + (37 * i) % 150, 20 + i
        box = [x, y, side, side]
        found.append(annotation(i, 1 + i % 2, bbox=box, segmentation=[star(x, y, side)], **changes))
    return found


def section(root, annotations, **changes) -> DataConfig:
    images = [image_entry(1, "a.png", W, H), image_entry(2, "b.png", W, H)]
    write_set(root, images=changes.pop("images", images), annotations=annotations, draw=False)
    (root / "images/a.png").touch()
    (root / "images/b.png").touch()
    names = dict(train_images="images", train_annotations="annotations.json")
    return DataConfig(root=str(root), class_names=("thing",), **names, **changes)


def told(data, level, *, fast=True) -> list[str]:
    found = check_dataset(data, fast=fast, splits=("train",))
    return [str(f) for f in found if f.level == level]


def scaled(found: list[dict], x: float, y: float) -> list[dict]:
    for a in found:
        a["bbox"] = [v * k for v, k in zip(a["bbox"], (x, y, x, y))]
        a["segmentation"] = [
            [v * (x, y)[i % 2] for i, v in enumerate(polygon)] for polygon in a["segmentation"]
        ]
    return found


def test_a_sound_set_passes(tmp_path):
    assert not told(section(tmp_path, stars()), "error")
    assert not told(section(tmp_path, stars()), "warning")


@pytest.mark.parametrize(
    "make, words, fix",
    [
        (lambda: stars(iscrowd=1), "its 24 annotations are 24 crowds", "set iscrowd to 0"),
        (lambda: scaled(stars(), 1e-6, 1e-6), "24 with a box too small", "model.max_size"),
        (
            lambda: [{**a, "segmentation": [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]} for a in stars()],
            "24 without a pixel in their mask",
            "redraw the masks",
        ),
        (lambda: [], "it has no annotation", "correct data.train_annotations"),
    ],
)
def test_a_set_without_an_instance_to_learn_from_is_an_error(tmp_path, make, words, fix):
    errors = told(section(tmp_path, make()), "error")
    assert any("holds no instance to learn from" in e and words in e and fix in e for e in errors)


def test_few_instances_to_learn_from_are_a_warning(tmp_path):
    mixed = [{**a, "iscrowd": int(a["id"] < 20)} for a in stars()]
    (warning,) = told(section(tmp_path, mixed), "warning")
    assert "holds 4 instances to learn from, of 24 annotations: the others are 20 crowds" in warning
    assert not told(section(tmp_path, mixed), "error")


def test_a_few_masks_without_a_pixel_are_named(tmp_path):
    found = stars()
    found[7]["segmentation"] = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    (warning,) = told(section(tmp_path, found), "warning")
    assert "has 1 masks that cover no pixel (annotations 7)" in warning


def test_masks_are_sampled_and_all_looked_at_where_the_sample_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("data.doctor.usable.SAMPLED", 5)
    found = stars()
    for a in found[::5]:  # what the sample sees
        a["segmentation"] = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    assert not told(section(tmp_path, found), "error")


@pytest.mark.parametrize(
    "make, level, words",
    [
        (lambda: scaled(stars(), 1 / W, 1 / H), "error", "coordinates between 0 and 1 in 24 of 24"),
        (lambda: scaled(stars(), 100 / W, 100 / H), "error", "look like percent of the image"),
        (lambda: scaled(stars(8), 99 / 110, 99 / 200), "warning", "look like percent"),
        (lambda: [*stars(), *stars()], "error", "has 24 of 48 annotations twice"),
        (lambda: [*stars(), stars()[3]], "warning", "has 1 of 25 annotations twice"),
    ],
)
def test_units_and_repetitions_are_named_for_what_they_are(tmp_path, make, level, words):
    assert any(words in text for text in told(section(tmp_path, make()), level))


def test_rectangles_drawn_as_masks_are_named(tmp_path):
    def corners(x, y, w, h):
        return [x, y, x + w, y, x + w, y + h, x, y + h]

    polygons = [{**a, "segmentation": [corners(*a["bbox"])]} for a in stars()]
    (warning,) = told(section(tmp_path, polygons), "warning")
    assert "upright rectangles for masks in 24 of 24" in warning
    for a in polygons:
        mask = coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], H, W))
        a["segmentation"] = {"size": [H, W], "counts": mask["counts"].decode()}
    (warning,) = told(section(tmp_path, polygons), "warning")
    assert "upright rectangles for masks in 24 of 24" in warning


def test_x_and_y_swapped_are_named(tmp_path):
    found = stars()
    for a in found:
        x, y, w, h = a["bbox"]
        a["bbox"] = [y, x, h, w]
        a["segmentation"] = [
            [v for point in zip(p[1::2], p[0::2]) for v in point] for p in a["segmentation"]
        ]
    (error,) = told(section(tmp_path, found), "error")
    assert "boxes wholly outside their image" in error and "with x and y swapped" in error


def test_x_and_y_swapped_in_the_masks_alone_are_named(tmp_path):
    found = stars(12)
    for a in found:
        a["segmentation"] = [
            [v for point in zip(p[1::2], p[0::2]) for v in point] for p in a["segmentation"]
        ]
    data = section(tmp_path, found)
    write_set(
        tmp_path,
        images=[image_entry(1, "a.png", W, H), image_entry(2, "b.png", W, H)],
        annotations=found,
    )
    errors = told(data, "error", fast=False)
    assert any(
        "agree with x and y of the mask swapped" in e and "swap x and y" in e for e in errors
    )


def test_boxes_alone_are_not_told_to_become_background(tmp_path):
    bare = [{**a, "segmentation": []} for a in stars()]
    data = section(tmp_path, bare)
    (error,) = [e for e in told(data, "error") if "has boxes without masks" in e]
    assert "learned as background" in error
    assert not [n for n in told(data, "note") if "images without annotations" in n]


def test_coverage_of_no_ground_truth_is_not_told(tmp_path):
    found = Findings()
    split = Split("train", tmp_path, tmp_path / "a.json")
    split.images = {1: image_entry(1, "a.png", W, H)}
    split.annotations = stars(iscrowd=1)
    check_coverage(split, ModelConfig(), found)
    assert not list(found)


def test_thin_objects_are_told_to_change_ratios_and_small_ones_scales(tmp_path):
    split = Split("train", tmp_path, tmp_path / "a.json")
    split.images = {1: image_entry(1, "a.png", 550, 550), 2: image_entry(2, "b.png", 550, 550)}
    split.annotations = [annotation(i, bbox=[20 + i, 30, 400, 20]) for i in range(9)]
    found = Findings()
    check_coverage(split, ModelConfig(square_anchors=True), found)
    (warning,) = found
    assert "too long or too thin for any scale" in warning.problem.what
    assert warning.problem.fix.startswith("set model.square_anchors=false and model.anchor_ratios=")
    assert "20.0" in warning.problem.fix
    split.annotations = [annotation(i, bbox=[100 + i, 30, 11.5, 11.5]) for i in range(9)]
    found = Findings()
    check_coverage(split, ModelConfig(square_anchors=True), found)
    (warning,) = found
    assert "model.anchor_scales" in warning.problem.fix


@pytest.mark.parametrize("x, side", [(104.25, 12), (20, 3)])
def test_objects_between_the_places_of_anchors_are_told_to_grow(x, side, tmp_path):
    """The first kind has the size of an anchor, the second is too small for any scale."""
    split = Split("train", tmp_path, tmp_path / "a.json")
    split.images = {1: image_entry(1, "a.png", 550, 550), 2: image_entry(2, "b.png", 550, 550)}
    split.annotations = [annotation(i, bbox=[x, x, side, side]) for i in range(9)]
    found = Findings()
    scales = [[12.0], [48.0], [96.0], [192.0], [384.0]]
    check_coverage(split, ModelConfig(square_anchors=True, anchor_scales=scales), found)
    (warning,) = found
    assert "9 of them lie between the places of anchors, which are 8 px" in warning.problem.what
    assert warning.problem.fix.startswith("a larger model.max_size")


def test_the_best_iou_of_another_shape_is_as_stated():
    """By brute force over scales."""
    for q in (1.5, 2.25, 6.0):
        scales = np.linspace(0.1, 10, 20_000)
        inter = np.minimum(q, scales) * np.minimum(1, scales)
        best = (inter / (q + scales**2 - inter)).max()
        assert best == pytest.approx(1 / (2 * np.sqrt(q) - 1), abs=1e-4)


def test_the_message_counts_each_reason(tmp_path):
    found = stars(iscrowd=1)
    found[0] |= {"iscrowd": 0, "bbox": [5, 5, 0, 3]}
    found[1] |= {"iscrowd": 0, "bbox": "none"}
    data = section(tmp_path, found)
    (error,) = [e for e in told(data, "error") if "no instance to learn from" in e]
    assert "24 annotations are 22 crowds (iscrowd=1), 1 without area in their box, 1 that" in error
    assert json.loads((tmp_path / "annotations.json").read_text())["annotations"]
