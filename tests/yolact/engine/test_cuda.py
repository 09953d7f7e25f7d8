"""What only a CUDA device shows: waiting, half precision, memory formats, and that it computes what
the CPU does."""

import json
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from yolact.checkpoint import read_checkpoint
from yolact.engine.state import build_state
from yolact.engine.step import Updater, read
from yolact.engine.train import train
from yolact.outputs import Predictions
from yolact.postprocess import NMS, detect
from yolact.testing import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLUS = {"max_size": 256, "dcn_layers": (0, 0, 1, 1), "mask_iou_net": True}


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """TF32 rounds float32 to 10 bits, which would hide what is compared here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@contextmanager
def counted_waits():
    """Yields a list that grows by a message whenever the host waits for the device."""
    found = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]


def updater(cfg, device):
    state, _ = build_state(cfg, device, None)
    return Updater(state, cfg, device)


def steps(cfg, device, count=1):
    """So many steps on the same batches on any device -> (their numbers, the updater)."""
    update = updater(cfg, device)
    batches = [tiny.batch(cfg, update.state.criterion, [2, 0, 3, 1], seed) for seed in range(count)]
    return read([update([batch]) for batch in batches]), update


def test_the_counter_counts():
    x = torch.arange(4.0, device=CUDA)
    with counted_waits() as waits:
        x.sum().item()
        x.nonzero()
    assert len(waits) >= 2
    with counted_waits() as waits:
        x * 2
    assert not waits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9, "freeze_bn": "never", "channels_last": True},
        {"precision": "bf16", "optimizer": "adamw", "clip_grad_norm": 1.0},
        {"precision": "fp16", "ema_decay": 0.9, "on_nonfinite": "skip"},
    ],
)
def test_a_step_waits_for_the_device_once(options):
    cfg = tiny.config(model=PLUS, loss={"mask": "bce + 0.5*mse"}, **options)
    update = updater(cfg, CUDA)
    batches = [
        tiny.batch(cfg, update.state.criterion, [2, 0, 3, 1], seed).to(CUDA) for seed in range(3)
    ]
    for batch in batches[:2]:  # the first steps fill caches
        update([batch])
    with counted_waits() as waits:
        update([batches[2]])
    assert len(waits) <= 1, waits


@pytest.mark.parametrize(
    "precision, tolerance", [("float32", 1e-3), ("bf16", 0.05), ("fp16", 0.02)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_step_computes_what_the_cpu_does(precision, tolerance, channels_last):
    expected = steps(tiny.config(model=PLUS), CPU)[0][0]
    found = steps(tiny.config(model=PLUS, precision=precision, channels_last=channels_last), CUDA)[
        0
    ][0]
    assert not found.problem
    assert found.losses == pytest.approx(expected.losses, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_steps_stay_finite_and_move_weights_and_average(precision):
    cfg = tiny.config(
        model=PLUS, precision=precision, ema_decay=0.9, channels_last=True, on_nonfinite="skip"
    )
    records, update = steps(cfg, CUDA, 6)
    assert not any(record.problem for record in records)
    assert not records[-1].skipped  # fp16 may skip the first ones, until its scale fits
    assert update.state.model.proto_net[0].weight.is_contiguous(memory_format=torch.channels_last)
    start = updater(cfg, CUDA).state.model.state_dict()
    weights, average = update.state.model.state_dict(), update.state.ema.module.state_dict()
    assert all(torch.isfinite(value).all() for value in [*weights.values(), *average.values()])
    moved = [key for key in weights if not torch.equal(start[key], weights[key])]
    assert moved and any(
        not torch.equal(average[key], weights[key]) and not torch.equal(average[key], start[key])
        for key in moved
    )


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_resumed_run_goes_on(tmp_path, precision):
    """Sums on the device are not taken in a fixed order, so weights agree closely, not bit for bit;
    what is counted agrees exactly."""
    data = tiny.write_dataset(tmp_path / "data")
    options = dict(
        save_every=2, precision=precision, ema_decay=0.9, channels_last=True, freeze_bn="never"
    )
    whole = train(
        tiny.config(data, iterations=4, **options), device="cuda", run_dir=tmp_path / "whole"
    )
    train(tiny.config(data, iterations=2, **options), device="cuda", run_dir=tmp_path / "parts")
    parts = train(
        tiny.config(data, iterations=4, **options), device="cuda", resume=tmp_path / "parts"
    )
    one, two = (read_checkpoint(run / "weights" / "last.pth") for run in (whole, parts))
    assert (
        one["step"] == two["step"] == 4
        and one["training"]["ema_updates"] == two["training"]["ema_updates"] == 4
    )
    assert (
        one["training"]["scaler"] == two["training"]["scaler"]
        and "cuda" in two["training"]["random"][0]
    )
    for part in ("model", "ema"):
        for key, value in one[part].items():
            torch.testing.assert_close(two[part][key].float(), value.float(), rtol=0.02, atol=1e-3)
    lines = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert all(line["memory_mb"] > 0 for line in lines if line["kind"] == "train")


@pytest.mark.parametrize("nms", NMS)
def test_detection_on_cuda_equals_the_cpu(nms):
    """On scores and boxes that lie well apart, so that rounding changes no order."""
    generator = torch.Generator().manual_seed(0)
    anchors, classes, size = 600, 5, 64
    side = 0.1 + 0.3 * torch.rand((anchors, 2), generator=generator)
    centres = 0.1 + 0.8 * torch.rand((anchors, 2), generator=generator)
    cpu = Predictions(
        torch.randn((2, anchors, 4), generator=generator),
        3 * torch.randn((2, anchors, 1 + classes), generator=generator),
        torch.randn((2, anchors, 8), generator=generator).tanh(),
        torch.rand((2, size, size, 8), generator=generator),
        torch.cat((centres, side), 1),
        None,
        (anchors,),
    )
    cuda = replace(
        cpu,
        **{
            name: value.to(CUDA)
            for name, value in vars(cpu).items()
            if isinstance(value, torch.Tensor)
        },
    )
    sizes = [(200, 300), (97, 131)]
    for expected, found in zip(
        detect(cpu, sizes, nms=nms), detect(cuda, sizes, nms=nms), strict=True
    ):
        assert found.masks.is_cuda and len(expected) > 20
        found = found.to(CPU)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
        assert (found.masks != expected.masks).float().mean() < 1e-3
