"""Arms judged together against a baseline, from their runs: one Comparison an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolact.study.statistics.comparison import FAILED, Comparison, Interval
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.inference import (
    Array,
    crossed,
    half_width,
    paired_t_p,
    sign_flip_p,
)
from yolact.study.statistics.power import Needed, seeds_needed
from yolact.study.statistics.study_runs import StudyRuns
from yolact.study.statistics.verdict import (
    MARGIN,
    NONE,
    UNDECIDED,
    Judgement,
    judge,
    spending,
)

SIGN_FLIP_FROM = 6  # seeds; a smaller p than 2^(1-S) cannot come out
Arms = Mapping[str, Mapping[int, FinishedRun]]  # {label: {seed: run}}


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
    arms: Arms,
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
    asked = _Question(arms, baseline, primary, margin)
    whatever = planned is None
    if planned is None:
        planned = sorted({seed for runs in arms.values() for seed in runs})
    planned, looks = list(planned), list(looks) or [len(planned)]
    levels = spending(looks)
    found: dict[str, Comparison] = {}
    for look, level in zip(looks, levels):
        family = {label: asked.common(label, planned[:look]) for label in asked.others}
        # a planned seed that later ones have overtaken is lost, not waited for
        due = {
            label: seeds
            for label, seeds in family.items()
            if seeds and (whatever or asked.common(label, planned[look - 1 :]))
        }
        for record in _family(asked, due, level):
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
    family = {label: seeds for label in asked.others if (seeds := asked.common(label))}
    unplanned = {record.arm: record for record in _family(asked, family, levels[-1])}
    return [
        _finish(unplanned[label], found.get(label), planned, looks, exploratory)
        if label in unplanned
        else _nothing(asked, label, planned)
        for label in asked.others
    ]


def _check(arms: Arms, baseline: str, primary: str, margin: float) -> None:
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


@dataclass(frozen=True)
class _Question:
    """Whether the arms differ from the baseline in a primary metric."""

    arms: Arms
    baseline: str
    primary: str
    margin: float

    @property
    def others(self) -> list[str]:
        """The arms that are judged. They all pay for one another, also those that failed."""
        return [label for label in self.arms if label != self.baseline]

    @property
    def base(self) -> Mapping[int, FinishedRun]:
        return self.arms[self.baseline]

    def common(self, label: str, chosen: Sequence[int] | None = None) -> list[int]:
        """The seeds that an arm and the baseline have, among the chosen ones."""
        both = set(self.arms[label]) & set(self.base)
        return sorted(both) if chosen is None else [seed for seed in chosen if seed in both]

    def metrics(self, labels: Sequence[str]) -> list[str]:
        """The metrics beside the primary that every run of these arms and of the baseline has."""
        runs = [run for label in (*labels, self.baseline) for run in self.arms[label].values()]
        return [
            name
            for name in next(iter(self.base.values())).resampled.point
            if name != self.primary and all(name in run.resampled.point for run in runs)
        ]


@dataclass(frozen=True)
class _Judged:
    """One metric of K arms, judged together. by_seed: K arrays D_s (S,); the others (K,)."""

    by_seed: list[Array]
    difference: Array
    s2: Array
    image: Array
    found: Judgement
    half: Array

    def interval(self, i: int) -> Interval:
        d, half = float(self.difference[i]), float(self.half[i])
        return Interval(d, d - half, d + half)


def _family(asked: _Question, seeds: Mapping[str, Sequence[int]], level: float) -> list[Comparison]:
    """The arms of `seeds` {label: common seeds}, judged together as part of the whole family."""
    if not seeds:
        return []
    own = _judged(asked, seeds, asked.primary, level)
    beside = {name: _judged(asked, seeds, name, level) for name in asked.metrics(list(seeds))}
    records = []
    for i, (label, chosen) in enumerate(seeds.items()):
        others = {name: judged.interval(i) for name, judged in beside.items()}
        record = _record(asked, label, chosen, own, i, level)
        records.append(replace(record, others=others))
    return records


def _judged(
    asked: _Question, seeds: Mapping[str, Sequence[int]], metric: str, level: float
) -> _Judged:
    by_seed, parts = [], []
    for label, chosen in seeds.items():
        pairs = [(asked.arms[label][s].resampled, asked.base[s].resampled) for s in chosen]
        by_seed.append(np.array([one.point[metric] - two.point[metric] for one, two in pairs]))
        draws = np.stack([one.draws[metric] - two.draws[metric] for one, two in pairs], -1)
        parts.append(crossed(by_seed[-1], draws))
    d, s2, image = (np.array(column) for column in zip(*parts, strict=True))
    counts = np.array([len(chosen) for chosen in seeds.values()])
    found = judge(d, s2, image, counts, arms=len(asked.others), margin=asked.margin, level=level)
    return _Judged(by_seed, d, s2, image, found, half_width(found.v / counts, image, found.df))


def _record(
    asked: _Question, label: str, chosen: Sequence[int], own: _Judged, i: int, level: float
) -> Comparison:
    """The record of arm i of a family, without its other metrics."""
    found, s2 = own.found, float(own.s2[i])
    return Comparison(
        arm=label,
        baseline=asked.baseline,
        metric=asked.primary,
        margin=asked.margin,
        verdict=str(found.verdict[i]),
        seeds=tuple(chosen),
        ap=_mean(asked.arms[label], chosen, asked.primary),
        baseline_ap=_mean(asked.base, chosen, asked.primary),
        by_seed=tuple(own.by_seed[i].tolist()),
        seed_sd=math.sqrt(s2),
        image_sd=math.sqrt(own.image[i]),
        v=float(found.v[i]),
        df=float(found.df[i]),
        interval=own.interval(i),
        p=float(found.p[i]),
        p_holm=float(found.p_holm[i]),
        p_equivalent=float(found.p_equivalent[i]),
        p_equivalent_holm=float(found.p_equivalent_holm[i]),
        small=bool(found.small[i]),
        level=level,
        paired_t=paired_t_p(own.by_seed[i]),
        sign_flip=sign_flip_p(own.by_seed[i]) if len(chosen) >= SIGN_FLIP_FROM else None,
        needed=_needed(asked, len(chosen), own, i, level),
        unstable=sum(asked.arms[label][seed].diverged for seed in chosen),
        one_start=_one_start(asked, label, chosen),
    )


def _needed(asked: _Question, seeds: int, own: _Judged, i: int, level: float) -> Needed | None:
    """What would decide arm i, where it is undecided and its seeds differ."""
    if own.found.verdict[i] != UNDECIDED or not own.s2[i] > 0:
        return None
    return seeds_needed(
        own.difference[i],
        own.s2[i],
        own.found.v[i],
        own.found.df[i],
        own.image[i],
        seeds,
        images=next(iter(asked.base.values())).images,
        arms=len(asked.others),
        margin=asked.margin,
        level=level,
    )


def _one_start(asked: _Question, label: str, seeds: Sequence[int]) -> bool:
    """Whether an arm and the baseline were trained from one checkpoint at all of these seeds."""
    starts = {runs[seed].start for runs in (asked.arms[label], asked.base) for seed in seeds}
    return len(starts) == 1 and "" not in starts


def _mean(runs: Mapping[int, FinishedRun], seeds: Sequence[int], metric: str) -> float:
    return float(np.mean([runs[seed].resampled.point[metric] for seed in seeds]))


def _nothing(asked: _Question, label: str, planned: list[int]) -> Comparison:
    """The record of an arm without numbers. It failed only where its own runs are missing."""
    verdict, why = NONE, f"has no seed that {asked.baseline} has too"
    if not asked.arms[label]:
        verdict, why = FAILED, "has no finished run to compare"
    elif not asked.base:
        why = f"cannot be compared: {asked.baseline}, the baseline, has no finished run"
    return Comparison(
        arm=label,
        baseline=asked.baseline,
        metric=asked.primary,
        margin=asked.margin,
        verdict=verdict,
        missing=tuple(planned),
        notes=(why,),
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
