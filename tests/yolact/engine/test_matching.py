"""The matching and precision of yolact/engine/matching.py against pycocotools' own, number for
number, and against faster-coco-eval's where it is installed."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolact.engine import matching
from yolact.engine.metrics import coco_inputs, run_coco

SIDE = 96


def disc(x: float, y: float, radius: float) -> dict:
    """A box and a mask."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask = rle.encode(
        np.asfortranarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2, np.uint8)
    )
    box = [float(v) for v in (x - radius, y - radius, 2 * radius, 2 * radius)]
    return {"bbox": box, "segmentation": {**mask, "counts": mask["counts"].decode()}}


def discs(seed: int, images: int = 8, classes: int = 3, extra: int = 6) -> tuple[dict, list[dict]]:
    """Crowds, detections that share an instance, equal scores and overlaps, classes without
    either; two sizes of areas."""
    rng = np.random.default_rng(seed)
    annotations: list[dict] = []
    detections: list[dict] = []
    for image in range(images):
        for _ in range(rng.integers(0, 7)):
            category, (x, y) = int(rng.integers(0, classes - 1)), rng.uniform(20, SIDE - 20, 2)
            radius = rng.uniform(4, 20)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": category,
                    "iscrowd": int(rng.random() < 0.15),
                    **disc(x, y, radius),
                }
            )
            for _ in range(rng.integers(0, 4)):
                move = rng.integers(-2, 3, 2)  # whole pixels: overlaps repeat
                near = disc(x + move[0], y + move[1], radius)
                detections.append({"image_id": image, "category_id": category, **near})
        for _ in range(extra):
            x, y, radius = rng.uniform(10, 80), rng.uniform(10, 80), rng.uniform(3, 20)
            category = int(rng.integers(0, classes))
            detections.append({"image_id": image, "category_id": category, **disc(x, y, radius)})
    for detection in detections:
        detection["score"] = float(rng.integers(1, 10) / 10)
    return {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in range(classes)],
    }, detections


def opened(kind, content: dict):
    coco = kind()
    coco.dataset = copy.deepcopy(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed, max_dets", [(0, 100), (1, 5), (2, 2), (3, 1)])
@pytest.mark.parametrize("chunk", [1, matching.CHUNK_ELEMENTS])
def test_every_match_and_number_is_pycocotools(monkeypatch, chunk, seed, max_dets, iou_type):
    monkeypatch.setattr(matching, "CHUNK_ELEMENTS", chunk)
    truth, detections = discs(seed)
    run = run_coco(truth, detections, iou_type, max_dets)
    ours = run.evaluator
    _, gt, found = coco_inputs(truth, detections, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(opened(COCO, gt), opened(COCO, found), iou_type)
        theirs.params.maxDets = list(ours.params.maxDets)
        theirs.evaluate()
        theirs.accumulate()
    ours.accumulate()
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(ours.eval[name], theirs.eval[name])
    images, seen = len(run.image_ids), 0
    for c in range(len(run.category_ids)):
        for i in range(images):
            own = ours.of_pair(c, i)
            of_ranges = [theirs.evalImgs[(c * 4 + r) * images + i] for r in range(4)]
            if own is None:
                assert of_ranges[0] is None or not of_ranges[0]["dtIds"]
                continue
            assert own.ids == of_ranges[0]["dtIds"]
            assert own.scores.tolist() == of_ranges[0]["dtScores"]
            assert np.array_equal(own.matched, np.stack([e["dtMatches"] for e in of_ranges]))
            assert np.array_equal(own.ignored, np.stack([e["dtIgnore"] for e in of_ranges]))
            seen += int((own.matched > 0).sum())
    assert seen > 100


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_found_and_nothing_there(iou_type):
    truth, detections = discs(4)
    none = run_coco(truth, [], iou_type).evaluator
    none.accumulate()
    assert set(np.unique(none.eval["precision"])) == {-1.0, 0.0} and none.of_pair(0, 0) is None
    empty = run_coco({**truth, "annotations": []}, detections, iou_type).evaluator
    empty.accumulate()
    assert (empty.eval["precision"] == -1).all() and (empty.eval["recall"] == -1).all()


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_faster_coco_eval_finds_the_same_precision(iou_type):
    faster = pytest.importorskip("faster_coco_eval", reason="needs the extra [boundary]")
    truth, detections = discs(5, images=20)
    ours = run_coco(truth, detections, iou_type).evaluator
    ours.accumulate()
    _, gt, found = coco_inputs(truth, detections, iou_type)
    theirs = faster.COCOeval_faster(
        opened(faster.COCO, gt),
        opened(faster.COCO, found),
        iou_type,
        print_function=lambda *_: None,
    )
    theirs.params.maxDets = list(ours.params.maxDets)
    theirs.evaluate()
    theirs.accumulate()
    for name in ("precision", "recall"):
        assert np.allclose(ours.eval[name], theirs.eval[name], rtol=0, atol=1e-12)
