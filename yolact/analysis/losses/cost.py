"""What a mask loss costs beside bce: processor time of forward and backward, and memory kept
between the two.

Processor time, because other programs on the machine lengthen the time on the clock."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from layers.extras import make_extras
from layers.losses.mask import MaskLoss, build_mask_loss

SHAPE = (64, 69, 69)  # instances and prototype size of a 276 pixel image
REPETITIONS = 9


def cost(expression: str) -> tuple[float, float]:
    """(time, memory) as multiples of those of bce. What the loss raises is raised."""
    loss, reference = build_mask_loss(expression, total_steps=1), build_mask_loss("bce")
    logits, target, boxes = _inputs()
    extras = make_extras(loss.needs, target > 0.5)
    times: dict[MaskLoss, list[float]] = {reference: [], loss: []}
    for repetition in range(REPETITIONS + 1):
        # by turns, so that a slow moment of the machine meets both
        for each, found in times.items():
            start = time.process_time()
            torch.autograd.grad(each(logits, target, boxes, extras=extras).sum(), logits)
            if repetition:  # the first one warms up
                found.append(time.process_time() - start)
    memory = {each: kept(each, logits, target, boxes, extras) for each in times}
    return min(times[loss]) / min(times[reference]), memory[loss] / memory[reference]


def kept(
    loss: MaskLoss, logits: Tensor, target: Tensor, boxes: Tensor, extras: dict[str, Tensor]
) -> int:
    """Bytes that a loss holds from forward to backward, logits and target included."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for tensor in (logits, target):
        note(tensor)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(logits, target, boxes, extras=extras)
    del value  # until here it keeps every storage alive, so that no address is used twice
    return sum(storages.values())


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Discs of several sizes with unsure logits; their boxes fit."""
    n, height, width = SHAPE
    generator = torch.Generator().manual_seed(0)
    centre = 0.3 + 0.4 * torch.rand(n, 2, generator=generator)
    radius = 0.05 + 0.2 * torch.rand(n, 1, generator=generator)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    squares = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2  # (N,H,W)
    logits = torch.randn(SHAPE, generator=generator).requires_grad_()
    return (
        logits,
        (squares <= radius[:, :, None] ** 2).float(),
        torch.cat((centre - radius, centre + radius), 1),
    )
