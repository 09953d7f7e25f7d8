"""What a report is made from: the finished runs of a study with their configs, means with
intervals, verdicts, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.schema import Config
from yolact.study.arms import Arm, arms_of, config_of
from yolact.study.plan import Study
from yolact.study.report.published import Published, published
from yolact.study.statistics import Comparison, Run, compare_study, load_runs
from yolact.study.statistics.conditions import Trained, check_study, read_json, trained
from yolact.study.statistics.inference import crossed, half_width

BENCHMARK = "results/benchmark.json"  # what eval.py --benchmark leaves in a run's folder


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in AP points, and the half width of its 95 % interval over seeds and
    images; NaN where there is none."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclass(frozen=True)
class ArmReport:
    """One arm. config: of its runs; comparison: with the baseline, None for the baseline itself;
    published: the survey's row beside it."""

    arm: Arm
    config: Config
    runs: Mapping[int, Trained]
    comparison: Comparison | None
    estimates: Mapping[str, Estimate]
    fps: Estimate | None
    published: Published | None

    @property
    def label(self) -> str:
        return self.arm.label


@dataclass(frozen=True)
class Report:
    """A study as its report sees it.

    mixed       {data, code, evaluation or length: in what the runs differ}, empty as a rule
    unfinished  {label: {seed: why}}; strays {run folder: why it is left out}
    """

    folder: Path
    study: Study
    baseline: str
    arms: Sequence[ArmReport]
    mixed: Mapping[str, str]
    unfinished: Mapping[str, Mapping[int, str]]
    strays: Mapping[Path, str]

    @property
    def metric(self) -> str:
        return self.study.primary

    @property
    def runs(self) -> list[tuple[ArmReport, int, Trained]]:
        return [(arm, seed, run) for arm in self.arms for seed, run in sorted(arm.runs.items())]

    @property
    def base(self) -> ArmReport:
        return next(arm for arm in self.arms if arm.label == self.baseline)


def collect(folder: str | Path, *, mixed: bool = False) -> Report:
    """The report of the study in a folder. ValueError where there is none, where no run is
    finished, and where finished runs are of different data, code, evaluation or length, unless
    `mixed`: then every verdict is exploratory."""
    folder = Path(folder)
    if not (folder / "study.yaml").is_file():
        raise ValueError(
            f"{folder} has no study.yaml: give the folder of a study, such as runs/quick_study, "
            "which scripts/sweep.py makes"
        )
    found = load_runs(folder)
    runs = {
        label: {seed: trained(run) for seed, run in seeds.items()}
        for label, seeds in found.arms.items()
    }
    if not any(runs.values()):
        waiting = sum(map(len, found.unfinished.values()))
        raise ValueError(
            f"{folder}: no run is finished yet ({waiting} are planned): let scripts/sweep.py train "
            "them first"
        )
    unequal = check_study(found, runs, mixed=mixed)
    verdicts = {record.arm: record for record in compare_study(found, unequal)}
    arms = {arm.label: arm for arm in arms_of(found.study)}
    reports = [
        _arm_report(arms[label], seeds, verdicts.get(label), found.study)
        for label, seeds in runs.items()
    ]
    return Report(
        folder, found.study, found.baseline, reports, unequal, found.unfinished, found.strays
    )


def _arm_report(
    arm: Arm, runs: Mapping[int, Trained], comparison: Comparison | None, study: Study
) -> ArmReport:
    first = next(iter(runs.values()), None)
    config = first.config if first else config_of(study, arm, study.seeds[0])
    metrics = first.run.resampled.point if first else ()
    estimates = {metric: estimate([run.run for run in runs.values()], metric) for metric in metrics}
    theirs = published(config) if study.primary.startswith("mask") else None
    return ArmReport(arm, config, runs, comparison, estimates, _fps(runs.values()), theirs)


def estimate(runs: Sequence[Run], metric: str, base: Sequence[Run] = ()) -> Estimate:
    """The mean of a metric over the runs of one arm, or of its difference to as many paired runs,
    and its interval."""
    values = np.array([run.resampled.point[metric] for run in runs])
    draws = np.stack([run.resampled.draws[metric] for run in runs], -1)
    if base:
        values = values - [run.resampled.point[metric] for run in base]
        draws = draws - np.stack([run.resampled.draws[metric] for run in base], -1)
    mean, s2, image = crossed(values, draws)
    return Estimate(float(mean), width(s2, image, len(values), len(values) - 1))


def width(s2: float, image: float, seeds: int, df: float, level: float = 0.05) -> float:
    """Half of an interval from a variance over seeds and one over images; one seed has the image
    part only."""
    seed_part, df = (s2 / seeds, df) if seeds > 1 else (0.0, 1)
    return float(half_width(np.array([seed_part]), np.array([image]), np.array([df]), level)[0])


def _fps(runs) -> Estimate | None:
    """Images/s of the runs that were timed: their mean, and the mean distance to the rate that 95 %
    of the images reach."""
    timed = [read_json(run.folder / BENCHMARK) for run in runs]
    rates = [
        (one["fps"], 1000 / one["p95_ms"]["total"])
        for one in timed
        if "fps" in one and "p95_ms" in one
    ]
    if not rates:
        return None
    fps, slow = (float(np.mean(column)) for column in zip(*rates))
    return Estimate(fps, fps - slow)


def seeds_text(arm: ArmReport, study: Study) -> str:
    """How many of the planned seeds are there: 5, or 4 of 5."""
    planned = len(study.seeds) + len(study.added_seeds)
    return str(len(arm.runs)) if len(arm.runs) == planned else f"{len(arm.runs)} of {planned}"


def is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
