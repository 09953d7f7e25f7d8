"""Which pixels of an instance a pixel loss counts: sampling=hardest(share) or sampling=points(n).

Both give weights (N,H,W) for the pixels of a region whose sum is the region's pixel count, so that
what they choose stands for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layers.losses.expr import Call, Value, format_value
from layers.names import unknown_name
from layers.records import ParameterError

OVERSAMPLING = 3  # candidates drawn for each point
UNSURE_SHARE = 0.75  # of the points that are the least sure candidates; the others are drawn anew


@dataclass(frozen=True)
class Selection:
    """`value` as expressions write it; weights(pixels, logits, inside, generator), all tensors
    (N,H,W), -> (N,H,W).

    pixels   values of the loss
    inside   bool, the region
    random   whether it draws from the generator"""

    value: Call
    random: bool
    weights: Callable[[Tensor, Tensor, Tensor, torch.Generator | None], Tensor]


def read_sampling(value: Value) -> Selection:
    """A term's sampling=...: hardest(share) with 0 < share <= 1, or points(n) with n >= 1.
    ParameterError for anything else."""
    if not isinstance(value, Call):
        raise ParameterError(
            f"sampling={format_value(value)} must be hardest(share) or points(n)", "sampling"
        )
    if value.name not in _CHOICES:
        raise ParameterError(unknown_name("sampling", value.name, _CHOICES), "sampling")
    number = value.args[0] if len(value.args) == 1 and not value.params else None
    if value.name == "hardest" and type(number) in (int, float) and 0 < number <= 1:
        call = Call("hardest", (float(number),))
        return Selection(
            call,
            False,
            lambda pixels, logits, inside, generator: hardest(pixels, inside, float(number)),
        )
    if value.name == "points" and type(number) is int and number >= 1:
        call = Call("points", (number,))
        return Selection(
            call,
            True,
            lambda pixels, logits, inside, generator: points(logits, inside, number, generator),
        )
    raise ParameterError(f"sampling={value}: {_CHOICES[value.name]}", "sampling")


@torch.no_grad()
def hardest(pixels: Tensor, inside: Tensor, share: float) -> Tensor:
    """pixels (N,H,W), inside (N,H,W) bool -> weights of the `share` of the pixels inside with the
    largest values, rounded up; 0 elsewhere.

    Online hard example mining on pixels (Shrivastava et al., CVPR 2016; bootstrapped cross-entropy,
    Wu et al. 2016)."""
    values = pixels.masked_fill(~inside, -torch.inf).flatten(1)  # (N,HW)
    count = inside.sum((1, 2))  # (N,)
    # not one more where share * count is a whole number but for rounding
    wanted = (share * count - 1e-4).ceil()
    order = values.topk(min(values.shape[1], math.ceil(share * values.shape[1])), dim=1).indices
    rank = torch.arange(order.shape[1], device=order.device)
    weight = (rank < wanted[:, None]) * (count / wanted.clamp(min=1))[:, None]
    return torch.zeros_like(values).scatter_(1, order, weight.to(values.dtype)).view_as(pixels)


@torch.no_grad()
def points(
    logits: Tensor, inside: Tensor, number: int, generator: torch.Generator | None
) -> Tensor:
    """logits (N,H,W), inside (N,H,W) bool, each a rectangle -> weights of `number` pixels drawn
    with replacement: most of them the least sure (smallest |logit|) of three times as many uniform
    draws, the rest uniform.

    PointRend (Kirillov et al., CVPR 2020, section 3.1) as Mask2Former (Cheng et al., CVPR 2022)
    trains masks, on the pixels of the prototypes instead of points between them, because losses
    here are defined for ground truths of 0 and 1."""
    unsure = int(UNSURE_SHARE * number)
    candidates = _draw(inside, OVERSAMPLING * number, generator)  # (N,3n)
    sureness = logits.flatten(1).gather(1, candidates).abs()
    chosen = candidates.gather(1, sureness.topk(unsure, dim=1, largest=False).indices)
    chosen = torch.cat((chosen, _draw(inside, number - unsure, generator)), 1)  # (N,n)
    share = (inside.sum((1, 2)) / number)[:, None].expand(chosen.shape)
    return (
        torch.zeros_like(logits)
        .flatten(1)
        .scatter_add_(1, chosen, share.to(logits.dtype))
        .view_as(logits)
    )


def _draw(inside: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """(N,number) flat indices of pixels of the rectangles, uniform; index 0 where a rectangle is
    empty."""
    device = generator.device if generator is not None else inside.device
    uniform = torch.rand(2, inside.shape[0], number, device=device, generator=generator).to(
        inside.device, non_blocking=True
    )
    row, column = (
        _along(inside.any(other), place) for other, place in zip((2, 1), uniform, strict=True)
    )
    return row * inside.shape[2] + column


def _along(inside: Tensor, place: Tensor) -> Tensor:
    """inside (N,L), one run of True a row, and places (N,n) in [0,1) -> (N,n) indices within the
    runs."""
    first, length = inside.int().argmax(1, keepdim=True), inside.sum(1, keepdim=True)
    # float32 may round place * length up
    return first + torch.minimum((place * length).long(), (length - 1).clamp(min=0))


_CHOICES = {
    "hardest": "hardest(share) takes one number above 0 and at most 1",
    "points": "points(n) takes one whole number from 1",
}
