"""Which of two is better: runs, arms, or COCO results files, and whole studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from layers.problems import printable
from yolact.run_files import RESULTS, WEIGHTS
from yolact.study.folder.kept import is_archive
from yolact.study.folder.layout import study_file
from yolact.study.statistics import (
    Comparison,
    FinishedRun,
    StudyRuns,
    compare_arms,
    compare_study,
    load_arm,
    load_results,
    load_run,
    load_runs,
)
from yolact.study.statistics.conditions import check_study
from yolact.study.statistics.finished import check_comparable
from yolact.study.statistics.verdict import MARGIN

Arms = Mapping[str, Mapping[int, FinishedRun]]  # {name: {seed: run}}


@dataclass(frozen=True)
class Compared:
    """comparisons: one for each of `arms` but the baseline; notes: what a reader should know;
    loaded: the runs of a study, where one was compared."""

    comparisons: Sequence[Comparison]
    arms: Arms
    notes: Sequence[str]
    loaded: StudyRuns | None = None


def compare(
    a: str | Path,
    b: str | Path,
    gt: str | Path | None = None,
    *,
    metric: str | None = None,
    margin: float = MARGIN,
) -> Comparison:
    """Is b better than a, and is that certain? Positive differences mean that b is better.

    a, b    two run folders, two folders that hold the runs of several seeds, or two COCO results
            files (JSON). One run each gives an interval and no verdict: that takes three seeds
    gt      the annotation file of results files
    metric  what the verdict is about, such as mask_ap50; None = mask_ap, or box_ap of boxes alone
    margin  difference in AP points below which the two count as equivalent

    Read .verdict, .interval and .sentence of what it returns. The formulas are in
    docs/reference/statistics.md. ValueError for what does not exist or cannot be compared.
    """
    found = compare_paths([Path(a), Path(b)], gt, metric=metric, margin=margin)
    (comparison,) = found.comparisons
    return replace(comparison, notes=(*comparison.notes, *found.notes))


def compare_paths(
    paths: Sequence[Path],
    gt: str | Path | None = None,
    *,
    metric: str | None = None,
    margin: float = MARGIN,
) -> Compared:
    """As compare(), of two or more; the first is the baseline."""
    if len(paths) < 2:
        raise ValueError("name two or more runs, arms or results files; the first is the baseline")
    arms, notes = _load(paths, gt)
    notes += _check(arms)
    chosen = metric or _default_metric(arms)
    return Compared(
        compare_arms(arms, next(iter(arms)), primary=chosen, margin=margin), arms, notes
    )


def compare_folder(folder: Path, *, mixed: bool = False) -> Compared:
    """The study in a folder, as its file says. ValueError without a baseline to compare with, and
    for runs of different data, code, evaluation or length unless `mixed`."""
    study = load_runs(folder)
    if len(study.arms) < 2:
        raise ValueError(
            f"{folder}: the study has one arm, {study.baseline}: there is nothing to compare it "
            "with"
        )
    if not study.arms[study.baseline]:
        waiting = study.unfinished[study.baseline]
        raise ValueError(
            f"{study.baseline}, the baseline, has no finished run (seed "
            f"{', '.join(map(str, waiting))}: {next(iter(waiting.values()))}), so there is nothing "
            "to compare the other arms with"
        )
    unequal = check_study(study, mixed=mixed)
    notes = _check(study.arms)
    notes += [f"--mixed: different {kind}: {what}" for kind, what in unequal.items()]
    notes += [
        f"left out: {label}, seed {seed}: {why}"
        for label, seeds in study.unfinished.items()
        for seed, why in seeds.items()
    ]
    notes += [f"left out: {place}: {why}" for place, why in study.strays.items()]
    return Compared(compare_study(study, unequal), study.arms, notes, study)


def _load(paths: Sequence[Path], gt: str | Path | None) -> tuple[Arms, list[str]]:
    """(arms in the order given, notes). Single runs of different seeds are compared as they are, as
    seed 0."""
    arms: dict[str, dict[int, FinishedRun]] = {}
    single: dict[str, int] = {}
    for path, name in zip(paths, map(printable, short_names(paths))):
        if not path.exists():
            raise ValueError(
                f"{path} does not exist: name a run's folder, a folder of runs, a records file or "
                "a COCO results file"
            )
        if path.suffix == ".json":
            if gt is None:
                raise ValueError(f"{path}: results need their ground truth: --gt=ANNOTATIONS.json")
            arms[name] = {0: load_results(path, gt)}
        elif is_archive(path):
            arms[name] = load_arm(path)
        elif path.is_file() or any((path / name).is_dir() for name in (RESULTS, WEIGHTS)):
            run = load_run(path)
            arms[name] = {run.seed: run}
            single[name] = run.seed
        elif study_file(path).is_file():
            raise ValueError(f"{path} is a whole study: name it alone, or the folders of its arms")
        else:
            arms[name] = load_arm(path)
    if any(len(runs) > 1 for runs in arms.values()):
        return arms, []
    seeds = ", ".join(f"{name} {seed}" for name, seed in single.items())
    notes = [f"the runs are of different seeds: {seeds}"] if len(set(single.values())) > 1 else []
    return {name: {0: next(iter(runs.values()))} for name, runs in arms.items()}, notes


def short_names(paths: Sequence[Path]) -> list[str]:
    """The paths by as many of their last parts as tell them apart. ValueError for one that is named
    twice."""
    parts = [path.resolve().parts for path in paths]
    for path, own in zip(paths, parts):
        if parts.count(own) > 1:
            raise ValueError(f"{path} is named twice")
    depth = next(
        n for n in range(1, 1 + max(map(len, parts))) if len({p[-n:] for p in parts}) == len(parts)
    )
    return ["/".join(p[-depth:]) for p in parts]


def _check(arms: Arms) -> list[str]:
    """Notes on settings that differ. ValueError where runs cannot be compared, or none is
    there."""
    runs = {
        f"{label}{f', seed {seed}' if len(found) > 1 else ''}": run
        for label, found in arms.items()
        for seed, run in found.items()
    }
    if not runs:
        raise ValueError("no run is finished yet: there is nothing to compare")
    return check_comparable(runs)


def _default_metric(arms: Arms) -> str:
    points = [run.resampled.point for runs in arms.values() for run in runs.values()]
    both = (name for name in ("mask_ap", "box_ap") if all(name in point for point in points))
    return next(both, "mask_ap")
