"""Finished runs kept without their weights, so that a study can be reported, and grow by seeds,
after runs/ is gone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolact.cli import note, one_line
from yolact.files import writing
from yolact.run_files import (
    BENCHMARK,
    BOUNDARY,
    CONFIG,
    DETECTIONS,
    ENV,
    GALLERY,
    METRICS,
    RECORDS,
    RESULTS,
)
from yolact.study.folder.kept import archive_of, names_in, write_archive
from yolact.study.folder.layout import BOUNDS, CHOSEN, RUNS, STUDY, records_of_external
from yolact.study.folder.reading import read_metrics, starts_of
from yolact.study.report.data import Report
from yolact.study.report.gallery import keep_detections
from yolact.study.report.images.masks import has_masks, masks_of_run, write_masks
from yolact.study.statistics import FinishedRun

LIMIT = 10 * 2**20  # bytes of all kept runs of a study
LINES = 150  # training lines kept of a run
# of env.json: where it ran is nobody's business, config.yaml says what
PRIVATE = ("argv", "platform", "threads")


def keep(report: Report, target: Path) -> list[Path]:
    """Keeps study.yaml, tune.json, bounds.json and the finished runs of a study in the folder
    `target`.

    A run is kept as config, environment, thinned metrics, per-image records, the masks of its
    detections (unless the study says otherwise), and the detections on a few images. It goes to
    the end of its arm's archive, runs/<arm>.zip; runs that are there already stay. Returns
    <archive>/<run> of each new one.

    ValueError for a target of another name, and where the runs would take more than 10 MB; then
    nothing is written.
    """
    if target.name != report.study.name:
        raise ValueError(
            f"--keep={target}: sweep.py looks for kept runs by the study's name, so use "
            f"--keep=studies/{report.study.name}"
        )
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".keeping-") as temporary:
        scratch, new = Path(temporary), _unkept(report, target)
        archives: dict[Path, Path] = {}
        for slug, runs in new.items():
            copies = {}
            for name, (seed, run) in runs.items():
                copies[name] = scratch / slug / name
                _copy(run, copies[name], first=seed == report.study.seeds[0])
                if report.study.report.keep_detections and has_masks(run):
                    _keep_masks(run, copies[name] / DETECTIONS)
            archive = archive_of(target, slug)
            archives[archive] = scratch / archive.name
            write_archive(archives[archive], archive, copies)
        _check_size(target, archives, _external(report))
        with writing(target):
            _copy_external(report, target)
            for name in (STUDY, CHOSEN, BOUNDS):
                source = report.folder / name
                if source.is_file() and source.resolve() != (target / name).resolve():
                    shutil.copyfile(source, target / name)
            for archive, made in archives.items():
                archive.parent.mkdir(exist_ok=True)
                os.replace(made, archive)
    return [archive_of(target, slug) / name for slug, runs in new.items() for name in runs]


def _external(report: Report) -> dict[str, Path]:
    """{label: records of a results file of others}, of those that were evaluated."""
    found = {one: records_of_external(report.folder, one) for one in report.study.external}
    return {label: path for label, path in found.items() if path.is_file()}


def _copy_external(report: Report, target: Path) -> None:
    """The records of results files of others, which need not be there again."""
    for label, source in _external(report).items():
        place = records_of_external(target, label)
        if source.resolve() != place.resolve():
            place.parent.mkdir(exist_ok=True)
            _recompress(source, place)


def _unkept(report: Report, target: Path) -> dict[str, dict[str, tuple[int, FinishedRun]]]:
    """{arm's folder: {run's folder: (seed, run)}} of the runs that target does not hold yet."""
    new: dict[str, dict[str, tuple[int, FinishedRun]]] = {}
    for arm, seed, run in report.runs:
        slug, name = arm.arm.slug, run.folder.name
        plain = target / RUNS / slug / name
        if name not in names_in(archive_of(target, slug)) and not plain.exists():
            new.setdefault(slug, {})[name] = seed, run
    return new


def _copy(run: FinishedRun, place: Path, *, first: bool) -> None:
    (place / RESULTS).mkdir(parents=True)
    with writing(place):
        shutil.copyfile(run.folder / CONFIG, place / CONFIG)
        public = [
            {key: value for key, value in start.items() if key not in PRIVATE}
            for start in starts_of(run.env)
        ]
        record = {**public[0], "resumed": public[1:]} if public[1:] else public[0]
        (place / ENV).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        lines = thinned(read_metrics(run.folder))
        (place / METRICS).write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
        _recompress(run.path, place / RECORDS)
        for name in (BENCHMARK, BOUNDARY):
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, place / name)
        if first:
            keep_detections(run, place / GALLERY)


def _keep_masks(run: FinishedRun, place: Path) -> None:
    try:
        write_masks(place, masks_of_run(run, run.records()))
    except ValueError as error:  # the run stands without its pictures
        note(f"masks of detections are not kept: {one_line(error)}")


def _recompress(source: Path, target: Path) -> None:
    """The same arrays, under the best compression that numpy reads."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as new:
        for item in old.infolist():
            new.writestr(
                zipfile.ZipInfo(item.filename, date_time=item.date_time),
                old.read(item),
                zipfile.ZIP_LZMA,
            )


def _check_size(target: Path, archives: Mapping[Path, Path], others: Mapping[str, Path]) -> None:
    """archives: {its place: what is about to be put there}; others: records that come with them."""
    old = [
        path
        for path in (target / RUNS).rglob("*")
        if path.is_file() and path not in archives and not path.name.endswith(".resampled.npz")
    ]
    total = sum(file.stat().st_size for file in (*old, *archives.values(), *others.values()))
    if total > LIMIT:
        raise ValueError(
            f"--keep={target}: the runs would take {total / 2**20:.1f} MB without their weights, "
            f"and a study may keep {LIMIT / 2**20:.0f} MB: write its report alone there (--out), "
            "and keep the runs elsewhere"
        )


def thinned(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """metrics.jsonl with at most LINES training lines: means over equal stretches, with all skipped
    steps counted. Every validation stays; AP of single classes only with the last."""
    training = [line for line in lines if line["kind"] == "train"]
    others = [line for line in lines if line["kind"] != "train"]
    size = -(-len(training) // LINES) or 1
    kept = [_merged(training[start : start + size]) for start in range(0, len(training), size)]
    last = max((line["step"] for line in others), default=0)
    for line in others:
        kept.append(
            line
            if line["step"] == last
            else {key: _without_classes(value) for key, value in line.items()}
        )
    return sorted(kept, key=lambda line: (line["step"], line["kind"] != "train"))


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line for several: the last, with the means of the losses and the sum of skipped steps."""
    last = lines[-1]
    losses = [line["losses"] for line in lines if line.get("losses")]
    names = [name for name in (losses[-1] if losses else ()) if all(name in one for one in losses)]
    means = {name: sum(one[name] for one in losses) / len(losses) for name in names}
    kept: dict[str, Any] = {
        key: last[key]
        for key in ("kind", "step", "epoch", "lr", "images_per_s", "time", "memory_mb")
        if key in last
    }
    return {
        **kept,
        "loss": sum(means.values()) if means else None,
        "losses": {name: round(value, 5) for name, value in means.items()},
        "skipped": sum(line.get("skipped") or 0 for line in lines),
    }


def _without_classes(value: Any) -> Any:
    return (
        {key: item for key, item in value.items() if key != "per_class"}
        if isinstance(value, dict)
        else value
    )
