"""Weights of loss terms over the course of training: a number, ramp(a, b), cosine(a, b), or
learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from layers.losses.expr import Call, Value, format_value
from layers.names import did_you_mean, unknown_name
from layers.records import ParameterError

LEARNED = "learned"
SHAPES = {
    "ramp": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


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
        params = {"start": self.start} if self.start else {}
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
    if type(value) in (int, float):
        if not value > 0:
            raise ParameterError(
                f"weight={format_value(value)} must be above 0: leave the term out instead",
                "weight",
            )
        return Schedule(float(value), float(value))
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
    usage = f"{value.name}(first, last, start=0, end=step)"
    if len(value.args) > 2:
        raise ParameterError(
            f"{value.name} takes two weights; start and end go by name: {usage}", "weight"
        )
    if (
        len(value.args) != 2
        or not all(type(v) in (int, float) and v >= 0 for v in value.args)
        or not any(value.args)
    ):
        raise ParameterError(f"{value.name} takes two weights >= 0, not both 0: {usage}", "weight")
    for name, step in value.params.items():
        if name not in ("start", "end"):
            raise ParameterError(
                f"{value.name} has no parameter {name!r}"
                f"{did_you_mean(name, ('start', 'end'), most=2)}",
                "weight",
            )
        if type(step) is not int or step < 0:
            raise ParameterError(
                f"{name}={step!r} must be a step, a whole number from 0: {usage}", "weight"
            )
    start, end = value.params.get("start", 0), value.params.get("end")
    if end is not None and end <= start:
        raise ParameterError(
            f"{value.name} must end after its start, got start={start}, end={end}", "weight"
        )
    first, last = map(float, value.args)
    return Schedule(first, last, value.name, start, end)
