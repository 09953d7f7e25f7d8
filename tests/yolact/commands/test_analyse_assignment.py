"""scripts/analyse_assignment.py: its measurements on real annotations, its figures, its one-line
errors."""

import math

import numpy as np
import pytest
import torch

from layers.assign import gma_iou
from layers.boxes import corners, encode, pairwise_iou
from layers.masks import box_window
from tests.data.sets import COCO, NUCLEI, annotation, config, image_entry, real_data, write_set
from yolact.analysis.assignment import plots
from yolact.analysis.assignment.data import (
    LEAST_IOU,
    LOSSES,
    AnchorRatios,
    anchor_ratios,
    instances,
    mask_over_box,
    open_split,
    pairs,
    sample,
)
from yolact.build import build_criterion, build_model
from yolact.checkpoint import save_checkpoint
from yolact.commands.analyse_assignment import program
from yolact.testing import tiny

SMALL = [
    f"model.{key}={value}"
    for key, value in {
        "max_size": 96,
        "backbone": "resnet10",
        "backbone_width": 8,
        "pretrained": "none",
        "fpn_channels": 16,
        "proto_channels": 16,
        "prototypes": 4,
        "head_channels": 16,
        "mask_iou_net": "false",
    }.items()
]


def call(*words):
    return program(list(map(str, words)))


def coco_words():
    data = real_data(COCO)
    return [
        f"data.{key}={getattr(data, key)}"
        for key in ("root", "train_images", "train_annotations", "val_images", "val_annotations")
    ]


def test_ratios_are_those_of_the_annotations(tmp_path):
    triangle, crowd = [10, 10, 30, 10, 30, 30], {"size": [48, 64], "counts": [0, 48 * 64]}
    images, file = write_set(
        tmp_path,
        images=[image_entry()],
        annotations=[
            annotation(1),
            annotation(2, segmentation=[triangle]),
            annotation(3, iscrowd=1, segmentation=crowd),
        ],
    )
    cfg = config(
        real_data(
            COCO,
            root="",
            train_images=str(images),
            train_annotations=str(file),
            class_names=("thing",),
        )
    )
    dataset = open_split(cfg, "train")
    ratios = mask_over_box(dataset, [0])
    assert len(ratios) == 2 and ratios[0] == 1 and ratios[1] == pytest.approx(0.5, abs=0.03)
    assert sample(dataset, 0) == sample(dataset, 5) == [0]


def test_pairs_hold_the_three_measures_of_touching_anchors():
    cfg = config(real_data(COCO))
    dataset = open_split(cfg, "val")
    anchors, _ = build_model(tiny.config(model={"max_size": 128})).anchors_for(128)
    found = pairs(anchors, 128, instances(dataset, sample(dataset, 3)))
    assert len(found.iou) > 100 and (found.iou > 0).all() and (found.mask <= 1 + 1e-5).all()
    # rounding makes the masks of some small objects larger than their boxes
    inside = found.ratio <= 1
    assert (found.box[inside] >= found.mask[inside] - 0.1).all() and np.median(
        found.box - found.mask
    ) > 0
    _, targets = next(instances(dataset, sample(dataset, 3)))
    boxes = targets.boxes * 128
    every = {
        (round(a, 5), round(b, 5))
        for a, b in zip(
            pairwise_iou(boxes, corners(anchors) * 128).flatten().tolist(),
            gma_iou(corners(anchors) * 128, boxes, targets.masks, rounding="exact")
            .flatten()
            .tolist(),
            strict=True,
        )
    }
    assert {
        (round(a, 5), round(b, 5))
        for a, b in zip(found.iou.tolist(), found.mask.tolist(), strict=True)
    } & every


def seen_anchors(cfg, samples, model=None, trained=None):
    model = model or build_model(cfg).eval()
    anchors, level_sizes = model.anchors_for(cfg.model.max_size)
    criterion = build_criterion(cfg, model)
    return anchor_ratios(cfg, criterion, anchors, level_sizes, samples, trained)


def of_nuclei():
    cfg = config(real_data(NUCLEI)).model_copy(
        update={"model": tiny.config(model={"max_size": 256}).model}
    )
    dataset = open_split(cfg, "val")
    return cfg, list(instances(dataset, sample(dataset, 2)))


def test_ratios_of_anchors_count_their_own_pixels():
    """Against a loop over anchors that slices the masks."""
    cfg, samples = of_nuclei()
    model = build_model(cfg).eval()
    anchors, level_sizes = model.anchors_for(256)
    found = seen_anchors(cfg, samples[:1], model)
    _, targets = samples[0]
    rects, boxes = corners(anchors) * 256, targets.boxes * 256
    index = build_criterion(cfg, model).assign(anchors, level_sizes, [targets]).gt_index[0]
    overlap, expected = pairwise_iou(boxes, rects), []
    fine = targets.masks.repeat_interleave(4, 1).repeat_interleave(4, 2)  # quarters of pixels
    for a, rect in enumerate(rects):
        gt = int(index[a]) if index[a] >= 0 else int(overlap[:, a].argmax())
        if index[a] < -1 or overlap[gt, a] < LEAST_IOU:
            continue
        x1, y1, x2, y2 = (4 * rect).round().int().clamp(0, 1024).tolist()
        share = fine[gt][y1:y2, x1:x2].sum() / 16 / (rect[2:] - rect[:2]).prod()
        expected.append((float(overlap[gt, a]), float(share), int(index[a]) >= 0))
    iou, ratio, positive = zip(*expected, strict=True)
    assert found.iou == pytest.approx(iou, abs=1e-5) and found.positive.tolist() == list(positive)
    assert found.ratio == pytest.approx(ratio, abs=0.08)
    assert abs(found.ratio - ratio).mean() < 0.01
    assert 0 < found.positive.sum() < len(iou) and found.losses == {}


