"""The forward pass by batch, as it is, compiled, and on CUDA replayed from a graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn

from yolact.benchmarks.flops import gflop
from yolact.benchmarks.timing import time_calls
from yolact.cli import one_line, say
from yolact.engine.folding import prepared
from yolact.engine.precision import AUTOCAST, Choice, autocast, wait_for
from yolact.model import Yolact

BATCHES = (1, 8, 16)


@torch.no_grad()
def forward_by_batch(
    model: Yolact, precision: str, seconds: float, peak: float
) -> dict[str, dict[str, float]]:
    """{"batch N": figures} of a model in evaluation mode, folded and in the layout that prediction
    gives it.

    eager ms, compiled ms, graph ms   of a pass over the batch, scores of classes included; `graph`
                                      only on CUDA
    images/s, % of peak               of the fastest of these; peak: 10^9 operations a second
    compile s                         what compiling takes at the first call
    pays from                         images after which that is won back; absent where it never is
    """
    device = next(model.parameters()).device
    half = AUTOCAST[precision] is not None
    ready = prepared(model, Choice(precision, channels_last=half, folded=True, reason="bench"))
    work = gflop(model, model.image_size)
    rows = {}
    for count in BATCHES:
        images = torch.randn(count, 3, model.image_size, model.image_size, device=device)
        if half:
            images = images.to(memory_format=torch.channels_last)
        rows[f"batch {count}"] = _figures(ready, images, precision, seconds, work, peak)
    return rows


def _figures(
    model: Yolact, images: Tensor, precision: str, seconds: float, work: float, peak: float
) -> dict[str, float]:
    calls = {"eager": _pass(model, images, precision)}
    began = 0.0
    try:
        calls["compiled"], began = _compiled(model, images, precision)
    except RuntimeError as error:  # as without a C++ compiler
        say(f"warning: torch.compile is left out: {one_line(error)}", error=True)
    if images.device.type == "cuda":
        calls["graph"] = _graph(model, images, precision)
    ms = {name: 1e3 * median(time_calls(call, seconds)) for name, call in calls.items()}
    best = min(ms.values())
    figures = {f"{name} ms": value for name, value in ms.items()}
    figures |= {
        "images/s": 1e3 * len(images) / best,
        "% of peak": 100 * work * len(images) / (best / 1e3) / peak,
    }
    if "compiled" in ms:
        figures["compile s"] = began
        gain = (ms["eager"] - ms["compiled"]) / len(images)
        if gain > 0:
            figures["pays from"] = 1e3 * began / gain
    return figures


def _compiled(model: Yolact, images: Tensor, precision: str) -> tuple[Callable[[], None], float]:
    """The pass by a compiled copy, and the seconds of its first call."""
    torch.compiler.reset()
    call = _pass(cast(nn.Module, torch.compile(model)), images, precision)
    start = time.perf_counter()
    call()
    return call, time.perf_counter() - start


def _pass(model: nn.Module, images: Tensor, precision: str) -> Callable[[], None]:
    def call() -> None:
        with autocast(images.device, precision):
            model(images).class_scores()
        wait_for(images.device)

    return call


def _graph(model: Yolact, images: Tensor, precision: str) -> Callable[[], None]:
    """The pass, captured once. What autocast has cast must not outlive the capture, so its cache is
    off."""
    side = torch.cuda.Stream(images.device)
    side.wait_stream(torch.cuda.current_stream(images.device))

    def run() -> None:
        dtype = AUTOCAST[precision]
        with torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
            model(images).class_scores()

    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream(images.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def call() -> None:
        graph.replay()
        wait_for(images.device)

    return call
