"""What a report is made from: the finished runs of a study with their configs, means with
intervals, verdicts, what stands beside AP, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.schema import Config
from yolact.files import write_whole
from yolact.run_files import BENCHMARK, BOUNDARY, MASK_DETECTIONS
from yolact.study.arms import Arm, arms_of, config_of
from yolact.study.folder.layout import STUDY, study_file
from yolact.study.folder.reading import read_object
from yolact.study.plan import Study
from yolact.study.report.bounds import Bounds, bounds_of
from yolact.study.report.cells import Seeds
from yolact.study.report.estimates import Estimate, mean_over_seeds
from yolact.study.report.external import ExternalResult, external_results
from yolact.study.report.images.truth import TruthFiles
from yolact.study.report.published import Published, published
from yolact.study.statistics import Comparison, FinishedRun, StudyRuns, compare_study, load_runs
from yolact.study.statistics.boundary import boundary_of_run
from yolact.study.statistics.conditions import check_study

STUDY_RUNS, RUNS_ALONE, RESULTS_FILES = "study", "runs", "results"


@dataclass(frozen=True)
class ArmReport:
    """One arm. config: of its runs, of results files the defaults; comparison: with the baseline,
    None for the baseline itself; published: the survey's row beside it."""

    arm: Arm
    config: Config
    runs: Mapping[int, FinishedRun]
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
    bounds      what masks of the arms' kinds can reach, where it is known and the study is of masks
    origin      STUDY_RUNS, RUNS_ALONE where no study planned them, RESULTS_FILES of COCO
    truth       of results files: where their annotations and pictures are
    external    what others reached on the same set, or printed
    """

    folder: Path
    study: Study
    baseline: str
    arms: Sequence[ArmReport]
    mixed: Mapping[str, str]
    unfinished: Mapping[str, Mapping[int, str]]
    strays: Mapping[Path, str]
    bounds: Bounds
    external: Sequence[ExternalResult] = ()
    origin: str = STUDY_RUNS
    truth: TruthFiles | None = None

    @property
    def trained(self) -> bool:
        """Whether configs are known: they are not of results files."""
        return self.origin != RESULTS_FILES

    @property
    def title(self) -> str:
        if self.origin == STUDY_RUNS:
            return self.study.name
        labels = [arm.label for arm in self.arms if arm is not self.base]
        return f"{', '.join(labels)} against {self.baseline}"

    @property
    def metric(self) -> str:
        return self.study.primary

    @property
    def runs(self) -> list[tuple[ArmReport, int, FinishedRun]]:
        return [(arm, seed, run) for arm in self.arms for seed, run in sorted(arm.runs.items())]

    @property
    def base(self) -> ArmReport:
        return next(arm for arm in self.arms if arm.label == self.baseline)


def collect(folder: str | Path, *, mixed: bool = False, loaded: StudyRuns | None = None) -> Report:
    """The report of the study in a folder. ValueError where there is none, where no run is
    finished, and where finished runs are of different data, code, evaluation or length, unless
    `mixed`: then every verdict is exploratory. loaded: its runs, where they are read already."""
    folder = Path(folder)
    if not study_file(folder).is_file():
        raise ValueError(
            f"{folder} has no {STUDY}: give the folder of a study, such as runs/quick_study, "
            "which scripts/sweep.py makes"
        )
    found = loaded or load_runs(folder)
    if not any(found.arms.values()):
        waiting = sum(map(len, found.unfinished.values()))
        raise ValueError(
            f"{folder}: no run is finished yet ({waiting} are planned): let scripts/sweep.py train "
            "them first"
        )
    unequal = check_study(found, mixed=mixed)
    verdicts = {record.arm: record for record in compare_study(found, unequal)}
    arms = {arm.label: arm for arm in arms_of(found.study)}
    reports = [
        _of_study(arms[label], seeds, verdicts.get(label), found.study)
        for label, seeds in found.arms.items()
    ]
    some_run = next(run for seeds in found.arms.values() for run in seeds.values())
    of_masks = shape_of(found.study.primary) == "mask"
    return Report(
        folder,
        found.study,
        found.baseline,
        reports,
        unequal,
        found.unfinished,
        found.strays,
        bounds_of(folder, [arm.config for arm in reports], some_run) if of_masks else {},
        external=external_results(found.study, folder, some_run),
    )


def arm_report(
    arm: Arm,
    runs: Mapping[int, FinishedRun],
    comparison: Comparison | None,
    config: Config,
    beside: Published | None = None,
) -> ArmReport:
    """One arm with its means. beside: the survey's row."""
    metrics = next(iter(runs.values())).resampled.point if runs else ()
    estimates = {metric: mean_over_seeds(list(runs.values()), metric) for metric in metrics}
    return ArmReport(arm, config, runs, comparison, estimates, _fps(runs.values()), beside)


def _of_study(
    arm: Arm, runs: Mapping[int, FinishedRun], comparison: Comparison | None, study: Study
) -> ArmReport:
    first = next(iter(runs.values()), None)
    config = first.config if first else config_of(study, arm, study.seeds[0])
    beside = published(config) if shape_of(study.primary) == "mask" else None
    return arm_report(arm, runs, comparison, config, beside)


def _fps(runs: Iterable[FinishedRun]) -> Estimate | None:
    """Images/s of the runs that were timed: their mean, and the mean distance to the rate that 95 %
    of the images reach."""
    timed = [read_object(run.folder / BENCHMARK) for run in runs]
    rates = [
        (one["fps"], 1000 / one["p95_ms"]["total"])
        for one in timed
        if "fps" in one and "p95_ms" in one
    ]
    if not rates:
        return None
    fps, slow = (float(np.mean(column)) for column in zip(*rates))
    return Estimate(fps, fps - slow)


def seeds_of(arm: ArmReport, study: Study) -> Seeds:
    return Seeds(len(arm.runs), len(study.seeds) + len(study.added_seeds))


def shape_of(metric: str) -> str:
    """mask or box: what a metric is about."""
    return "box" if metric.startswith("box_") else "mask"


# ------------------------------------------------------------------------------------ beside AP


def frames_per_second(run: FinishedRun) -> float | None:
    """As eval.py --benchmark measured it, None where it did not."""
    return read_object(run.folder / BENCHMARK).get("fps")


def measure_boundary(report: Report) -> None:
    """Boundary AP of every run that has its mask results, left in its folder: kept runs have no
    masks."""
    for _, _, run in tqdm(report.runs, desc="boundary AP", unit="run", leave=False, disable=None):
        if (run.folder / MASK_DETECTIONS).is_file():
            write_whole(run.folder / BOUNDARY, json.dumps(boundary_of_run(run)) + "\n")
