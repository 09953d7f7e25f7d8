"""Box and class losses other than YOLACT's, from the training step to evaluation: the sigmoid head,
and what it does to the rest."""

import json

import pytest
import torch

from data.resolve import load_config
from data.schema import LossConfig
from tests.sync_counter import counted_syncs
from yolact.build import build_model
from yolact.checkpoint import load_weights
from yolact.engine.state import build_state
from yolact.engine.step import Updater, read
from yolact.engine.train import train
from yolact.postprocess import detect
from yolact.testing import tiny

CPU = torch.device("cpu")
FOCAL = {"classification": "focal", "box": "ciou"}


def updater(**options):
    cfg = tiny.config(**options)
    state, _ = build_state(cfg, CPU, None)
    return cfg, Updater(state, cfg, CPU)


@pytest.mark.parametrize("counts", [[2, 0, 3, 1], [0, 0, 0, 0]])
def test_one_step_moves_every_layer_and_waits_once(counts):
    cfg, update = updater(loss=FOCAL)
    update([tiny.batch(cfg, update.state.criterion, counts)])
    batch = tiny.batch(cfg, update.state.criterion, counts, seed=1)
    with counted_syncs() as calls:
        record = update([batch])
    assert len(calls) <= 1, calls
    assert read([record])[0].problem == ""
    gradients = {
        name: p.grad for name, p in update.state.model.named_parameters() if p.requires_grad
    }
    assert all(
        gradient is not None and gradient.isfinite().all() for gradient in gradients.values()
    )
    assert gradients["prediction_layers.0.class_layer.weight"].any()
    assert bool(gradients["prediction_layers.0.bbox_layer.weight"].any()) == any(counts)


GMAYOLACT = {
    "classification": "rank_sort",
    "box": "giou",
    "mask": "dice",
    "self_balance": True,
    "box_weight": 1,
    "mask_weight": 1,
}


@pytest.mark.parametrize("counts", [[2, 0, 3, 1], [0, 0, 0, 0]])
def test_rank_and_sort_waits_once_and_survives_an_empty_batch(counts):
    cfg, update = updater(loss=GMAYOLACT)
    update([tiny.batch(cfg, update.state.criterion, counts)])
    batch = tiny.batch(cfg, update.state.criterion, counts, seed=1)
    with counted_syncs() as calls:
        record = update([batch])
    assert len(calls) <= 1, calls
    losses = read([record])[0].losses
    assert read([record])[0].problem == "" and losses["box"] == pytest.approx(
        losses["class"]
    ) == pytest.approx(losses["mask"])
    gradients = {
        name: p.grad for name, p in update.state.model.named_parameters() if p.requires_grad
    }
    assert all(
        gradient is not None and gradient.isfinite().all() for gradient in gradients.values()
    )
    for layer in ("class_layer", "bbox_layer", "mask_layer"):
        assert bool(gradients[f"prediction_layers.0.{layer}.weight"].any()) == any(counts)


@pytest.mark.parametrize(
    ("preset", "mask"),
    [("mayolact_550", "bce"), ("gmayolact_700", "dice"), ("gmayolact_700", "bce + 0.5*mse")],
)
@pytest.mark.parametrize("rescored", [False, True])
def test_the_presets_take_a_step(preset, mask, rescored):
    """At another size, everything they are made of: grouped deformable convolution, CARAFE,
    assignment by masks, their losses."""
    cfg = load_config(
        preset,
        [
            f"model.max_size={256 if rescored else 96}",
            "model.backbone=resnet14",
            "model.backbone_width=8",
            "model.dcn_layers=[0,1,1,1]",
            "model.fpn_channels=16",
            "model.proto_channels=16",
            "model.head_channels=16",
            "model.pretrained=none",
            "train.batch_size=2",
            f"loss.mask={mask}",
            "data.class_names=[disc,bar]",
            f"model.mask_iou_net={rescored}",
        ],
    )
    state, _ = build_state(cfg, CPU, None)
    batch = tiny.batch(cfg, state.criterion, [3, 2])
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    record = read([Updater(state, cfg, CPU)([batch])])[0]
    assert record.problem == "" and set(record.losses) == {"box", "class", "mask", "semantic"} | (
        {"mask_iou"} if rescored else set()
    )
    assert all(value > 0 for value in record.losses.values())
    moved = {name for name, p in state.model.named_parameters() if not torch.equal(p, before[name])}
    for part in (
        "conv2.conv_offset_mask.weight",
        "content_encoder.weight",
        "channel_compressor.weight",
    ):
        assert {name for name in before if part in name} <= moved
    assert all(
        any(name.startswith(part) for name in moved)
        for part in ("proto_net", "prediction_layers", "semantic_seg_conv")
    )


