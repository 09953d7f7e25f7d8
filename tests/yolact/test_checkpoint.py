"""Checkpoints: what loads, what is refused and with which words, and that writing never loses the
previous file."""

import errno
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from data.schema import Config
from yolact import build_model, load_weights
from yolact.checkpoint import read_checkpoint, save_checkpoint

REFERENCE = Path(__file__).parents[1] / "reference" / "yolact" / "net"


def small(*, classes=3, seed=0, loss="ohem", **model):
    options = dict(
        max_size=256,
        backbone="resnet10",
        backbone_width=8,
        fpn_channels=16,
        proto_channels=16,
        head_channels=16,
        prototypes=8,
    )
    return build_model(
        Config(
            name="test",
            model={**options, "mask_iou_net": True, **model},
            train={"seed": seed},
            data={"class_names": [f"c{i}" for i in range(classes)]},
            loss={"classification": loss},
        )
    )


def same(a, b, keys=None):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[key], b[key]) for key in (keys or a))


def test_round_trip_through_a_file(tmp_path):
    donor, model = small(seed=1), small()
    save_checkpoint(
        tmp_path / "last.pth",
        {"format": 1, "model": donor.state_dict(), "ema": None, "config": {"name": "x"}, "step": 7},
    )
    assert read_checkpoint(tmp_path / "last.pth")["step"] == 7
    report = load_weights(model, tmp_path / "last.pth")
    assert same(model, donor)
    assert len(report.loaded) == len(model.state_dict()) and not report.reset and not report.dropped
    assert str(report) == f"loaded {len(report.loaded)} tensors"


def test_averaged_weights_on_request(tmp_path):
    donor, averaged, model = small(seed=1), small(seed=2), small()
    save_checkpoint(
        tmp_path / "last.pth", {"model": donor.state_dict(), "ema": averaged.state_dict()}
    )
    load_weights(model, tmp_path / "last.pth", use_ema=True)
    assert same(model, averaged)
    with pytest.raises(ValueError, match="no averaged .EMA. weights"):
        load_weights(model, {"model": donor.state_dict(), "ema": None}, use_ema=True)
    with pytest.raises(ValueError, match="plain state dict without averaged"):
        load_weights(model, donor.state_dict(), use_ema=True)


def test_official_file_of_the_first_release(tmp_path):
    official = dict(small(seed=1).state_dict())
    official["backbone.layer1.0.conv1.weight"] = torch.zeros(1)
    official["fpn.downsample_layers.2.weight"] = torch.zeros(1)
    for key in [k for k in official if k.endswith("num_batches_tracked")]:
        del official[key]
    torch.save(official, tmp_path / "yolact.pth", _use_new_zipfile_serialization=False)
    model = small()
    report = load_weights(model, str(tmp_path / "yolact.pth"))
    assert report.dropped == ("backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.weight")
    assert same(model, small(seed=1))
    assert "unused in the file: backbone.layer1" in str(report)


@pytest.mark.parametrize("name", ["yolact_resnet50", "yolact_darknet53", "yolact_plus_resnet50"])
def test_official_key_names_load(name):
    from data.resolve import load_config

    shapes = json.loads((REFERENCE / f"state_dict_{name}.json").read_text())
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, (shape, dtype) in shapes.items()
    }
    report = load_weights(build_model(load_config(name)), state)
    assert len(report.loaded) == len(shapes)


def test_another_class_count_needs_consent_and_is_reported():
    model = small(classes=2)
    fresh = small(classes=2)
    with pytest.raises(
        ValueError,
        match="trained on 3 classes and the model has 2: use the config it was trained with",
    ):
        load_weights(model, small(seed=1).state_dict())
    assert same(model, fresh)
    report = load_weights(model, small(seed=1).state_dict(), reset_heads=True)
    assert set(report.reset) == {
        f"{layer}.{kind}"
        for kind in ("weight", "bias")
        for layer in (
            "prediction_layers.0.conf_layer",
            "semantic_seg_conv",
            "maskiou_net.maskiou_net.10",
        )
    }
    assert same(model, fresh, report.reset)
    assert same(model, small(seed=1), report.loaded)
    assert "not loaded, kept as initialised: prediction_layers.0.conf_layer.weight" in str(report)


