"""Random initialisation, the criterion's wiring, and pretrained backbones."""

import urllib.error

import pytest
import torch
import torchvision

from data.schema import Config
from yolact import build_model
from yolact.build import build_criterion, load_pretrained_backbone
from yolact.outputs import Targets
from yolact.pretrained import backbone_state

SMALL = dict(
    max_size=256,
    backbone="resnet18",
    fpn_channels=16,
    proto_channels=16,
    prototypes=8,
    head_channels=16,
)


def config(*, classes=("a", "b"), seed=0, loss=None, **model):
    return Config(
        name="test",
        model={**SMALL, **model},
        data={"class_names": classes},
        train={"seed": seed},
        loss=loss or {},
    )


def test_weights_depend_on_names_shapes_and_seed_only():
    one, other = (
        build_model(config()).state_dict(),
        build_model(config(classes=("a", "b", "c"), mask_iou_net=True)).state_dict(),
    )
    shared = [key for key in one if one[key].shape == other[key].shape]
    assert len(shared) == len(one) - 4  # class and semantic layers
    assert all(torch.equal(one[key], other[key]) for key in shared)
    reseeded = build_model(config(seed=1)).state_dict()
    assert not torch.equal(one["fpn.lat_layers.0.weight"], reseeded["fpn.lat_layers.0.weight"])


def test_a_sigmoid_class_loss_decides_on_the_head():
    softmax, sigmoid = build_model(config()), build_model(config(loss={"classification": "focal"}))
    ours, theirs = sigmoid.state_dict(), softmax.state_dict()
    own = {key for key in ours if ".class_layer." in key}
    assert len(own) == 2 and set(ours) - own == {key for key in theirs if ".conf_layer." not in key}
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key not in own)
    assert (
        len(ours["prediction_layers.0.class_layer.weight"]) == 3 * 2
        and len(theirs["prediction_layers.0.conf_layer.weight"]) == 3 * 3
    )
    torch.testing.assert_close(
        ours["prediction_layers.0.class_layer.bias"].sigmoid(), torch.full((6,), 0.01)
    )
    images = torch.rand(1, 3, 64, 64)
    for model, width in ((softmax, 3), (sigmoid, 2)):
        out = model(images)
        assert out.class_logits.shape[2] == width and out.class_scores().shape == (
            1,
            len(out.anchors),
            2,
        )
    assert out.sigmoid and torch.equal(out.class_scores(), out.class_logits.sigmoid())


def test_an_unknown_class_loss_is_named():
    with pytest.raises(ValueError, match="no class loss is called 'fokal'; did you mean focal"):
        build_model(config(loss={"classification": "fokal"}))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(config())
    assert torch.equal(torch.rand(3), expected)


def test_initial_scales_are_those_of_the_published_training():
    model = build_model(config(backbone="resnet50", fpn_channels=256, dcn_layers=(0, 4, 6, 3)))
    state = model.state_dict()
    # 256 from 1024 channels: He-normal by fan-out
    conv1 = state["backbone.layers.2.1.conv1.weight"]
    assert conv1.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.01)
    lateral = state["fpn.lat_layers.1.weight"]  # 256 from 1024: Xavier-uniform
    bound = (6 / (256 + 1024)) ** 0.5
    assert 0.99 * bound < lateral.abs().max().item() <= bound
    assert not any(state[key].any() for key in state if "conv_offset_mask" in key)
    assert state["backbone.layers.1.0.conv2.weight"].std().item() == pytest.approx(
        (2 / (128 * 9)) ** 0.5, rel=0.02
    )
    norm = "backbone.layers.1.0.bn1."
    assert state[norm + "weight"].eq(1).all() and state[norm + "running_var"].eq(1).all()
    assert (
        not state[norm + "bias"].any()
        and not state[norm + "running_mean"].any()
        and state[norm + "num_batches_tracked"] == 0
    )
    assert not state["prediction_layers.0.conf_layer.bias"].any()
    assert all(torch.isfinite(value).all() for value in state.values())
    assert model.training and all(
        p.requires_grad and p.device.type == "cpu" for p in model.parameters()
    )


