"""What an expression may say of any term beside the loss's own parameters: where it counts, its
weight over training, and which pixels of an instance it counts.

weight    a number, ramp(a, b), cosine(a, b), or learned
sampling  hardest(share) or points(n), which give weights (N,H,W) for the pixels of a region whose
          sum is the region's pixel count, so that what they choose stands for all of it
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layers.losses.expr import Call, Value, format_value
from layers.names import did_you_mean, unknown_name
from layers.records import Param, ParameterError

OPTIONS = (
    Param("region", str, "box", choices=("box", "image")),
    Param("outside", str, "ignore", choices=("ignore", "charge")),
    Param("rescale", bool, True),
    Param("balance", str, "none", choices=("none", "sqrt_area", "equal")),
    Param("match", str, None, optional=True, choices=("grad",)),
)

LEARNED = "learned"
SHAPES = {
    "ramp": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}
OVERSAMPLING = 3  # candidates drawn for each point
UNSURE_SHARE = 0.75  # of the points that are the least sure candidates; the others are drawn anew


@dataclass(frozen=True)
class Schedule:
    """From `first` up to step `start` to `last` from step `end` on; end None = the end of training.
    shape "" is the constant `first`, and LEARNED a factor that MaskLoss keeps as a parameter, 1
    here."""

    first: float
    last: float
    shape: str = ""
    start: int = 0
    end: int | None = None

    @property
    def learned(self) -> bool:
        return self.shape == LEARNED

    @property
    def varies(self) -> bool:
        """Whether it is a function of the step."""
        return self.shape in SHAPES

    @property
    def value(self) -> Value:
        """As an expression writes it, defaults dropped."""
        if not self.varies:
            return Call(LEARNED) if self.learned else self.first
        params: dict[str, Value] = {"start": self.start} if self.start else {}
        if self.end is not None:
            params["end"] = self.end
        return Call(self.shape, (self.first, self.last), params)

    @property
    def highest(self) -> Schedule:
        """The constant that is the larger of both ends; what is learned stays so."""
        largest = max(self.first, self.last)
        return replace(self, first=largest, last=largest, shape=LEARNED if self.learned else "")

    def at(self, step: int, total_steps: int | None = None) -> float:
        """The weight at a step (optimiser steps, 0 = first). ValueError if the schedule runs to an
        end of training that is unknown."""
        if not self.varies or step <= self.start:
            return self.first
        end = self.end if self.end is not None else total_steps
        if end is None:
            raise ValueError(
                f"weight={self.value} needs end=..., because the length of training is not known "
                "here"
            )
        if step >= end:
            return self.last
        return self.first + (self.last - self.first) * SHAPES[self.shape](
            (step - self.start) / (end - self.start)
        )


def read_weight(value: Value) -> Schedule:
    """A term's weight=...: a number above 0, ramp(a, b, start=0, end=...), cosine(...) with a, b >=
    0 and not both 0, or learned."""
    number = _number(value)
    if number is not None:
        if not number > 0:
            raise ParameterError(
                f"weight={format_value(value)} must be above 0: leave the term out instead",
                "weight",
            )
        return Schedule(float(number), float(number))
    if not isinstance(value, Call):
        raise ParameterError(
            f"weight={value!r} must be a number, ramp(a, b), cosine(a, b) or learned", "weight"
        )
    if value.name.lower() in ("nan", "inf"):
        raise ParameterError(f"weight={value} must be a finite number above 0", "weight")
    if value.name == LEARNED:
        if value.args or value.params:
            raise ParameterError(
                f"weight={value}: learned takes no arguments, training finds the weight", "weight"
            )
        return Schedule(1.0, 1.0, LEARNED)
    if value.name not in SHAPES:
        raise ParameterError(unknown_name("schedule", value.name, [*SHAPES, LEARNED]), "weight")
    return _read_schedule(value, f"{value.name}(first, last, start=0, end=step)")


def _read_schedule(call: Call, usage: str) -> Schedule:
    if len(call.args) > 2:
        raise ParameterError(
            f"{call.name} takes two weights; start and end go by name: {usage}", "weight"
        )
    ends = [number for value in call.args if (number := _number(value)) is not None]
    if len(ends) != 2 or min(ends) < 0 or not any(ends):
        raise ParameterError(f"{call.name} takes two weights >= 0, not both 0: {usage}", "weight")
    steps = {}
    for name, step in call.params.items():
        if name not in ("start", "end"):
            raise ParameterError(
                f"{call.name} has no parameter {name!r}"
                f"{did_you_mean(name, ('start', 'end'), most=2)}",
                "weight",
            )
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ParameterError(
                f"{name}={step!r} must be a step, a whole number from 0: {usage}", "weight"
            )
        steps[name] = step
    start, end = steps.get("start", 0), steps.get("end")
    if end is not None and end <= start:
        raise ParameterError(
            f"{call.name} must end after its start, got start={start}, end={end}", "weight"
        )
    return Schedule(float(ends[0]), float(ends[1]), call.name, start, end)


def _number(value: Value) -> int | float | None:
    """The value if it is a number, which True is not."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Selection:
    """`value` as expressions write it; weights(pixels, logits, inside, generator), all tensors
    (N,H,W), -> (N,H,W).

    pixels   values of the loss
    inside   bool, the region
    points   how many it draws from the generator; 0 = it draws nothing"""

    value: Call
    points: int
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
    only = len(value.args) == 1 and not value.params
    number = _number(value.args[0]) if only else None
    if value.name == "hardest" and number is not None and 0 < number <= 1:
        share = float(number)
        return Selection(
            Call("hardest", (share,)),
            0,
            lambda pixels, logits, inside, generator: hardest(pixels, inside, share),
        )
    if value.name == "points" and isinstance(number, int) and number >= 1:
        count = number
        return Selection(
            Call("points", (count,)),
            count,
            lambda pixels, logits, inside, generator: points(logits, inside, count, generator),
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
    with replacement, see draw_points."""
    sides = inside.any(2), inside.any(1)
    chosen = draw_points(lambda at: logits.flatten(1).gather(1, at), sides, number, generator)
    share = (inside.sum((1, 2)) / number)[:, None].expand(chosen.shape)
    return (
        torch.zeros_like(logits)
        .flatten(1)
        .scatter_add_(1, chosen, share.to(logits.dtype))
        .view_as(logits)
    )


@torch.no_grad()
def draw_points(
    logits_at: Callable[[Tensor], Tensor],
    sides: tuple[Tensor, Tensor],
    number: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Rectangles given by their rows (N,H) and columns (N,W) bool, one run of True each -> (N,n)
    flat indices of `number` pixels of each, drawn with replacement: most of them the least sure
    (smallest |logit|) of three times as many uniform draws, the rest uniform.

    logits_at: (N,m) flat indices -> (N,m) logits there.

    PointRend (Kirillov et al., CVPR 2020, section 3.1) as Mask2Former (Cheng et al., CVPR 2022)
    trains masks, on the pixels of the mask target instead of points between them, where ground
    truths are known."""
    unsure = int(UNSURE_SHARE * number)
    candidates = _draw(sides, OVERSAMPLING * number, generator)  # (N,3n)
    sureness = logits_at(candidates).abs()
    chosen = candidates.gather(1, sureness.topk(unsure, dim=1, largest=False).indices)
    return torch.cat((chosen, _draw(sides, number - unsure, generator)), 1)


def _draw(sides: tuple[Tensor, Tensor], number: int, generator: torch.Generator | None) -> Tensor:
    """(N,number) flat indices of pixels of the rectangles, uniform; index 0 where a rectangle is
    empty."""
    rows, columns = sides
    device = generator.device if generator is not None else rows.device
    uniform = torch.rand(2, rows.shape[0], number, device=device, generator=generator).to(
        rows.device, non_blocking=True
    )
    row, column = (_along(side, place) for side, place in zip(sides, uniform, strict=True))
    return row * columns.shape[1] + column


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
