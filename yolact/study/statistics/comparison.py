"""What is found of one arm against the baseline: difference, interval, p and verdict, and the words
for it. family.py finds it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.power import Needed
from yolact.study.statistics.verdict import (
    BETTER,
    EQUIVALENT,
    IDENTICAL,
    LEAST_SEEDS,
    LEVEL,
    NONE,
    UNDECIDED,
    WORSE,
)

FAILED = "failed"
GIVEN_START = "given this start"
_NOT_FINITE = "had steps whose loss or gradient was not finite"


@dataclass(frozen=True)
class Interval:
    """A difference to the baseline in AP points, and its 95 % interval; NaN where there is none."""

    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def half(self) -> float:
        """Half of its width."""
        return self.high - self.difference


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline on one primary metric. AP in points; numbers NaN where there is
    nothing to compute them from.

    seeds            those that both arms have and the numbers are about; missing: planned ones that
                     are not there
    ap, baseline_ap  means over these seeds; by_seed: the differences D_s
    seed_sd          sqrt(s2), image_sd = sqrt(I); v, df: the seed variance that was used, after
                     sharing
    interval         of the primary metric; others: of every other metric, without verdicts
    p                of no difference; p_holm adjusted; p_equivalent, p_equivalent_holm of a
                     difference beyond the margin
    verdict          better, worse, equivalent, undecided, identical runs, no verdict or failed
    small            better or worse, yet by less than the margin
    level            that the verdict was reached or missed at; decided_at: seeds of the look that
                     decided, None where none did
    exploratory      why the verdict is no planned one; empty where it is
    paired_t         p of the plain paired t test on these images; a check that decides nothing
    sign_flip        exact sign-flip p on these images, from 6 seeds; a check that decides nothing
    unstable         runs of the arm among `seeds` that had steps whose loss or gradient was not
                     finite
    one_start        all runs of both arms were trained from one checkpoint: what is found holds
                     given this start
    """

    arm: str
    baseline: str
    metric: str
    margin: float
    verdict: str
    seeds: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    ap: float = math.nan
    baseline_ap: float = math.nan
    by_seed: tuple[float, ...] = ()
    seed_sd: float = math.nan
    image_sd: float = math.nan
    v: float = math.nan
    df: float = math.nan
    interval: Interval = Interval()
    others: dict[str, Interval] = field(default_factory=dict)
    p: float = math.nan
    p_holm: float = 1.0
    p_equivalent: float = math.nan
    p_equivalent_holm: float = 1.0
    small: bool = False
    level: float = LEVEL
    decided_at: int | None = None
    exploratory: str = ""
    paired_t: float | None = None
    sign_flip: float | None = None
    needed: Needed | None = None
    unstable: int = 0
    one_start: bool = False
    notes: tuple[str, ...] = ()

    @property
    def given_start(self) -> str:
        """What limits a verdict that rests on runs from one start; empty for others."""
        judged = self.verdict in (BETTER, WORSE, EQUIVALENT, UNDECIDED)
        return f", {GIVEN_START}" if self.one_start and judged else ""

    @property
    def trade(self) -> str:
        """What the other shape's metric says, where its interval leaves 0 out to the other side:
        a gain in masks with a loss in boxes is one fact. Empty otherwise."""
        shape, _, name = self.metric.partition("_")
        other = "box" if shape == "mask" else "mask"
        found = self.others.get(f"{other}_{name}", Interval())
        if not (found.high < 0 < self.interval.difference) and not (
            found.low > 0 > self.interval.difference
        ):
            return ""
        return (
            f", but its {other} {name.replace('ap', 'AP').replace('_', ' ')} is "
            f"{'lower' if found.high < 0 else 'higher'} by {abs(found.difference):.2f} (95 % "
            f"interval {found.low:+.2f} to {found.high:+.2f}, no verdict)"
        )

    @property
    def label(self) -> str:
        """The verdict as tables print it."""
        text = f"{self.verdict} (< margin)" if self.small else self.verdict
        text += self.given_start
        text += f", unstable {self.unstable}/{len(self.seeds)}" if self.unstable else ""
        return (
            f"{text}, exploratory"
            if self.exploratory and self.verdict not in (NONE, FAILED)
            else text
        )

    @property
    def sentence(self) -> str:
        """The verdict in plain words."""
        if not self.seeds:
            return f"{self.arm} {self.notes[0]}"
        at = "for these two checkpoints" if len(self.seeds) == 1 else f"on {len(self.seeds)} seeds"
        d, size = self.interval.difference, abs(self.interval.difference)
        spread = f"95 % interval {self.interval.low:+.2f} to {self.interval.high:+.2f}"
        found = {
            IDENTICAL: f"has the same AP as {self.baseline} at every seed: identical runs, which "
            "says nothing about equivalence",
            EQUIVALENT: f"is equivalent to {self.baseline}: the difference of {d:+.2f} ({spread}) "
            f"is smaller than {self.margin:g} AP",
            UNDECIDED: f"is not decided: {d:+.2f} to {self.baseline} ({spread}) may be a "
            "difference or none",
            NONE: f"has {d:+.2f} to {self.baseline} {at} ({spread}): no verdict below "
            f"{LEAST_SEEDS} seeds",
        }.get(
            self.verdict,
            f"is {self.verdict} than {self.baseline} by {size:.2f} AP ({spread})"
            + (f", less than the margin of {self.margin:g}" if self.small else ""),
        )
        parts = [f"{self.arm} {found}{self.trade}{self.given_start}"]
        if self.decided_at and self.decided_at < len(self.seeds):
            parts.append(f"decided at the look of {self.decided_at} seeds")
        if self.needed is not None:
            parts.append(str(self.needed))
        if self.exploratory and self.verdict != NONE:
            parts.append(f"exploratory: {self.exploratory}")
        if self.unstable:
            parts.append(f"unstable: {self.unstable} of {len(self.seeds)} runs {_NOT_FINITE}")
        return "; ".join([*parts, *self.notes])


def about_the_start(records: Iterable[Comparison]) -> str:
    """A sentence on what "given this start" means, where a verdict says so; else nothing."""
    if not any(record.given_start for record in records):
        return ""
    return (
        f"{GIVEN_START}: all runs were trained from one checkpoint, so the intervals leave out how "
        "differences vary from start to start"
    )


def unstable_baseline(baseline: str, runs: Iterable[FinishedRun]) -> str:
    """A sentence where runs of the baseline diverged, which every difference to it is made of; else
    nothing."""
    runs = list(runs)
    unstable = sum(run.diverged for run in runs)
    return (
        f"{baseline}, the baseline, is unstable: {unstable} of {len(runs)} runs {_NOT_FINITE}"
        if unstable
        else ""
    )


def baseline_label(runs: Iterable[FinishedRun]) -> str:
    """What tables print in place of the baseline's verdict."""
    unstable = [run.diverged for run in runs]
    return f"baseline, unstable {sum(unstable)}/{len(unstable)}" if any(unstable) else "baseline"
