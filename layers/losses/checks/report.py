"""check_loss: the contract's checks of a loss, as a value that prints as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from layers.losses.checks.contract import Result, notes, outcomes, variants
from layers.losses.checks.soft import soft_notes
from layers.losses.decorators import UNSTATED
from layers.losses.mask import MaskLoss, build_mask_loss
from layers.losses.plugins import load_plugins
from layers.losses.registry import get, names


@dataclass(frozen=True)
class Checked:
    """One expression: the outcome of every check, what is no mistake but should be known, and what
    its terms state about targets between 0 and 1 ("proper, not proper"), with notes on that."""

    expression: str
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    soft: str
    soft_notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not any(result.failed for result in self.results)

    @property
    def verdict(self) -> str:
        failed = sum(result.failed for result in self.results)
        return f"FAILS {failed}" if failed else "sound"

    @property
    def failures(self) -> dict[str, list[str]]:
        """{message: the checks that gave it}."""
        found: dict[str, list[str]] = {}
        for result in self.results:
            if result.message:
                found.setdefault(result.message, []).append(result.check)
        return found

    @property
    def left_out(self) -> str:
        """The checks that do not apply, or a dash."""
        return ", ".join(result.check for result in self.results if not result.applies) or "-"

    @property
    def lines(self) -> list[str]:
        """A line for each failure and note."""
        failing = [
            f"FAILS  {self.expression}: {message} (check: {', '.join(checks)})"
            for message, checks in self.failures.items()
        ]
        return [
            *failing,
            *(f"note   {note}" for note in self.notes),
            *(f"soft   {note}" for note in self.soft_notes),
        ]


@dataclass(frozen=True)
class LossReport:
    """Every expression that was checked; print() shows a line for each, failures and notes."""

    rows: tuple[Checked, ...]

    @property
    def sound(self) -> bool:
        return all(row.sound for row in self.rows)

    def __str__(self) -> str:
        width = max(len(row.expression) for row in self.rows)
        table = [f"{row.expression:{width}}  {row.verdict}" for row in self.rows]
        failed = sum(not row.sound for row in self.rows)
        end = f"{failed} of {len(self.rows)} fail" if failed else f"{len(self.rows)} sound"
        return "\n".join([*table, *(line for row in self.rows for line in row.lines), end])


def check_loss(loss: str | Callable, plugins: Iterable[str] = ()) -> LossReport:
    """What is wrong with a mask loss before any training: shapes, sign, extremes, gradient, crop,
    descent (see contract.py).

    loss     a function that pixel_loss or region_loss registered, or a name: checked by itself and
             with every other choice of its switches; or an expression, checked as it is
    plugins  files or modules that register losses

        print(check_loss(my_loss))
        assert check_loss("bce + 0.5*power(k=2)").sound

    ValueError for a function that is not registered, and for an expression that cannot be read."""
    load_plugins(plugins)
    name = loss.strip() if isinstance(loss, str) else _name(loss)
    expressions = variants(name) if name in names() else [MaskLoss(name).expression]
    return LossReport(tuple(check_expression(text) for text in expressions))


def check_expression(expression: str) -> Checked:
    """The same for one expression in canonical form."""
    parts, results = build_mask_loss(expression).parts, outcomes(expression)
    runs = len(results) > 1  # where shape fails, it is the only one
    soft = dict.fromkeys(part.info.soft_of(part.params) or UNSTATED for part in parts)
    return Checked(
        expression,
        tuple(results),
        tuple(notes(expression)),
        ", ".join(soft),
        tuple(soft_notes(expression)) if runs else (),
    )


def _name(function: Callable) -> str:
    for name in names():
        if get(name).function is function:
            return name
    raise ValueError(
        f"{getattr(function, '__name__', function)!r} is no registered loss: put @pixel_loss or "
        "@region_loss above its definition"
    )
