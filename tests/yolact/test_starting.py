"""The weights that ship: they fit the networks they should, and know their one class under any
number of classes."""

import json
import math

import pytest
import torch

from data.resolve import list_configs, load_config
from data.start import START, fits_start
from yolact import starting
from yolact.build import build_model
from yolact.safetensors_file import read_safetensors
from yolact.starting import SHIPPED, load_initial

SMALL = ("model.max_size=64", "model.mask_iou_net=false")


def micro(*changes):
    return load_config("yolact_plus_micro", [*SMALL, *changes], check_names=False)


def probabilities(cfg):
    """(A,C) class scores of a picture, and the share of the semantic map's classes."""
    model = build_model(cfg).eval()
    report = load_initial(model, START)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(images).class_scores()[0], report


def test_the_file_is_small_and_half():
    tensors, about = read_safetensors(SHIPPED)
    assert SHIPPED.stat().st_size <= 4_000_000
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {
        torch.float16
    }
    assert json.loads(about["config"])["name"] == "start" and "step" in about["weights"]


@pytest.mark.parametrize("form", ["ohem", "focal"])
def test_every_class_begins_as_the_one_and_all_are_as_likely_as_it(form):
    one, _ = probabilities(micro("data.class_names=[thing]"))
    five, report = probabilities(
        micro("data.class_names=[a,b,c,d,e]", f"loss.classification={form}")
    )
    assert one.std() > 0 and not report.reset
    for label in range(5):
        assert torch.allclose(five[:, label], five[:, 0], atol=1e-6)
    if form == "ohem":
        assert torch.allclose(five.sum(1), one[:, 0], atol=1e-5)
    else:  # a sigmoid of each: the odds are a fifth
        odds = one[:, 0] / (1 - one[:, 0]) / 5
        assert torch.allclose(five[:, 0], odds / (1 + odds), atol=1e-5)


def test_semantic_and_mask_iou_layers_hold_every_class():
    cfg = load_config("yolact_plus_micro", ["data.class_names=[a,b,c]"], check_names=False)
    model = build_model(cfg)
    load_initial(model, START)
    stored, _ = read_safetensors(SHIPPED)
    semantic, iou = model.semantic_seg_conv, model.maskiou_net.maskiou_net[10]
    assert torch.equal(semantic.weight[2], stored["semantic_seg_conv.weight"][0].float())
    shift = stored["semantic_seg_conv.bias"][0].float() - math.log(3)
    assert semantic.bias[1].item() == pytest.approx(shift.item(), abs=1e-6)
    assert torch.equal(iou.bias, stored["maskiou_net.maskiou_net.10.bias"].float().expand(3))


def test_they_fit_by_the_network_alone():
    assert fits_start(load_config("quickstart", check_names=False).model)
    fitting = {
        name for name in list_configs() if fits_start(load_config(name, check_names=False).model)
    }
    assert fitting == {"quickstart", "yolact_plus_micro"}
    same = ["model.max_size=512", "model.anchor_ratios=[1,0.2,3]", "model.mask_iou_net=false"]
    assert fits_start(load_config("quickstart", same, check_names=False).model)
    for other in ("model.prototypes=8", "model.anchor_ratios=[1,2]", "model.backbone=resnet14"):
        assert not fits_start(load_config("quickstart", [other], check_names=False).model)


def test_another_network_is_refused_with_what_to_do():
    cfg = micro("model.prototypes=8")
    with pytest.raises(ValueError, match="start fits the network of yolact_plus_micro") as told:
        load_initial(build_model(cfg), START)
    assert "\n" not in str(told.value)


def test_a_file_is_still_a_file(tmp_path, monkeypatch):
    model = build_model(micro())
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    monkeypatch.setattr(starting, "SHIPPED", tmp_path / "none")
    assert load_initial(build_model(micro()), str(tmp_path / "mine.pth")).loaded
