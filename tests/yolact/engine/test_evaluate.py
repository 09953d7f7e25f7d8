"""Evaluation from model to table: known answers end to end, result files, and what a user can get
wrong."""

import errno
import json
import os

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from tests.yolact.engine.oracle import SIDE, Oracle, config, write_set
from yolact.build import build_model
from yolact.engine.evaluate import (
    evaluate,
    evaluate_files,
    evaluation_mode,
    write_results,
)

SQUARES = [
    [(16, 32, 80, 0), (120, 100, 100, 1)],
    [(8, 8, 64, 1), (160, 40, 48, 0), (60, 160, 72, 1)],
    [],
    [(100, 100, 120, 0)],
]


def run(model, cfg, **options):
    return evaluate(model, cfg, device="cpu", progress=False, **options)


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize(
    "image_ids, category_ids",
    [([0, 1, 2, 3], [0, 1]), ([900, 7, 33, 12], [90, 3]), (["d", "b", "a", "c"], ["x", "y"])],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_perfect_detections_give_one_and_files_keep_the_ids(
    tmp_path, image_ids, category_ids, batch_size
):
    gt = write_set(tmp_path, SQUARES, image_ids=image_ids, category_ids=category_ids)
    result = run(
        Oracle(),
        config(tmp_path, f"eval.batch_size={batch_size}"),
        results_dir=tmp_path / "results",
    )
    assert result.images == 4
    assert (
        result.bbox.ap == pytest.approx(1)
        and result.segm.ap50 == pytest.approx(1)
        and result.mask_ap > 0.95
    )
    assert result.bbox.per_class == pytest.approx({"red": 1, "green": 1})
    boxes, masks = (
        json.loads((tmp_path / "results" / f"{kind}_detections.json").read_text())
        for kind in ("bbox", "mask")
    )
    truth = json.loads(gt.read_text())["annotations"]
    expected = sorted((str(a["image_id"]), str(a["category_id"]), a["bbox"]) for a in truth)
    # Fast NMS lets a kept box's low scores of other classes through
    sure = [d for d in boxes if d["score"] > 0.5]
    assert sorted((str(d["image_id"]), str(d["category_id"]), d["bbox"]) for d in sure) == expected
    assert {d["image_id"] for d in masks} == {a["image_id"] for a in truth} and len(masks) == len(
        boxes
    )
    again = evaluate_files(
        config(tmp_path),
        tmp_path / "results" / "bbox_detections.json",
        tmp_path / "results" / "mask_detections.json",
    )
    assert repr((again.bbox, again.segm)) == repr((result.bbox, result.segm))  # NaN included


def test_pictures_of_another_shape_than_the_input(tmp_path):
    """Boxes and masks come back in pixels of the original image."""
    write_set(tmp_path, [[(64, 128, 192, 0)]], image_ids=[5], category_ids=[1, 2], size=(512, 1024))
    result = run(Oracle(), config(tmp_path), results_dir=tmp_path)
    assert result.bbox.ap == pytest.approx(1) and result.segm.ap50 == pytest.approx(1)
    mask = json.loads((tmp_path / "mask_detections.json").read_text())[0]["segmentation"]
    assert mask["size"] == [512, 1024] and rle.area(mask) == pytest.approx(192 * 192, rel=0.05)


def test_masks_are_made_as_the_config_says(tmp_path):
    """An oracle whose boxes are a prototype pixel too small, on a picture of 4 x its input: masks
    of logits end at the box, those of probabilities reach on."""

    class Narrow(Oracle):
        def forward(self, images):
            found = super().forward(images)
            found.anchors[:, 2:] -= 8 / SIDE
            return found

    write_set(tmp_path, [[(64, 128, 192, 0)]], image_ids=[5], category_ids=[1, 2], size=(512, 1024))
    boxes, widths = [], []
    for masks in ("published", "subpixel"):
        cfg = config(tmp_path, f"eval.masks={masks}")
        boxes.append(run(Narrow(), cfg, results_dir=tmp_path).bbox)
        mask = json.loads((tmp_path / "mask_detections.json").read_text())[0]["segmentation"]
        widths.append(rle.toBbox(mask)[2])
    # 16 and 2 pixels of the picture wider than the box of 160
    assert widths == [192, 162] and repr(boxes[0]) == repr(boxes[1])


def test_a_part_of_the_images(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    files = tmp_path / "boxes.json", tmp_path / "masks.json"
    result = run(Oracle(), config(tmp_path), max_images=2, result_files=files)
    assert result.images == 2 and result.bbox.ap == pytest.approx(1)
    # on the two images that were evaluated, not on all four
    again = evaluate_files(config(tmp_path), *files)
    assert repr((again.images, again.bbox, again.segm)) == repr((2, result.bbox, result.segm))
    assert evaluate_files(config(tmp_path), *files, max_images=1).images == 1
    run(Oracle(), config(tmp_path), result_files=files)
    assert (
        evaluate_files(config(tmp_path), *files).images == 4
        and len(list(tmp_path.glob("boxes*"))) == 1
    )


def test_label_map_may_merge_categories(tmp_path):
    """What the model calls red is right on annotations of either category; green has no category
    here, so that its results are left out."""
    path = write_set(
        tmp_path, [[(16, 32, 80, 0)], [(8, 8, 64, 0)]], image_ids=[0, 1], category_ids=[4, 9]
    )
    content = json.loads(path.read_text())
    content["annotations"][1]["category_id"] = 9
    path.write_text(json.dumps(content))
    cfg = config(tmp_path, "data.label_map={4: 0, 9: 0}")
    result = run(Oracle(), cfg, results_dir=tmp_path)
    assert result.bbox.ap == pytest.approx(1) and list(result.bbox.per_class) == ["red"]
    again = evaluate_files(
        cfg, tmp_path / "bbox_detections.json", tmp_path / "mask_detections.json"
    )
    assert repr((again.bbox, again.segm)) == repr((result.bbox, result.segm))  # NaN included


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "only_used"])
def test_label_map_may_name_categories_that_the_file_lacks(tmp_path, listed):
    """Category 2 is of the training file, say; 4 and 9 are here, and 9 perhaps without an entry in
    categories."""
    path = write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[4, 9])
    if not listed:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "categories": content["categories"][:1]}))
    result = run(
        Oracle(), config(tmp_path, "data.label_map={2: 0, 4: 0, 9: 1, 7: 1}"), results_dir=tmp_path
    )
    assert result.bbox.per_class == pytest.approx({"red": 1, "green": 1})
    assert {
        d["category_id"] for d in json.loads((tmp_path / "bbox_detections.json").read_text())
    } == {4, 9}


