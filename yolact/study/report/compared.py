"""Runs, arms or COCO results files that were compared without a study, as their page sees them."""

from __future__ import annotations

from pathlib import Path

from data.resolve import ConfigError, load_config
from yolact.study.arms import Arm
from yolact.study.compare import Compared
from yolact.study.plan import Study, read_study
from yolact.study.report.bounds import bounds_of
from yolact.study.report.data import RESULTS_FILES, RUNS_ALONE, Report, arm_report, shape_of
from yolact.study.report.images.truth import TruthFiles
from yolact.study.report.published import published
from yolact.study.statistics import FinishedRun

UNKNOWN = "yolact_base"  # stands for the config of results files, of which nothing is printed


def report_of(
    compared: Compared, gt: Path | None = None, image_folder: Path | None = None
) -> Report:
    """gt, image_folder: annotations of results files, and where their images are. ValueError where
    results files and runs are mixed."""
    runs = [run for seeds in compared.arms.values() for run in seeds.values()]
    files = all(run.path.suffix == ".json" for run in runs)
    if not files and any(run.path.suffix == ".json" for run in runs):
        raise ValueError("--html: a page is of runs, or of results files, not of both")
    trained = not files and all(map(_has_config, runs))
    study = _study_of(compared, runs[0].config.train.iterations if trained else 1)
    verdicts = {record.arm: record for record in compared.comparisons}
    masks, reports = shape_of(study.primary) == "mask", []
    for number, (label, seeds) in enumerate(compared.arms.items()):
        first = next(iter(seeds.values()))
        config = first.config if trained else load_config(UNKNOWN)
        beside = published(config) if trained and masks else None
        arm = Arm(label, label, {}, {}, number)
        reports.append(arm_report(arm, seeds, verdicts.get(label), config, beside))
    configs = [arm.config for arm in reports]
    return Report(
        Path("."),
        study,
        study.baseline,
        reports,
        mixed={},
        unfinished={},
        strays={},
        bounds=bounds_of(None, configs, runs[0]) if trained and masks else {},
        origin=RUNS_ALONE if trained else RESULTS_FILES,
        truth=TruthFiles(gt, image_folder) if files and gt is not None else None,
    )


def _study_of(compared: Compared, iterations: int) -> Study:
    """The study that would have asked this."""
    first = compared.comparisons[0]
    content = {
        "name": "comparison",
        "description": "; ".join(compared.notes),
        "base": UNKNOWN,
        "arms": [{"label": label} for label in compared.arms],
        "baseline": first.baseline,
        "seeds": sorted({seed for seeds in compared.arms.values() for seed in seeds}),
        "budget": iterations,
        "primary": first.metric,
        "margin": first.margin,
    }
    return read_study(content, "the comparison")


def _has_config(run: FinishedRun) -> bool:
    try:
        return bool(run.config)
    except (ConfigError, OSError):
        return False
