"""Floating-point operations of a forward pass, and the rate at which this machine multiplies."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from yolact.benchmarks.timing import time_calls
from yolact.dcn import DeformConv2d
from yolact.engine.precision import wait_for


@torch.no_grad()
def gflop(model: nn.Module, size: int, images: int = 1) -> float:
    """10^9 operations of convolutions and matrix products for images of size x size pixels: a
    multiplication and an addition are two, as published figures of detectors count them. Deformable
    convolutions count as their grid_sample form does: other operators are not counted by torch."""
    where = next(model.parameters())
    pixels = torch.zeros((images, 3, size, size), device=where.device, dtype=where.dtype)
    deformable = [one for one in model.modules() if isinstance(one, DeformConv2d)]
    before = [one.backend for one in deformable]
    try:
        for one in deformable:
            one.backend = "grid_sample"
        with FlopCounterMode(display=False) as counter:
            model(pixels)
    finally:
        for one, backend in zip(deformable, before, strict=True):
            one.backend = backend
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def convolution_peak(
    device: torch.device, dtype: torch.dtype, seconds: float, *, channels_last: bool = False
) -> float:
    """10^9 operations a second of a convolution that suits a machine: 256 channels to 256, 3 x 3,
    on 64 x 64 places; the fastest call."""
    images = 16 if device.type == "cuda" else 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    conv = nn.Conv2d(256, 256, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv.to(memory_format=layout)
    pixels = torch.randn(images, 256, 64, 64, device=device, dtype=dtype).to(memory_format=layout)

    def call() -> None:
        conv(pixels)
        wait_for(device)

    return 2e-9 * images * 256 * 256 * 9 * 64 * 64 / min(time_calls(call, seconds))
