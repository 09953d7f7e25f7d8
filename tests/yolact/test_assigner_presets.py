"""The configs that compare anchor assigners, and anchors as the published mask-aware code places
them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.config import CONFIGS
from data.resolve import ConfigError, load_config
from layers.boxes import corners
from yolact import build_model
from yolact.dcn import DeformConv2d

STORED = Path(__file__).parents[1] / "reference" / "assigners_losses" / "2_atss"
ABLATION = sorted(name for name in CONFIGS if name.startswith("assigners/"))
SMALL = [
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=4",
    "model.pretrained=none",
    "data.class_names=[thing]",
]


def test_only_assigner_and_input_size_differ():
    assert len(ABLATION) == 18
    configs = [load_config(name) for name in ABLATION]
    common = {
        c.model_copy(
            update={"name": "", "assign": None, "model": c.model.model_copy(update={"max_size": 0})}
        ).model_dump_json()
        for c in configs
    }
    assert len(common) == 1
    train = configs[0].train
    epoch = 117_266 / train.batch_size  # images with annotations of COCO train2017
    assert [round(step / epoch, 3) for step in (*train.lr_steps, train.iterations)] == [
        20,
        42,
        49,
        52,
        55,
    ]
    assert (train.lr, configs[0].loss.mask_weight, configs[0].model.anchors_per_location) == (
        4e-3,
        8,
        1,
    )


@pytest.mark.parametrize("size", [400, 550])
def test_offset_zero_is_the_published_grid(size):
    model = build_model(
        load_config(f"assigners/atss_maiou_{size}", [*SMALL, "model.anchor_offset=0"])
    )
    anchors, levels = model.anchors_for(size)
    with np.load(STORED / f"anchors_repo_s4_{size}.npz") as stored:
        assert list(levels) == stored["num_per_level"].tolist()
        np.testing.assert_allclose(corners(anchors) * size, stored["anchors"], atol=1e-4)
    middle, _ = build_model(load_config(f"assigners/atss_maiou_{size}", SMALL)).anchors_for(size)
    assert torch.equal(middle[:, 2:], anchors[:, 2:]) and (middle[:, :2] > anchors[:, :2]).any()


@pytest.mark.parametrize(
    "scales, per_location",
    [
        ("[[32], [64], [128], [256], [512]]", 1),
        ("[[32, 45.25], [64, 90.5], [128, 181], [256, 362], [512, 724]]", 2),
    ],
)
def test_the_head_follows_the_anchors(scales, per_location):
    model = build_model(
        load_config("assigners/atss_iou_400", [*SMALL, f"model.anchor_scales={scales}"])
    )
    assert model.prediction_layers[0].bbox_layer.out_channels == 4 * per_location
    with torch.no_grad():
        found = model.eval()(torch.zeros(1, 3, 128, 128))
    assert (
        found.box_deltas.shape[1]
        == len(found.anchors)
        == per_location * sum(side * side for side in (16, 8, 4, 2, 1))
    )


def test_other_offsets_are_refused():
    with pytest.raises(ConfigError, match="anchor_offset=0.25: must be 0.5"):
        load_config("yolact_base", ["model.anchor_offset=0.25"])


@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [("resnet18", (0, 2, 2, 2)), ("resnet50", (0, 4, 6, 3)), ("resnet101", (0, 4, 23, 3))],
)
def test_every_block_of_c3_to_c5_is_deformable_on_any_resnet(backbone, blocks):
    model = build_model(load_config("mayolact_550", [*SMALL, f"model.backbone={backbone}"]))
    stages = [
        sum(isinstance(module, DeformConv2d) for module in stage.modules())
        for stage in model.backbone.layers
    ]
    assert tuple(stages) == blocks


def test_the_presets_run_on_darknet_without_deformable_convolution():
    with pytest.raises(ConfigError, match=r"set dcn_layers=\[0,0,0,0\]"):
        load_config("gmayolact_550", ["model.backbone=darknet53"])
    assert (
        load_config(
            "gmayolact_550", ["model.backbone=darknet53", "model.dcn_layers=[0,0,0,0]"]
        ).model.backbone
        == "darknet53"
    )
