"""Shapes, anchors, batch normalisation and options of the model; its numbers are compared in
tests/reference_cases/net.py."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.schema import MIN_PROTOTYPE_SIZE_FOR_MASK_IOU
from yolact.dcn import DeformConv2d
from yolact.fpn import FPN, norm_layer
from yolact.heads import MaskIoUNet, PredictionHead, prototype_net
from yolact.model import Yolact
from yolact.resnet import LAYOUTS, ResNet


def small_model(*, name="resnet10", dcn_layers=(0, 0, 0, 0), norm="none", **options):
    torch.manual_seed(0)
    backbone = ResNet(name, width=8, dcn_layers=dcn_layers)
    return Yolact(
        backbone,
        3,
        fpn_channels=16,
        proto_channels=16,
        prototypes=6,
        head_channels=16,
        norm=norm,
        **options,
    )


def deformable_blocks(backbone):
    return [
        [index for index, block in enumerate(stage) if isinstance(block.conv2, DeformConv2d)]
        for stage in backbone.layers
    ]


@pytest.mark.parametrize("size", [230, 256, 262, 300, 550])
def test_anchors_without_a_forward_pass_are_those_of_the_forward_pass(size):
    model = small_model(anchor_scales=((24.0, 30.0),) * 5).eval()
    with torch.no_grad():
        predictions = model(torch.zeros(1, 3, size, size))
    anchors, level_sizes = small_model(anchor_scales=((24.0, 30.0),) * 5).anchors_for(size)
    assert torch.equal(anchors, predictions.anchors)
    assert level_sizes == predictions.level_sizes and sum(level_sizes) == len(anchors)


def test_published_anchor_counts():
    model = small_model()
    assert model.anchors_for(550)[1] == (14283, 3675, 972, 243, 75)
    assert model.anchors_for(550)[0].shape == (19248, 4)


@pytest.mark.parametrize("kept", [64, 96])
def test_anchors_can_be_trained_with_after_inference_mode(kept):
    model = small_model(image_size=kept)
    with torch.inference_mode():
        model.to("cpu")(torch.zeros(1, 3, 64, 64))
    out = model(torch.zeros(1, 3, 64, 64))
    (out.box_deltas * out.anchors).sum().backward()
    assert not out.anchors.is_inference() and out.anchors.shape == out.box_deltas.shape[1:]
    shown = [p.grad for name, p in model.named_parameters() if "bbox_layer.bias" in name]
    assert shown and all(grad.isfinite().all() and grad.any() for grad in shown)


def test_anchors_of_the_own_size_are_kept_and_no_forward_pass_changes_the_model():
    model = small_model(image_size=64).eval()
    before = dict(vars(model))
    assert model(torch.zeros(1, 3, 64, 64)).anchors is model.anchors
    assert model(torch.zeros(1, 3, 96, 96)).anchors is not model.anchors
    assert vars(model) == before
    assert "anchors" not in model.state_dict()


def test_anchors_stay_whole_where_weights_change_their_type_or_are_not_there_yet():
    expected, _ = small_model().anchors_for(64)
    assert torch.equal(small_model(image_size=64).bfloat16().anchors, expected)
    with torch.device("meta"):
        model = small_model(image_size=64)
    assert model.anchors.is_meta
    assert torch.equal(model.to_empty(device="cpu").anchors, expected)


@pytest.mark.parametrize("kept", [64, 96])
def test_export_has_nothing_to_warn_of(kept):
    """Warnings are errors here. Predictions become a tuple, since export takes no other types."""

    class Tuple(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small_model(image_size=kept, dcn_layers=(0, 0, 0, 1)).eval()

        def forward(self, images):
            out = self.model(images)
            return out.box_deltas, out.class_logits, out.mask_coeffs, out.prototypes, out.anchors

    wrapped, images = Tuple(), torch.randn(1, 3, 64, 64)
    program = torch.export.export(wrapped, (images,))
    for found, expected in zip(program.module()(images), wrapped(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_model_is_compiled_once():
    model, graphs = small_model(image_size=64).eval(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(3):
        compiled(torch.randn(1, 3, 64, 64))
    assert len(graphs) == 1


def test_fields_and_shapes_in_both_modes():
    model = small_model(mask_iou_net=True)
    x = torch.randn(2, 3, 70, 70)
    trained = model.train()(x)
    evaluated = model.eval()(x)
    anchors = sum(trained.level_sizes)
    for out in (trained, evaluated):
        assert out.box_deltas.shape == (2, anchors, 4)
        assert out.class_logits.shape == (2, anchors, 4)
        assert out.mask_coeffs.shape == (2, anchors, 6) and out.mask_coeffs.abs().max() <= 1
        assert out.prototypes.shape == (2, 18, 18, 6) and out.prototypes.min() >= 0
        assert out.class_scores().shape == (2, anchors, 3)
    assert trained.semantic_logits.shape == (2, 3, 9, 9)
    assert evaluated.semantic_logits is None
    assert small_model(semantic_head=False).train()(x).semantic_logits is None


def test_every_parameter_gets_a_gradient():
    model = small_model(name="resnet14", dcn_layers=(0, 1, 1, 1), mask_iou_net=True).train()
    out = model(torch.randn(2, 3, 64, 64))
    total = sum(
        t.square().sum()
        for t in (
            out.box_deltas,
            out.class_logits,
            out.mask_coeffs,
            out.prototypes,
            out.semantic_logits,
        )
    )
    (total + model.mask_iou_net(torch.rand(2, 1, 63, 63)).sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        small_model()(torch.zeros(1, 3, 64, 96))


def test_deformable_blocks_of_the_published_models():
    assert deformable_blocks(ResNet("resnet50", width=1, dcn_layers=(0, 4, 6, 3))) == [
        [],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2],
    ]
    plus_base = ResNet("resnet101", width=1, dcn_layers=(0, 4, 23, 3), dcn_interval=3)
    assert deformable_blocks(plus_base) == [[], [0, 3], [0, 3, 6, 9, 12, 15, 18, 21], [0]]
    assert deformable_blocks(
        ResNet("resnet50", width=1, dcn_layers=(0, 0, 2, 9), dcn_interval=2)
    ) == [[], [], [4], [0, 2]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_backbones_halve_five_times(name):
    backbone = ResNet(name, width=4, dcn_layers=(0, 0, 0, 1)).eval()
    features = backbone(torch.zeros(1, 3, 65, 65))
    assert [f.shape[-1] for f in features] == [9, 5, 3]
    assert tuple(f.shape[1] for f in features) == backbone.channels
    assert isinstance(backbone.layers[3][-1].conv2, DeformConv2d)


def test_pyramid_has_relus_where_the_published_one_has():
    torch.manual_seed(0)
    pyramid = FPN((4, 8, 16), 8)([torch.randn(1, c, s, s) for c, s in ((4, 9), (8, 5), (16, 3))])
    assert [p.shape[-1] for p in pyramid] == [9, 5, 3, 2, 1]
    assert all(p.min() >= 0 for p in pyramid[:3]) and all(p.min() < 0 for p in pyramid[3:])


def test_norm_options_leave_the_official_names_alone():
    plain = set(small_model().state_dict())
    for norm in ("group", "batch"):
        model = small_model(norm=norm)
        assert plain < set(model.state_dict())
        kinds = {
            type(m)
            for part in (model.fpn, model.proto_net, model.prediction_layers)
            for m in part.modules()
        }
        assert (nn.GroupNorm in kinds) == (norm == "group") and (nn.BatchNorm2d in kinds) == (
            norm == "batch"
        )
        assert torch.isfinite(model(torch.randn(2, 3, 64, 64)).class_logits).all()
    with pytest.raises(ValueError, match="norm='layer' is not one of"):
        norm_layer("layer", 8)


@pytest.mark.parametrize("channels", [1, 12, 16, 48, 100, 256])
def test_group_counts_divide(channels):
    assert norm_layer("group", channels)(torch.randn(2, channels, 4, 4)).shape == (
        2,
        channels,
        4,
        4,
    )
    assert norm_layer("group", 256).num_groups == 32


def test_batch_norm_of_the_shared_head_is_per_level():
    head = PredictionHead(8, 8, anchors=3, num_classes=2, prototypes=4, norm="batch").train()
    head([torch.randn(2, 8, 4, 4) + 10 * level for level in range(5)])
    means = [norms[0].running_mean for norms in head.norms]
    assert len(means) == 5 and not torch.allclose(means[0], means[4])


@pytest.mark.parametrize(
    ("layers", "expected"), [(1, [0, 4, 6]), (3, [0, 2, 4, 8, 10]), (4, [0, 2, 4, 6, 10, 12])]
)
def test_prototype_net_numbering(layers, expected):
    net = prototype_net(8, 8, 4, layers=layers)
    assert [index for index, module in enumerate(net) if isinstance(module, nn.Conv2d)] == expected
    assert net(torch.zeros(1, 8, 9, 9)).shape == (1, 4, 18, 18)


def test_head_orders_anchors_by_level_row_column_and_anchor():
    head = PredictionHead(4, 4, anchors=3, num_classes=2, prototypes=5, layers=0)
    maps = [torch.randn(2, 4, 3, 4), torch.randn(2, 4, 2, 2)]
    boxes, classes, coefficients = head(maps)
    assert (
        boxes.shape == (2, 3 * 16, 4)
        and classes.shape == (2, 48, 3)
        and coefficients.shape == (2, 48, 5)
    )
    raw = head.bbox_layer(maps[0])  # (2,12,3,4)
    torch.testing.assert_close(boxes[1, (1 * 4 + 2) * 3 + 1], raw[1, 4:8, 1, 2])
    raw = head.mask_layer(maps[1])
    torch.testing.assert_close(
        coefficients[0, 36 + (1 * 2 + 0) * 3 + 2], raw[0, 10:15, 1, 0].tanh()
    )


def test_mask_iou_net_reads_the_smallest_allowed_prototypes():
    net = MaskIoUNet(7)
    side = MIN_PROTOTYPE_SIZE_FOR_MASK_IOU
    assert net(torch.rand(2, 1, side, side)).shape == (2, 7)
    assert net(torch.rand(0, 1, side, side)).shape == (0, 7)
    with pytest.raises(RuntimeError):
        net(torch.rand(2, 1, side - 1, side - 1))


def test_frozen_batch_norm_uses_running_statistics_and_survives_train():
    model = small_model(norm="batch")
    model.freeze_batchnorm(True)
    model.train()
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(2, 3, 64, 64))
    after = model.state_dict()
    changed = {
        key for key in before if "running" in key and not torch.equal(before[key], after[key])
    }
    # the heads' own statistics go on
    assert changed and not any(key.startswith("backbone.") for key in changed)
    assert not model.backbone.bn1.weight.requires_grad and not model.backbone.bn1.bias.requires_grad
    model.freeze_batchnorm(False)
    assert model.backbone.bn1.training and model.backbone.bn1.weight.requires_grad
    model(torch.randn(2, 3, 64, 64))
    assert not torch.equal(
        before["backbone.bn1.running_mean"], model.state_dict()["backbone.bn1.running_mean"]
    )
    model.eval()
    model.freeze_batchnorm(False)
    assert not model.backbone.bn1.training


def test_channels_last_and_autocast_run():
    model = small_model(name="resnet14", dcn_layers=(0, 0, 1, 1)).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    out = copy.deepcopy(model).to(memory_format=torch.channels_last)(
        x.to(memory_format=torch.channels_last)
    )
    for field in ("box_deltas", "class_logits", "mask_coeffs", "prototypes"):
        torch.testing.assert_close(
            getattr(out, field), getattr(expected, field), atol=1e-4, rtol=1e-4
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x)
    assert (
        F.cosine_similarity(
            half.class_logits.float().flatten(), expected.class_logits.flatten(), dim=0
        )
        > 0.99
    )
