"""What Detections offer: COCO results, a PNG of masks, drawings."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolact.outputs import Detections


@pytest.fixture
def found():
    """Three rectangles on 20 x 30 pixels: the second by class score is the best by mask score, and
    covers part of the first."""
    boxes = torch.tensor([[2.0, 3, 12, 13], [8, 5, 20, 15], [22.0001, 1, 29, 4.5]])
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    return Detections(
        boxes,
        torch.tensor([1, 0, 1]),
        torch.tensor([0.9, 0.8, 0.5]),
        torch.tensor([0.6, 0.7, 0.1]),
        masks,
        class_names=("cat", "dog"),
        image=np.full((20, 30, 3), 90, np.uint8),
    )


def test_the_better_mask_is_on_top_in_the_file(found, tmp_path):
    path = found.save_masks(tmp_path / "new" / "masks.png")
    numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16 and numbers.shape == (20, 30)
    expected = np.zeros((20, 30), int)
    expected[1:4, 22:29] = 3
    expected[3:13, 2:12] = 2
    expected[5:15, 8:20] = 1
    assert (numbers == expected).all()
    with pytest.raises(ValueError, match="name a .png"):
        found.save_masks(tmp_path / "masks.jpg")


def test_results_are_what_coco_scores(found, capsys):
    """pycocotools reads them, and finds AP 1 against the same masks as ground truth."""
    results = found.to_coco(image_id=7)
    assert [r["category_id"] for r in results] == [2, 1, 2]
    assert [r["score"] for r in results] == pytest.approx([0.6, 0.7, 0.1])
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 7, "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": i,
                "image_id": 7,
                "category_id": r["category_id"],
                "segmentation": r["segmentation"],
                "bbox": box["bbox"],
                "area": float(mask.sum()),
                "iscrowd": 0,
            }
            for i, (r, box, mask) in enumerate(
                zip(results, found.to_coco(kind="box"), found.masks), 1
            )
        ],
    }
    truth.createIndex()
    for kind, iou_type in (("mask", "segm"), ("box", "bbox")):
        read = truth.loadRes(json.loads(json.dumps(found.to_coco(image_id=7, kind=kind))))
        scored = COCOeval(truth, read, iou_type)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        assert scored.stats[0] == pytest.approx(1)


def test_boxes_are_xywh_with_class_scores_and_the_files_categories(found):
    results = found.to_coco(image_id="a", kind="box", categories={1: "seventeen"})
    assert [r["score"] for r in results] == pytest.approx([0.9, 0.5])
    assert results[1]["bbox"] == [22.0, 1.0, 7.0, 3.5]
    assert {(r["image_id"], r["category_id"]) for r in results} == {("a", "seventeen")}
    with pytest.raises(ValueError, match="use 'mask' or 'box'"):
        found.to_coco(kind="segm")


def test_drawing_takes_the_kept_picture_or_another(found):
    drawn = found.draw(labels=False)
    assert drawn.shape == (20, 30, 3) and drawn.dtype == np.uint8
    assert (drawn[10, 4] != 90).any() and (drawn[18, 2] == 90).all()  # inside a mask; ground
    assert (found.image == 90).all()
    assert (found.draw(score_threshold=0.9) == 90).all()
    assert (found.draw(np.zeros((20, 30, 3), np.uint8), top_k=0) == 0).all()
    found.image = None
    with pytest.raises(ValueError, match="give one"):
        found.draw()


def test_a_selection_keeps_names_and_picture(found):
    chosen = found.select(found.labels == 1).to("cpu")
    assert len(chosen) == 2 and chosen.class_names == ("cat", "dog") and chosen.image is found.image


def test_masks_are_kept_by_runs_and_come_back_alike(found):
    masks = found.masks
    assert masks.shape == (3, 20, 30) and masks.dtype == torch.bool
    assert found.runs.areas() == [100, 120, 21] == masks.sum((1, 2)).tolist()
    assert torch.equal(torch.from_numpy(found.runs.mask(2)), masks[2])
    top, left, pixels = found.runs.window(2)
    assert (top, left, pixels.shape) == (1, 22, (3, 7)) and pixels.all()
    assert torch.equal(found.select(torch.tensor([2, 0])).masks, masks[[2, 0]])
    assert repr(found) == "Detections(3 in 30x20)"


def test_supervision_gets_the_same(found):
    supervision = pytest.importorskip("supervision")
    given = found.to_supervision()
    assert isinstance(given, supervision.Detections) and len(given) == 3
    assert (given.xyxy == found.boxes.numpy()).all() and (given.area == [100, 120, 21]).all()
    assert given.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert given.confidence.tolist() == pytest.approx([0.6, 0.7, 0.1])


def test_without_supervision_a_line_says_what_to_install(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match="pip install supervision"):
        found.to_supervision()
