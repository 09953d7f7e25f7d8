"""Cells of a report's tables: values, each with its plain text. write.py says how a cell looks in
Markdown, LaTeX, HTML and CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

NOTHING = "–"  # where a number would stand and there is none


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


@dataclass(frozen=True)
class Number:
    """A number with so many decimals, or as short as it can be (None). signed: + above 0 too."""

    value: float | None
    digits: int | None = 2
    signed: bool = False

    def __str__(self) -> str:
        if not is_number(self.value):
            return NOTHING
        form = "g" if self.digits is None else f".{self.digits}f"
        return f"{self.value:{'+' if self.signed else ''}{form}}"


@dataclass(frozen=True)
class Measured:
    """A mean or a difference, and half the width of its interval. least, most: what the quantity
    can be; an interval that would leave it is written by its ends."""

    value: float
    half: float
    digits: int = 2
    signed: bool = False
    least: float = -math.inf
    most: float = math.inf

    @property
    def number(self) -> Number:
        return Number(self.value, self.digits, self.signed)

    @property
    def width(self) -> Number:
        """Half of the interval's, as a number."""
        return Number(self.half, self.digits)

    @property
    def low(self) -> float:
        return max(self.value - self.half, self.least)

    @property
    def high(self) -> float:
        return min(self.value + self.half, self.most)

    @property
    def spread(self) -> str:
        """What stands beside the number: ± half of the interval, or its ends where it is cut."""
        if self.value - self.half >= self.least and self.value + self.half <= self.most:
            return f"± {self.width}"
        low, high = (Number(end, self.digits, self.signed) for end in (self.low, self.high))
        return f"[{low}, {high}]" if is_number(self.half) else f"± {NOTHING}"

    def __str__(self) -> str:
        return f"{self.number} {self.spread}" if is_number(self.value) else NOTHING


@dataclass(frozen=True)
class Probability:
    p: float | None

    def __str__(self) -> str:
        if not is_number(self.p):
            return NOTHING
        return "<.0001" if self.p < 1e-4 else f"{self.p:.4f}"


@dataclass(frozen=True)
class Seeds:
    """How many of the planned seeds are there."""

    there: int
    planned: int

    def __str__(self) -> str:
        return str(self.there) if self.there == self.planned else f"{self.there} of {self.planned}"


@dataclass(frozen=True)
class Verdict:
    """What is said of an arm. name: one of statistics.verdict, or nothing, as of the baseline."""

    text: str
    name: str = ""

    def __str__(self) -> str:
        return self.text


Cell = str | int | Number | Measured | Probability | Seeds | Verdict | None


def plain(cell: Cell) -> str:
    """The text of a cell; None is empty."""
    return "" if cell is None else str(cell)