def test_losses_of_anchors_are_those_of_their_predictions():
    cfg, samples = of_nuclei()
    found = seen_anchors(cfg, samples, trained=build_model(cfg).eval())
    assert set(found.losses) == set(LOSSES) and len(found.iou) > 100
    for name, values in found.losses.items():  # of positives, or of negatives
        has = ~np.isnan(values)
        assert (has == (found.positive != (name == LOSSES[3]))).all()
    right = build_model(cfg).eval()
    anchors, level_sizes = right.anchors_for(256)
    index = build_criterion(cfg, right).assign(anchors, level_sizes, [samples[0][1]]).gt_index[0]

    class Right(torch.nn.Module):
        """Predicts each positive's box displaced by 2 in every offset, all classes equally, and
        masks of probability one half."""

        def forward(self, images):
            out = right(images)
            boxes = samples[0][1].boxes[index.clamp(min=0)]
            out.box_deltas = encode(boxes, out.anchors)[None] + 2
            out.class_logits = torch.zeros_like(out.class_logits)
            out.mask_coeffs = torch.zeros_like(out.mask_coeffs)
            return out

    found = seen_anchors(cfg, samples[:1], right, Right())
    losses = {name: values[~np.isnan(values)] for name, values in found.losses.items()}
    # one class and the background: both are one half
    assert losses["class"] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[LOSSES[3]] == pytest.approx(math.log(2), abs=1e-5)
    assert losses["box"] == pytest.approx(4 * 1.5, abs=1e-4)  # smooth L1 of 2 is 1.5
    boxes = samples[0][1].boxes
    # prototypes of 64 px
    counted = (
        math.log(2)
        * box_window(boxes, (64, 64)).sum((1, 2))
        / ((boxes[:, 2:] - boxes[:, :2]) * 64).prod(1)
    )
    assert all((counted - value).abs().min() < 1e-4 for value in losses["mask"])


def test_figures_and_table(tmp_path, capsys):
    weights = tmp_path / "w.pth"
    from data.resolve import load_config

    words = ["yolact_plus_tiny", *SMALL, *coco_words()]
    save_checkpoint(weights, build_model(load_config(words[0], words[1:])).state_dict())
    out = tmp_path / "figures"
    assert (
        call(
            *words,
            "--weights",
            weights,
            "--images",
            3,
            "--picture",
            "first",
            "--split",
            "val",
            "--out",
            out,
            "--assigners",
            "max_iou",
            "atss(iou='gmaiou')",
        )
        == 0
    )
    text = capsys.readouterr().out
    assert (
        "mask over box: mean" in text
        and "masks of 24 px change" in text
        and "positives/object" in text
    )
    names = {path.name for path in out.iterdir()}
    assert names == {
        "ratio.png",
        *(f"yolact_plus_tiny_{part}.png" for part in ("overlaps", "anchors", "positives_first")),
    }
    assert all(path.stat().st_size > 10_000 for path in out.iterdir())


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name at least one"),
        (["nucle"], "did you mean nuclei"),
        (["nuclei", "coco2017", "--weights", "x.pth"], "belongs to one config"),
        (["nuclei", "--assigners", "atts"], "did you mean atss"),
        (["nuclei", "--images", "-1"], "0 = all"),
        (["yolact_plus_tiny", "data.root=/nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_picture_of_an_unknown_image_is_refused(tmp_path, capsys):
    assert (
        call(
            "yolact_plus_tiny",
            *SMALL,
            *coco_words(),
            "--images",
            1,
            "--split",
            "val",
            "--picture",
            "zebra",
            "--out",
            tmp_path,
        )
        == 2
    )
    assert "no annotated image of id zebra" in capsys.readouterr().err


def test_the_legend_names_every_bin_though_its_panel_has_no_such_curve(tmp_path, monkeypatch):
    """Negatives alone reach the lowest IoU, positives the highest."""
    told = []
    monkeypatch.setattr(plots.plt, "close", lambda figure: told.append(figure))
    iou, ratio = np.tile([0.3, 0.8], 40), np.full(80, 0.5)
    found = AnchorRatios(iou, ratio, iou > 0.5, {})
    plots.by_anchor_ratio("made", found, tmp_path / "made.png")
    (figure,) = told
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == [f"IoU {low:g} to {high:g}" for low, high in plots.IOU_BINS]
    colours = [figure.axes[n].containers[0][0].get_color() for n in (0, 1)]
    handles = [handle.get_color() for handle in figure.axes[0].get_legend().legend_handles]
    assert colours == [handles[-1], handles[0]]
