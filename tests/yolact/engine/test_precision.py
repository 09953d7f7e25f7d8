"""What runs faster: the choice of type and layout, and copies of models that are folded for it."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from data.resolve import ConfigError, load_config
from yolact.build import build_model
from yolact.engine import precision as precisions
from yolact.engine.folding import fold_batchnorm, prepared
from yolact.engine.precision import Choice, choose, tried
from yolact.engine.predict import Predictor
from yolact.engine.start import settled

CPU = torch.device("cpu")


@pytest.fixture
def times(monkeypatch):
    """Seconds by (type, NHWC), in place of measured ones."""
    values = {(None, False): 4.0, (None, True): 4.0, (torch.bfloat16, True): 1.0}
    monkeypatch.setattr(precisions, "_seconds", lambda d, dtype, nhwc, b: values[dtype, nhwc])
    monkeypatch.setattr(precisions, "multiplies_bf16", lambda device: True)
    tried.cache_clear()
    yield values
    tried.cache_clear()


def model_with_statistics(name="yolact_plus_small", **model):
    made = build_model(load_config(name, check_names=False, model={"max_size": 138, **model}))
    generator = torch.Generator().manual_seed(0)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
        if hasattr(module, "conv_offset_mask"):
            nn.init.normal_(module.conv_offset_mask.weight, 0, 0.05, generator=generator)
    return made.eval()


@pytest.mark.parametrize(
    "model",
    [
        {"mask_iou_net": False},
        {"mask_iou_net": False, "norm": "batch"},
        {"backbone": "darknet53", "dcn_layers": [0, 0, 0, 0], "mask_iou_net": False},
    ],
)
def test_folding_changes_no_output_beyond_rounding(model):
    if model.get("backbone") == "darknet53":
        model = {**model, "backbone_width": 64}
    made = model_with_statistics(**model)
    folded = copy.deepcopy(made)
    fold_batchnorm(folded.backbone)
    assert not [m for m in folded.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.randn((2, 3, 138, 138), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = made.double()(images.double()), folded.double()(images.double())
    for name in ("box_deltas", "class_logits", "mask_coeffs", "prototypes"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=1e-4, atol=1e-5)


def test_a_prepared_model_is_a_copy_and_the_one_in_training_stays_as_it_is():
    model = model_with_statistics(mask_iou_net=False).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copied = prepared(model, Choice("bf16", channels_last=True, folded=True))
    assert model.training and not copied.training and copied is not model
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.backbone.conv1.weight.is_contiguous()
    assert all(p.requires_grad for p in model.parameters())
    weights = copied.backbone.conv1.weight
    assert weights.dtype == torch.bfloat16
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert copied.anchors.dtype == torch.float32
    assert prepared(model, Choice()) is model


def test_half_types_are_channels_last_and_near_float32():
    cfg = load_config("yolact_plus_small", check_names=False, model={"max_size": 256})
    model = model_with_statistics(max_size=256)
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    exact = Predictor(model, cfg).forward(images)
    for predictor in (
        Predictor(model, cfg, precision="bf16"),
        Predictor(model, cfg, precision="bf16", optimize="auto"),
    ):
        assert predictor.choice.channels_last
        found = predictor.forward(images)
        for name in ("box_deltas", "class_logits", "mask_coeffs", "prototypes"):
            one, two = getattr(exact, name), getattr(found, name).float()
            assert 0 < (one - two).norm() / one.norm() < 0.1, name


def test_what_is_chosen_by_times(times):
    assert choose(CPU) == Choice("float32", False, False, "as asked for")
    assert choose(CPU, "bf16").short == "bf16, channels_last"
    assert choose(CPU, "auto").short == "bf16, channels_last, folded batch norm"
    assert choose(CPU, optimize="auto").precision == "bf16"
    assert "4e+03 ms in float32" in choose(CPU, "auto").reason
    # the precision is a request, the layout of float32 a matter of speed
    assert choose(CPU, "float32", "auto").short == "float32, folded batch norm"
    times[None, True] = 3.0
    tried.cache_clear()
    assert choose(CPU, "float32", "auto").short == "float32, channels_last, folded batch norm"


def test_small_differences_are_noise_and_what_lacks_bf16_is_not_tried(times, monkeypatch):
    times[torch.bfloat16, True] = 3.8
    assert choose(CPU, "auto").short == "float32, folded batch norm"
    times[torch.bfloat16, True] = 1.0
    monkeypatch.setattr(precisions, "multiplies_bf16", lambda device: False)
    tried.cache_clear()
    assert choose(CPU, "auto").short == "float32, folded batch norm"
    assert "no bf16 on this device" in choose(CPU, "auto").reason
    assert tried(torch.device("meta")).reason == "nothing is tried on meta"


def test_the_trial_runs():
    found = tried(CPU, backward=True)
    assert found.precision in ("float32", "bf16") and "a convolution takes" in found.reason


@pytest.mark.parametrize("how", [{"precision": "half"}, {"optimize": "yes"}])
def test_unknown_names_are_refused(how):
    with pytest.raises(ValueError, match="use one of"):
        choose(CPU, **how)


def test_a_training_settles_what_is_auto_and_a_resumed_one_keeps_it(times):
    times[None, True] = 2.0
    auto = {"train.precision": "auto", "train.channels_last": "auto", "eval.precision": "auto"}
    cfg = load_config("quickstart", check_names=False, **auto)
    found, notes = settled(cfg, CPU, None)
    assert (found.train.precision, found.train.channels_last) == ("bf16", True)
    assert found.validation_precision == "bf16"
    assert [note.split(":")[0].split()[-1] for note in notes] == list(auto)
    times[None, True], times[torch.bfloat16, True] = 4.0, 9.0  # another machine
    tried.cache_clear()
    again, _ = settled(cfg, CPU, {"config": found.model_dump(mode="json")})
    assert again == found
    times[torch.bfloat16, True] = 1.0
    tried.cache_clear()
    alone = load_config("quickstart", check_names=False, **{"train.precision": "auto"})
    assert settled(alone, CPU, None)[0].train.channels_last is True
    plain = load_config("quickstart", check_names=False)
    assert settled(plain, CPU, None) == (plain, [])


def test_the_layout_of_a_training_follows_the_precision_that_was_asked_for(times):
    times[None, True] = 4.0  # float32 is no faster in NHWC
    for precision, layout in (("float32", False), ("bf16", True), ("fp16", True)):
        asked = {"train.precision": precision, "train.channels_last": "auto"}
        cfg = load_config("quickstart", check_names=False, **asked)
        assert settled(cfg, CPU, None)[0].train.channels_last is layout


def test_channels_last_is_a_switch_or_auto():
    assert load_config("quickstart", ["train.channels_last=true"]).train.channels_last is True
    with pytest.raises(ConfigError, match="train.channels_last=maybe"):
        load_config("quickstart", ["train.channels_last=maybe"])


def test_clocks_wait_for_every_device_that_runs_behind(monkeypatch):
    waited = []
    for kind in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(getattr(torch, kind), "synchronize", partial(waited.append, kind))
        precisions.wait_for(torch.device(kind))
    precisions.wait_for(CPU)
    assert waited == ["cuda", "mps", "xpu"]