def test_deformable_groups_reach_the_backbone_and_must_divide():
    groups = build_model(
        config(backbone="resnet14", dcn_layers=(0, 0, 1, 1), dcn_groups=4)
    ).state_dict()
    plain = build_model(config(backbone="resnet14", dcn_layers=(0, 0, 1, 1))).state_dict()
    changed = {key for key in plain if plain[key].shape != groups[key].shape}
    assert changed == {
        f"backbone.layers.{stage}.0.conv2.conv_offset_mask.{kind}"
        for stage in (2, 3)
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(plain[key], groups[key]) for key in set(plain) - changed)
    with pytest.raises(ValueError, match="dcn_groups=3 does not divide the 256 channels"):
        config(dcn_layers=(0, 0, 2, 2), dcn_groups=3)


def test_two_parameters_of_one_shape_differ():
    state = build_model(config()).state_dict()
    assert not torch.equal(state["fpn.pred_layers.0.weight"], state["fpn.pred_layers.1.weight"])


@pytest.mark.parametrize(
    "options",
    [
        dict(backbone="darknet53"),
        dict(backbone="resnet10", backbone_width=16, norm="group"),
        dict(backbone="resnet14", backbone_width=8, norm="batch", head_layers=2, proto_layers=1),
    ],
)
def test_config_fields_reach_the_model(options):
    model = build_model(config(**options)).eval()
    with torch.no_grad():
        out = model(torch.randn(1, 3, 64, 64))
    assert (
        out.prototypes.shape[-1] == 8
        and out.class_logits.shape[-1] == 3
        and torch.isfinite(out.class_logits).all()
    )


@pytest.mark.parametrize("re_scoring", [True, False])
def test_criterion_takes_what_the_model_gives(re_scoring):
    cfg = config(
        mask_iou_net=re_scoring,
        semantic_head=re_scoring,
        loss={"mask": "bce + 0.5*mse", "mask_iou_min_area": 0},
    )
    model = build_model(cfg).train()
    criterion = build_criterion(cfg, model)
    assert criterion.mask_sizes == [(64, 64), (32, 32)][: 1 + re_scoring]
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[0, 40:200, 60:180] = True
    target = Targets(
        torch.tensor([[60, 40, 180, 200]]) / 256, torch.tensor([1]), torch.tensor([False]), masks
    )
    losses = criterion(model(torch.randn(1, 3, 256, 256)), [target])
    assert set(losses) == {"box", "class", "mask"} | (
        {"semantic", "mask_iou"} if re_scoring else set()
    )
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    # the mask-IoU net is the model's alone
    assert not [name for name, _ in criterion.named_parameters()]


def test_contour_steps_that_leave_the_prototypes_are_refused():
    model = build_model(config(max_size=64))  # 16 x 16 prototypes
    assert build_criterion(
        config(max_size=64, loss={"mask": "boundary_agreement(width=15)"}), model
    ).mask_sizes[0] == (16, 16)
    with pytest.raises(
        ValueError, match=r"boundary_agreement\(width=16\).*16 x 16: choose a width below 16"
    ):
        build_criterion(
            config(max_size=64, loss={"mask": "bce + boundary_agreement(width=16)"}), model
        )


def test_no_pretrained_weights_by_choice():
    model = build_model(config(pretrained="none"))
    before = model.backbone.conv1.weight.clone()
    assert load_pretrained_backbone(model, config(pretrained="none")) is False
    assert torch.equal(model.backbone.conv1.weight, before)