def test_rank_and_sort_learns_a_batch():
    cfg, update = updater(
        loss=GMAYOLACT, optimizer="adamw", lr=2e-3, iterations=100, lr_steps=(100,)
    )
    batch = tiny.batch(cfg, update.state.criterion, [2, 1, 1, 2])
    steps = read([update([batch]) for _ in range(60)])
    assert steps[-1].losses["class"] < 0.5 * steps[0].losses["class"]
    model = update.state.model.eval()
    with torch.no_grad():
        predictions = model(update._prepare(batch.images))
    assigned = (
        update.state.criterion.assign(
            predictions.anchors, predictions.level_sizes, batch.targets
        ).gt_index
        >= 0
    )
    scores = predictions.class_scores().amax(-1)
    assert scores[assigned].mean() > scores[~assigned].quantile(0.99)


def test_the_prior_keeps_the_many_negatives_from_swamping_the_first_step():
    first = []
    for prior in (True, False):
        cfg, update = updater(loss=FOCAL)
        if not prior:
            torch.nn.init.zeros_(update.state.model.prediction_layers[0].class_layer.bias)
        first.append(
            read([update([tiny.batch(cfg, update.state.criterion, [2, 1, 3, 1])])])[0].losses[
                "class"
            ]
        )
    assert first[0] < 0.2 * first[1]


@pytest.mark.parametrize("box", ["smooth_l1", "giou", "diou", "ciou"])
def test_a_batch_is_learnt(box):
    cfg, update = updater(
        loss={"classification": "focal", "box": box},
        optimizer="adamw",
        lr=2e-3,
        iterations=100,
        lr_steps=(100,),
    )
    batch = tiny.batch(cfg, update.state.criterion, [2, 1, 1, 2])
    steps = read([update([batch]) for _ in range(60)])
    first, last = steps[0].losses, steps[-1].losses
    assert last["box"] < 0.6 * first["box"] and last["class"] < 0.4 * first["class"]
    model = update.state.model.eval()
    with torch.no_grad():
        predictions = model(update._prepare(batch.images))
    assert predictions.sigmoid and predictions.class_scores().amax() > 0.3
    found = detect(predictions, [(64, 64)] * 4, score_threshold=0.2)
    assert all(len(detections) for detections in found)


def test_the_whole_program_with_a_sigmoid_head(tmp_path):
    """Training, validation, checkpoint, and back: the checkpoint's own config builds the model that
    it fits."""
    folder = tiny.write_dataset(tmp_path / "data", train=6, val=2)
    cfg = tiny.config(folder, loss=FOCAL, validate_every=3, iterations=3, ema_decay=0.9)
    cfg = cfg.model_copy(update={"eval": cfg.eval.model_copy(update={"score_threshold": 0.0})})
    train(cfg, device="cpu", run_dir=tmp_path / "run")
    content = torch.load(tmp_path / "run" / "weights" / "last.pth", weights_only=True)
    assert content["config"]["loss"]["classification"] == "focal"
    assert not load_weights(build_model(cfg), content, use_ema=True).reset
    assert json.loads((tmp_path / "run" / "results" / "bbox_detections.json").read_text())
    longer = cfg.model_copy(update={"train": cfg.train.model_copy(update={"iterations": 4})})
    train(longer, device="cpu", resume=tmp_path / "run")
    other = longer.model_copy(update={"loss": LossConfig(box="ciou")})
    with pytest.raises(
        ValueError, match="for sigmoid class logits and the model gives softmax ones"
    ):
        train(other, device="cpu", resume=tmp_path / "run")