def test_an_annotation_file_with_a_byte_order_mark(tmp_path):
    path = write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert run(Oracle(), config(tmp_path)).bbox.ap == pytest.approx(1)


def test_a_random_model_end_to_end(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    cfg = config(tmp_path, "eval.score_threshold=0.0")
    model = build_model(cfg).train()
    model.freeze_batchnorm(True)
    modes = [m.training for m in model.modules()]
    result = run(model, cfg, results_dir=tmp_path / "r", max_images=2)
    assert [m.training for m in model.modules()] == modes and any(modes) and not all(modes)
    masks = json.loads((tmp_path / "r" / "mask_detections.json").read_text())
    boxes = json.loads((tmp_path / "r" / "bbox_detections.json").read_text())
    assert len(masks) == len(boxes) > 0 and {d["image_id"] for d in masks} <= {0, 1}
    assert any(m["score"] != b["score"] for m, b in zip(masks, boxes))  # masks are re-scored
    assert 0 <= result.mask_ap <= 1
    assert next(model.parameters()).requires_grad and not next(model.parameters()).is_inference()
    nothing = run(
        model,
        config(tmp_path, "eval.score_threshold=1.0"),
        results_dir=tmp_path / "r",
        max_images=2,
    )
    assert nothing.mask_ap == 0 and nothing.bbox.ar_max == 0
    assert json.loads((tmp_path / "r" / "mask_detections.json").read_text()) == []


def test_training_goes_on_after_evaluation(tmp_path):
    """Nothing that evaluation caches in the model may break the backward pass of the next step."""
    write_set(tmp_path, SQUARES[:1], image_ids=[0], category_ids=[1, 2])
    cfg = config(tmp_path)
    model = build_model(cfg).train()
    run(model, cfg)
    predictions = model(torch.zeros(2, 3, 256, 256))
    (predictions.box_deltas * predictions.anchors).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


# ---------------------------------------------------------------- the table


def test_table_has_yolacts_layout(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    result = run(Oracle(), config(tmp_path))
    lines = result.table().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "all",
        "50",
        "55",
        "60",
        "65",
        "70",
        "75",
        "80",
        "85",
        "90",
        "95",
    ]
    assert [cell.strip() for cell in lines[2].split("|")[:3]] == [
        "box",
        "100.00",
        "100.00",
    ] and lines[3].strip().startswith("mask |")
    assert len({len(line) for line in lines[:5]}) == 1
    assert "AP_S" in lines[6] and "AR_100" in lines[6] and "at most 100" not in result.table()
    assert "-" in lines[8].split("|")[1]  # no small squares, no AP_S
    green = ["green", "100.00", f"{100 * result.segm.per_class['green']:.2f}"]
    assert green in [line.split() for line in result.table(per_class=True).splitlines()]
    json.dumps(result.to_dict(), allow_nan=False)
    at_300 = run(Oracle(), config(tmp_path, "eval.max_dets=300")).table()
    assert (
        "AR_300" in at_300
        and "with at most 100 detections an image (above: 300): box AP 100.00" in at_300
    )


# ---------------------------------------------------------------- what can go wrong


def test_an_empty_validation_set_is_refused(tmp_path):
    write_set(tmp_path, [], image_ids=[], category_ids=[1, 2])
    with pytest.raises(ValueError, match="annotations.json.*no images"):
        run(Oracle(), config(tmp_path))


def test_an_image_that_is_missing_or_truncated_is_named(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    picture = tmp_path / "images" / "1.png"
    whole = picture.read_bytes()
    model = Oracle().train()
    for content in (whole[: len(whole) // 2], b"", None):
        picture.unlink()
        if content is not None:
            picture.write_bytes(content)
        with pytest.raises(ValueError, match=r"1\.png"):
            run(model, config(tmp_path), results_dir=tmp_path / "r")
        assert model.training and not list((tmp_path / "r").iterdir())
        if content is None:
            cv2.imwrite(str(picture), np.zeros((4, 4, 3), np.uint8))


def test_results_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    one, two, paths = (
        [{"score": 1}],
        [{"score": 2}],
        (tmp_path / "boxes.json", tmp_path / "masks.json"),
    )
    write_results(*paths, one, two)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_results(*paths, two, one, ["image"])
    assert [json.loads(p.read_text()) for p in paths] == [one, two] and len(
        list(tmp_path.iterdir())
    ) == 2
    with pytest.raises(ValueError, match="a file each"):
        write_results(paths[0], paths[0], one, two)


def test_a_results_folder_that_cannot_be_made_costs_no_evaluation(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    (tmp_path / "taken").write_text("a file")
    model = Oracle()
    with pytest.raises(OSError, match="taken"):
        run(model, config(tmp_path), results_dir=tmp_path / "taken")
    assert not model.seen


def test_unusable_result_files_are_named(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    cfg, paths = (
        config(tmp_path),
        (tmp_path / "bbox_detections.json", tmp_path / "mask_detections.json"),
    )
    write_results(
        *paths, [{"image_id": 77, "category_id": 1, "score": 0.5, "bbox": [0, 0, 2, 2]}], []
    )
    with pytest.raises(ValueError, match="bbox_detections.json.*image_id 77"):
        evaluate_files(cfg, *paths)
    paths[0].write_text('[{"image_id": 0, ')
    with pytest.raises(ValueError, match="bbox_detections.json.*cut off"):
        evaluate_files(cfg, *paths)
    paths[0].write_text("{}")
    with pytest.raises(ValueError, match="not a list of detections"):
        evaluate_files(cfg, *paths)


def test_an_unknown_precision_is_refused(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=[0, 1, 2, 3], category_ids=[1, 2])
    with pytest.raises(ValueError, match="float32, bf16, fp16"):
        run(Oracle(), config(tmp_path), precision="half")


def test_evaluation_mode_survives_errors():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(3)).train()
    model[1].eval()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model[0].training
        raise RuntimeError
    assert model.training and model[0].training and not model[1].training