def test_torchvision_file_loads_by_name(tmp_path):
    donor = torchvision.models.resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "resnet18.pth")
    cfg = config(pretrained=str(tmp_path / "resnet18.pth"), dcn_layers=(0, 0, 0, 2))
    model = build_model(cfg)
    assert load_pretrained_backbone(model, cfg) is True
    assert torch.equal(model.backbone.conv1.weight, donor.conv1.weight)
    # deformable here, plain there
    assert torch.equal(model.backbone.layers[3][1].conv2.weight, donor.layer4[1].conv2.weight)
    assert not model.backbone.layers[3][1].conv2.conv_offset_mask.weight.any()


def test_the_loaded_backbone_computes_what_torchvision_computes(tmp_path):
    donor = torchvision.models.resnet50(weights=None).eval()
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "r50.pth")
    cfg = config(backbone="resnet50", pretrained=str(tmp_path / "r50.pth"))
    model = build_model(cfg).eval()
    load_pretrained_backbone(model, cfg)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = donor.maxpool(donor.relu(donor.bn1(donor.conv1(x))))
        expected = donor.layer4(donor.layer3(donor.layer2(donor.layer1(stem))))
        torch.testing.assert_close(model.backbone(x)[-1], expected, atol=1e-5, rtol=1e-5)


def test_backbones_of_whole_models_and_darknet_files(tmp_path):
    donor = build_model(config(backbone="darknet53", seed=3))
    torch.save({"model": donor.state_dict(), "step": 1}, tmp_path / "whole.pth")
    torch.save(donor.backbone.state_dict(), tmp_path / "backbone.pth")
    for file in ("whole.pth", "backbone.pth"):
        cfg = config(backbone="darknet53", pretrained=str(tmp_path / file))
        model = build_model(cfg)
        assert load_pretrained_backbone(model, cfg)
        assert torch.equal(
            model.backbone.layers[4][0][0].weight, donor.backbone.layers[4][0][0].weight
        )
    names = backbone_state(
        dict.fromkeys(
            ["backbone.layer1.0.x", "backbone.layers.0.0.x", "proto_net.0.weight"], torch.ones(1)
        )
    )
    assert list(names) == ["layers.0.0.x"]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("resnet34", "lacks layers.0.2.conv1.weight"), ("resnet10", "more layers than the model")],
)
def test_backbone_of_another_depth_is_refused(tmp_path, backbone, message):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    cfg = config(backbone=backbone, pretrained=str(tmp_path / "r18.pth"))
    with pytest.raises(
        ValueError, match=f"r18.pth does not fit backbone {backbone}: it .*{message}"
    ):
        load_pretrained_backbone(build_model(cfg), cfg)


def test_backbone_of_another_width_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    cfg = config(backbone_width=32, pretrained=str(tmp_path / "r18.pth"))
    with pytest.raises(ValueError, match="has another shape of conv1.weight"):
        load_pretrained_backbone(build_model(cfg), cfg)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(backbone_width=32), "backbone_width=64, not 32"),
        (dict(backbone="resnet10"), "no ImageNet weights for resnet10"),
        (dict(backbone="resnet14"), "no ImageNet weights for resnet14"),
        (dict(backbone="darknet53"), "no ImageNet weights for darknet53"),
    ],
)
def test_imagenet_weights_that_do_not_exist_are_refused(options, message):
    cfg = config(pretrained="imagenet", **options)
    with pytest.raises(ValueError, match=f"{message}.*model.pretrained=none"):
        load_pretrained_backbone(build_model(cfg), cfg)


def test_failed_download_says_where_the_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    cfg = config(pretrained="imagenet")
    model = build_model(cfg)
    with pytest.raises(
        ValueError,
        match=r"could not download resnet18-f37072fd.pth .*no route.*"
        r"checkpoints/resnet18-f37072fd.pth, or set model.pretrained=none .* model.pretrained=FILE",
    ):
        load_pretrained_backbone(model, cfg)
    torch.save(
        torchvision.models.resnet18(weights=None).state_dict(),
        tmp_path / "checkpoints" / "resnet18-f37072fd.pth",
    )
    assert load_pretrained_backbone(model, cfg)  # no download once the file is there
