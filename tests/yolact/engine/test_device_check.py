"""A device against the CPU: what the table holds, what it finds, and whom it stops."""

import pytest
import torch

import yolact.engine.device_check as module
from layers.assign import assigner_names
from yolact.commands.device import program
from yolact.engine import distributed
from yolact.engine.device_check import DeviceRow, check_device, refuse_wrong

CPU = torch.device("cpu")


@pytest.fixture
def wrong_when_seconds(monkeypatch):
    """The second of two calls of mask assembly is wrong, as a broken device would be."""
    calls, crop = [], module.crop

    def once_wrong(masks, boxes):
        calls.append(1)
        return crop(masks, boxes) + (len(calls) % 2 == 0) * 1e-3

    monkeypatch.setattr(module, "crop", once_wrong)


def test_the_cpu_agrees_with_itself_in_every_part(capsys):
    rows = {row.name: row for row in check_device(CPU)}
    assert {row.difference for row in rows.values()} == {0}
    assert rows.keys() == {
        *("forward", "fast_nms", "cross_class_fast_nms", "traditional_nms"),
        *("mask assembly and crop", "losses", "training step"),
        *(f"assigner {name}" for name in assigner_names()),
    }


def test_parts_are_more_than_nothing():
    parts = {name: part(CPU) for name, (part, _) in module._parts(None).items()}
    kept = {name: len(values["0"]) for name, values in parts.items() if name.endswith("nms")}
    assert min(kept.values()) > 10
    for name in assigner_names():
        assert (parts[f"assigner {name}"]["gt_index"] >= 0).sum() > 5, name
    assert all(loss > 0 for loss in parts["losses"].values())
    assert parts["losses"].keys() == {"box", "class", "mask", "semantic", "mask_iou"}
    cfg = module.load_config("yolact_plus_tiny", module.SETTINGS, check_names=False)
    before, after = dict(module.build_model(cfg).named_parameters()), parts["training step"]
    moved = [name for name, value in before.items() if (after[name] != value).any()]
    assert len(moved) > 0.8 * len(before)


@pytest.mark.parametrize("found", [[1.0, 2.0], [1.0, float("nan")], [1.0]])
def test_differences(found):
    expected = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([1, 2])}
    difference = module._difference(expected, {"a": torch.tensor(found), "b": torch.tensor([1, 2])})
    assert not DeviceRow("a", difference, 0.4).ok
    if found == [1.0, 2.0]:
        assert difference == 0.5
        whole = {**expected, "b": torch.tensor([3, 3])}
        assert module._difference(expected, whole) == 2


def test_a_device_that_computes_something_else_is_told(wrong_when_seconds, capsys):
    assert program(["cpu"]) == 1
    out, err = capsys.readouterr()
    assert "mask assembly and crop" in err and "fast_nms" not in err
    assert out.count("DIFFERS") == 1 and out.count(" ok") == len(out.splitlines()) - 2


def test_what_a_device_cannot_do_is_told_and_the_rest_goes_on(monkeypatch):
    """MPS has no float64."""

    def refused(self):
        raise TypeError("Cannot convert a MPS Tensor to float64\nmore")

    def without(part):
        def run(device):
            with monkeypatch.context() as patch:
                if device.type == "mps":
                    patch.setattr(torch.Tensor, "double", refused)
                return part(CPU)

        return run

    parts = module._parts(None)
    given = {n: (without(p), limit) for n, (p, limit) in parts.items() if "assigner" in n}
    monkeypatch.setattr(module, "_parts", lambda assigner: given)
    rows = {row.name: row for row in check_device(torch.device("mps"))}
    assert rows["assigner max_iou"].ok
    assert rows["assigner atss"].error == "cannot run: Cannot convert a MPS Tensor to float64"


def test_guarded_devices_are_checked_before_a_run(monkeypatch, capsys):
    asked = []

    def rows(device, *, assigner):
        asked.append((device.type, assigner))
        return [DeviceRow("fast_nms", 1.0, 1e-5), DeviceRow("forward", 0.0, 1e-5)]

    monkeypatch.setattr(module, "check_device", rows)
    refuse_wrong(CPU)
    refuse_wrong(torch.device("cuda"))
    assert not asked
    with pytest.raises(ValueError, match=r"\(fast_nms; .*--device=cpu, or set YOLACT_SKIP"):
        refuse_wrong(torch.device("mps"), assigner="atss")
    assert asked == [("mps", "atss")]
    monkeypatch.setenv("YOLACT_SKIP_DEVICE_CHECK", "1")
    refuse_wrong(torch.device("xpu"))
    assert len(asked) == 1
    monkeypatch.delenv("YOLACT_SKIP_DEVICE_CHECK")
    monkeypatch.setattr(module, "check_device", lambda *_, **__: [DeviceRow("forward", 0.0, 1e-5)])
    refuse_wrong(torch.device("xpu"))
    assert "YOLACT_SKIP_DEVICE_CHECK=1 leaves this check out" in capsys.readouterr().err


def test_devices_that_are_not_there_are_refused_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "_is_there", lambda kind: kind == "cpu")
    for name, part in [("mps", "sees no mps"), ("xpu", "sees no xpu"), ("tpu", "no device 'tpu'")]:
        assert program([name]) == 2
        message = capsys.readouterr().err
        assert part in message and message.count("\n") == 1


@pytest.mark.parametrize("there, chosen", [((), "cpu"), (("mps",), "mps"), (("mps", "xpu"), "xpu")])
def test_the_default_is_the_first_that_is_there(monkeypatch, there, chosen):
    monkeypatch.setattr(distributed, "_is_there", lambda kind: kind in (*there, "cpu"))
    assert distributed.pick_device(None).type == chosen