def test_a_start_leaves_out_branches_that_the_model_has_not_and_names_them():
    donor = small(seed=1)
    model = small()
    model.maskiou_net = model.semantic_seg_conv = None
    with pytest.raises(ValueError, match="unknown to the model: maskiou_net"):
        load_weights(model, donor.state_dict())
    report = load_weights(model, donor.state_dict(), reset_heads=True)
    branches = ("maskiou_net.", "semantic_seg_conv.")
    assert set(report.dropped) == {k for k in donor.state_dict() if k.startswith(branches)}
    assert "unused in the file: semantic_seg_conv.weight, " in str(report)
    assert same(model, donor, model.state_dict())
    other = dict(donor.state_dict()) | {"carafe.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="unknown to the model: carafe"):
        load_weights(model, other, reset_heads=True)


def test_equal_class_counts_load_the_heads_even_if_a_reset_is_allowed():
    model = small()
    assert not load_weights(model, small(seed=1).state_dict(), reset_heads=True).reset
    assert same(model, small(seed=1))


@pytest.mark.parametrize("theirs, ours", [("ohem", "focal"), ("focal", "ohem")])
def test_another_form_of_class_logits_needs_consent_and_resets_the_class_layer_alone(theirs, ours):
    donor, model, fresh = small(seed=1, loss=theirs), small(loss=ours), small(loss=ours)
    forms = {"ohem": "softmax", "focal": "sigmoid"}
    message = (
        f"trained for {forms[theirs]} class logits and the model gives {forms[ours]} ones: "
        r"use the config it was trained with \(loss.classification\), "
        "or train on with train.init_from"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(model, donor.state_dict())
    assert same(model, fresh)
    report = load_weights(model, donor.state_dict(), reset_heads=True)
    layers = {"ohem": "prediction_layers.0.conf_layer", "focal": "prediction_layers.0.class_layer"}
    assert set(report.reset) == {f"{layers[ours]}.weight", f"{layers[ours]}.bias"}
    assert set(report.dropped) == {f"{layers[theirs]}.weight", f"{layers[theirs]}.bias"}
    assert same(model, fresh, report.reset) and same(model, donor, report.loaded)
    again = small(loss=theirs)
    assert not load_weights(again, donor.state_dict()).reset and same(again, donor)


def test_as_many_channels_of_another_form_are_not_mistaken_for_it():
    """2 classes and background under softmax have the channels of 3 classes under sigmoid."""
    model = small(classes=3, loss="focal", mask_iou_net=False, semantic_head=False)
    official = small(classes=2, mask_iou_net=False, semantic_head=False).state_dict()
    with pytest.raises(
        ValueError,
        match="on 2 classes and the model has 3, "
        "for softmax class logits and the model gives sigmoid ones: "
        r"use the config it was trained with \(data.class_names, loss.classification\)",
    ):
        load_weights(model, official)
    assert len(load_weights(model, official, reset_heads=True).reset) == 2


def test_a_mask_iou_net_that_the_model_lacks_is_dropped_for_a_start_alone():
    model, other = small(mask_iou_net=False), small(seed=1).state_dict()
    with pytest.raises(ValueError, match="unknown to the model: maskiou_net"):
        load_weights(model, other)
    dropped = load_weights(model, other, reset_heads=True).dropped
    assert dropped and all(key.startswith("maskiou_net.") for key in dropped)


def test_unused_semantic_head_is_dropped():
    report = load_weights(small(semantic_head=False), small().state_dict())
    assert report.dropped == ("semantic_seg_conv.weight", "semantic_seg_conv.bias")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(backbone="resnet18"), "missing in the file: backbone.layers.0.1.conv1.weight"),
        (dict(backbone="resnet14"), "another architecture"),
        (
            dict(fpn_channels=24),
            r"of another shape: fpn.lat_layers.0.weight "
            r"\(16x64x1x1 in the file, 24x64x1x1 in the model\)",
        ),
        (dict(dcn_layers=(0, 0, 0, 1)), "missing in the file: backbone.layers.3.0.conv2.bias"),
        (dict(anchor_ratios=(1.0,)), "of another shape: prediction_layers.0.bbox_layer.weight"),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(options, message):
    model = small(**options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for reset_heads in (False, True):
        with pytest.raises(ValueError, match=message):
            load_weights(model, small(seed=1).state_dict(), reset_heads=reset_heads)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Harmful:
    def __reduce__(self):
        return os.system, ("echo should never run",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_and_foreign_files_are_refused(tmp_path):
    good = tmp_path / "good.pth"
    save_checkpoint(good, {"model": small().state_dict()})
    whole = good.read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    torch.save(small().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "short_old.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:3000])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"answer": 42}, tmp_path / "dict.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": Harmful()}))
    torch.save({"model": Harmful()}, tmp_path / "code_zip.pth")
    for name, message in {
        "short.pth": "truncated.*copy or download it again",
        "short_old.pth": "truncated",
        "empty.pth": "empty .0 bytes.",
        "text.pth": "not a PyTorch",
        "list.pth": "holds a list, not a checkpoint",
        "dict.pth": "not a checkpoint of this project nor a state dict: it has answer",
        "code.pth": "holds code or objects",
        "code_zip.pth": "holds code or objects.*system",
        "missing.pth": "does not exist",
        "": r"is a folder, not a checkpoint: name a file in it, such as .*\.pth",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_weights(small(), tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "pointer of Git LFS.*lfs pull",
        ),
        ("\n<!DOCTYPE html><html>404</html>", "web page, not weights: download the file"),
        ("<html><body>sign in</body></html>", "web page"),
    ],
)
def test_what_a_download_leaves_instead_of_weights_is_named(tmp_path, text, message):
    (tmp_path / "a.pth").write_text(text)
    with pytest.raises(ValueError, match=f"a.pth is a.*{message}"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"weight": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 402] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged .the checksum of .*data/0 is another.: copy"):
        read_checkpoint(path)


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes checksums")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / "a.pth")["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("written", [99, 2.5, -1, "1", None])
def test_another_format_is_refused(tmp_path, written):
    save_checkpoint(tmp_path / "a.pth", {"format": written, "model": {}})
    with pytest.raises(ValueError, match="has the format .*, and this version reads 1"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    state, model = small(seed=1).state_dict(), small()
    state["fpn.lat_layers.1.bias"][3:5] = value
    message = r"not finite, first fpn.lat_layers.1.bias \(2 of 16 .*the model has diverged"
    with pytest.raises(ValueError, match=message):
        load_weights(model, state)
    assert same(model, small())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
def test_what_other_programs_wrap_around_a_state_dict_is_taken_off(wrap):
    model = small()
    load_weights(model, wrap(small(seed=1).state_dict()))
    assert same(model, small(seed=1))


def test_another_kind_of_numbers_is_refused():
    state = dict(small(seed=1).state_dict())
    state["fpn.lat_layers.1.bias"] = state["fpn.lat_layers.1.bias"].to(torch.int8)
    with pytest.raises(ValueError, match=r"another kind of numbers: fpn.lat_layers.1.bias .int8"):
        load_weights(small(), state)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="last.pth could not be written"):
        save_checkpoint(tmp_path / "last.pth", {})


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # what a full disk does: writes fail half-way
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            OSError, match="last.pth could not be written .*before is unchanged: free disk space"
        ):
            save_checkpoint(path, {"step": 2, "model": {"weight": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_nothing_is_visible_before_the_data_is_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "last.pth"

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 1})
    assert not list(path.parent.iterdir())


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "weights").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        save_checkpoint(tmp_path / "weights" / "last.pth", {})


def test_saved_files_have_ordinary_permissions(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"step": 1})
    (tmp_path / "other").touch()
    assert (tmp_path / "last.pth").stat().st_mode == (tmp_path / "other").stat().st_mode
