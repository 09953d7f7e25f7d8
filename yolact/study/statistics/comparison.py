"""Arms against a baseline, from their runs: one record an arm, with difference, interval, p and
verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.inference import crossed, half_width, sign_flip_p
from yolact.study.statistics.power import Needed, seeds_needed
from yolact.study.statistics.study_runs import StudyRuns
from yolact.study.statistics.verdict import (
    EQUIVALENT,
    IDENTICAL,
    LEAST_SEEDS,
    LEVEL,
    MARGIN,
    NONE,
    UNDECIDED,
    Judgement,
    judge,
    spending,
)

FAILED = "failed"
_NOT_FINITE = "had steps whose loss or gradient was not finite"
SIGN_FLIP_FROM = 6


@dataclass(frozen=True)
class Interval:
    """A difference to the baseline in AP points, and its 95 % interval."""

    difference: float
    low: float
    high: float

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
    sign_flip        exact sign-flip p on these images, from 6 seeds; a check that decides nothing
    unstable         runs of the arm among `seeds` that had steps whose loss or gradient was not
                     finite
    """

    arm: str
    baseline: str
    metric: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    ap: float
    baseline_ap: float
    by_seed: tuple[float, ...]
    seed_sd: float
    image_sd: float
    v: float
    df: float
    interval: Interval
    others: dict[str, Interval]
    p: float
    p_holm: float
    p_equivalent: float
    p_equivalent_holm: float
    verdict: str
    small: bool
    level: float
    decided_at: int | None
    exploratory: str
    sign_flip: float | None
    needed: Needed | None
    unstable: int
    margin: float
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The verdict as tables print it."""
        text = f"{self.verdict} (< margin)" if self.small else self.verdict
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
        parts = [f"{self.arm} {found}"]
        if self.decided_at and self.decided_at < len(self.seeds):
            parts.append(f"decided at the look of {self.decided_at} seeds")
        if self.needed is not None:
            parts.append(str(self.needed))
        if self.exploratory and self.verdict != NONE:
            parts.append(f"exploratory: {self.exploratory}")
        if self.unstable:
            parts.append(f"unstable: {self.unstable} of {len(self.seeds)} runs {_NOT_FINITE}")
        return "; ".join([*parts, *self.notes])


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


def compare_study(runs: StudyRuns, mixed: Mapping[str, str] | None = None) -> list[Comparison]:
    """Every arm of a study against its baseline, as its file says. mixed: in what the runs differ
    that are compared all the same."""
    study = runs.study
    reasons = (
        [f"the study was changed after it began ({', '.join(study.amended)})"]
        if study.amended
        else []
    )
    reasons += [f"runs of different {', '.join(mixed)}"] if mixed else []
    return compare_arms(
        runs.arms,
        runs.baseline,
        primary=study.primary,
        margin=study.margin,
        planned=study.seeds,
        looks=study.looks,
        exploratory="; ".join(reasons),
    )


def compare_arms(
    arms: Mapping[str, Mapping[int, FinishedRun]],
    baseline: str,
    *,
    primary: str = "mask_ap",
    margin: float = MARGIN,
    planned: Sequence[int] | None = None,
    looks: Sequence[int] = (),
    exploratory: str = "",
) -> list[Comparison]:
    """One record for each arm but the baseline. arms {label: {seed: run}}: those that failed are
    there too, with fewer runs or none.

    planned      the seeds that were planned, in order; None = no plan: each arm by the seeds that
                 it has in common with the baseline
    looks        numbers of planned seeds after which one looks; empty = once, at all of them. A
                 look is due once its last seed or a later one is there, and is taken on those of
                 its seeds that are
    exploratory  a reason for which every verdict is exploratory

    ValueError for an arm that is not there, a metric that the runs do not have, a margin or looks
    that make no sense.
    """
    _check(arms, baseline, primary, margin)
    others = [label for label in arms if label != baseline]
    whatever = planned is None
    if planned is None:
        planned = sorted({seed for runs in arms.values() for seed in runs})
    planned, looks = list(planned), list(looks) or [len(planned)]
    levels = spending(looks)
    found: dict[str, Comparison] = {}
    for look, level in zip(looks, levels):
        family = {label: _common(arms, label, baseline, planned[:look]) for label in others}
        # a planned seed that later ones have overtaken is lost, not waited for
        due = {
            label: seeds
            for label, seeds in family.items()
            if seeds and (whatever or _common(arms, label, baseline, planned[look - 1 :]))
        }
        for record in _family(arms, baseline, due, primary, margin, level, len(others)):
            earlier = found.get(record.arm)
            decided = record.verdict not in (UNDECIDED, NONE)
            record = replace(record, decided_at=look if decided else None)
            if earlier and earlier.decided_at:
                record = replace(
                    record,
                    verdict=earlier.verdict,
                    small=earlier.small,
                    level=earlier.level,
                    decided_at=earlier.decided_at,
                )
            found[record.arm] = record
    # unplanned: more seeds than the last look, or too few for the first one
    family = {label: seeds for label in others if (seeds := _common(arms, label, baseline, None))}
    unplanned = {
        record.arm: record
        for record in _family(arms, baseline, family, primary, margin, levels[-1], len(others))
    }
    return [
        _finish(unplanned[label], found.get(label), planned, looks, exploratory)
        if label in unplanned
        else _nothing(arms, label, baseline, primary, margin, planned)
        for label in others
    ]


def _check(
    arms: Mapping[str, Mapping[int, FinishedRun]], baseline: str, primary: str, margin: float
) -> None:
    if baseline not in arms:
        raise ValueError(
            f"there is no arm {baseline!r} to be the baseline; the arms are {', '.join(arms)}"
        )
    if not margin > 0:
        raise ValueError(
            f"margin={margin}: give the difference, in AP points, below which two arms count as "
            f"equivalent, such as {MARGIN}"
        )
    for label, runs in arms.items():
        for run in runs.values():
            if primary not in run.resampled.point:
                raise ValueError(
                    f"{label} has no {primary}: its records hold {', '.join(run.resampled.point)}"
                )
            if math.isnan(run.resampled.point[primary]):
                raise ValueError(
                    f"{primary} is undefined: no ground truth of the validation set counts for it"
                )


def _common(
    arms: Mapping[str, Mapping[int, FinishedRun]],
    label: str,
    baseline: str,
    chosen: Sequence[int] | None,
) -> list[int]:
    both = set(arms[label]) & set(arms[baseline])
    return sorted(both) if chosen is None else [seed for seed in chosen if seed in both]


def _parts(
    arm: Mapping[int, FinishedRun],
    base: Mapping[int, FinishedRun],
    seeds: Sequence[int],
    metric: str,
) -> tuple[np.ndarray, tuple]:
    """D_s (S,), and D, s2, I."""
    d = np.array([arm[s].resampled.point[metric] - base[s].resampled.point[metric] for s in seeds])
    draws = np.stack(
        [arm[s].resampled.draws[metric] - base[s].resampled.draws[metric] for s in seeds], -1
    )
    return d, crossed(d, draws)


def _family(
    arms: Mapping[str, Mapping[int, FinishedRun]],
    baseline: str,
    seeds: Mapping[str, Sequence[int]],
    primary: str,
    margin: float,
    level: float,
    count: int,
) -> list[Comparison]:
    """The arms of `seeds` {label: common seeds}, judged together as part of a family of `count`."""
    if not seeds:
        return []
    base = arms[baseline]
    counts = np.array([len(chosen) for chosen in seeds.values()])

    def judged(metric: str) -> tuple[list, np.ndarray, Judgement, np.ndarray]:
        found = [_parts(arms[label], base, chosen, metric) for label, chosen in seeds.items()]
        d, s2, image = (np.array([parts[i] for _, parts in found]) for i in range(3))
        result = judge(d, s2, image, counts, arms=count, margin=margin, level=level)
        return (
            [by_seed for by_seed, _ in found],
            np.stack([d, s2, image], 1),
            result,
            half_width(result.v / counts, image, result.df),
        )

    by_seed, parts, result, width = judged(primary)
    metrics = [
        name
        for name in next(iter(base.values())).resampled.point
        if name != primary
        and all(
            name in run.resampled.point
            for label in (*seeds, baseline)
            for run in arms[label].values()
        )
    ]
    others = {metric: judged(metric) for metric in metrics}
    records = []
    for i, (label, chosen) in enumerate(seeds.items()):
        d, s2, image = parts[i]
        intervals = {
            metric: Interval(p[i, 0], p[i, 0] - w[i], p[i, 0] + w[i])
            for metric, (_, p, _, w) in others.items()
        }
        verdict = str(result.verdict[i])
        needed = None
        if verdict == UNDECIDED and s2 > 0:
            needed = seeds_needed(
                d,
                s2,
                result.v[i],
                result.df[i],
                image,
                len(chosen),
                images=next(iter(base.values())).images,
                arms=count,
                margin=margin,
                level=level,
            )
        records.append(
            Comparison(
                label,
                baseline,
                primary,
                tuple(chosen),
                (),
                _mean(arms[label], chosen, primary),
                _mean(base, chosen, primary),
                tuple(by_seed[i].tolist()),
                math.sqrt(s2) if s2 == s2 else math.nan,
                math.sqrt(image),
                float(result.v[i]),
                float(result.df[i]),
                Interval(d, d - width[i], d + width[i]),
                intervals,
                float(result.p[i]),
                float(result.p_holm[i]),
                float(result.p_equivalent[i]),
                float(result.p_equivalent_holm[i]),
                verdict,
                bool(result.small[i]),
                level,
                None,
                "",
                sign_flip_p(by_seed[i]) if len(chosen) >= SIGN_FLIP_FROM else None,
                needed,
                sum(arms[label][seed].diverged for seed in chosen),
                margin,
            )
        )
    return records


def _mean(runs: Mapping[int, FinishedRun], seeds: Sequence[int], metric: str) -> float:
    return float(np.mean([runs[seed].resampled.point[metric] for seed in seeds]))


def _nothing(
    arms: Mapping[str, Mapping[int, FinishedRun]],
    label: str,
    baseline: str,
    primary: str,
    margin: float,
    planned: list[int],
) -> Comparison:
    """The record of an arm without numbers. It failed only where its own runs are missing."""
    verdict, why = NONE, f"has no seed that {baseline} has too"
    if not arms[label]:
        verdict, why = FAILED, "has no finished run to compare"
    elif not arms[baseline]:
        why = f"cannot be compared: {baseline}, the baseline, has no finished run"
    nan, nothing = math.nan, Interval(math.nan, math.nan, math.nan)
    return Comparison(
        label,
        baseline,
        primary,
        (),
        tuple(planned),
        nan,
        nan,
        (),
        nan,
        nan,
        nan,
        nan,
        nothing,
        {},
        nan,
        1.0,
        nan,
        1.0,
        verdict,
        False,
        LEVEL,
        None,
        "",
        None,
        None,
        0,
        margin,
        (why,),
    )


def _finish(
    unplanned: Comparison,
    at_look: Comparison | None,
    planned: list[int],
    looks: list[int],
    exploratory: str,
) -> Comparison:
    """The record of an arm: of its last look, or exploratory where its seeds are others than
    planned."""
    missing = tuple(seed for seed in planned if seed not in unplanned.seeds)
    added = [seed for seed in unplanned.seeds if seed not in planned]
    if at_look is None or added:
        record = unplanned
        why = (
            f"seeds {_list(added)} were not planned"
            if added
            else f"{len(record.seeds)} of {len(planned)} planned seeds"
        )
    else:
        record, why = at_look, ""
    notes = []
    waiting = [seed for seed in planned if seed in unplanned.seeds and seed not in record.seeds]
    if waiting:
        following = next((look for look in looks if look > planned.index(waiting[0])), len(planned))
        notes.append(f"seeds {_list(waiting)} wait for the look at {following} seeds")
    if missing:
        notes.append(f"compared on seeds {_list(record.seeds)}; without {_list(missing)}")
    if record.verdict == UNDECIDED and record.seed_sd == 0 and record.image_sd == 0:
        notes.append(
            "its runs are copies of each other: neither seeds nor images vary, so there is "
            "nothing to judge by"
        )
    reasons = [reason for reason in (exploratory, why) if reason]
    return replace(record, missing=missing, exploratory="; ".join(reasons), notes=tuple(notes))


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
