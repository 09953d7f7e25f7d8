"""Finished runs kept without their weights, so that a study can be reported, and grow by seeds,
after runs/ is gone."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolact.engine.records import FILE
from yolact.files import writing
from yolact.study.folder.reading import read_metrics
from yolact.study.report.data import BENCHMARK, BOUNDARY, Report
from yolact.study.report.gallery import CHOSEN, keep_detections
from yolact.study.statistics.conditions import Trained

LIMIT = 10 * 2**20  # bytes of all runs of a study
LINES = 150  # training lines kept of a run
# of env.json: where it ran is nobody's business, config.yaml says what
PRIVATE = ("argv", "platform", "threads")


def keep(report: Report, target: Path) -> list[Path]:
    """Copies study.yaml and the finished runs of a study to target/runs/<arm>/<run>: config,
    environment, thinned metrics, per-image records, the detections of a few images. Runs that are
    there already stay. Returns the folders that are new.

    ValueError for a target of another name, and where the runs would take more than 10 MB; then
    nothing is written.
    """
    if target.name != report.study.name:
        raise ValueError(
            f"--keep={target}: sweep.py looks for kept runs by the study's name, so use "
            f"--keep=docs/studies/{report.study.name}"
        )
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".keeping-") as temporary:
        copies: dict[Path, Path] = {}
        for i, (arm, seed, run) in enumerate(report.runs):
            place = target / "runs" / arm.arm.slug / run.folder.name
            if place.exists() or run.folder.resolve() == place.resolve():
                continue
            copies[place] = Path(temporary) / str(i)
            _copy(run, copies[place], first=seed == report.study.seeds[0])
        _check_size(target, [*copies.values(), *target.glob("runs/*/*")])
        with writing(target):
            for name in ("study.yaml", "tune.json"):
                source = report.folder / name
                if source.is_file() and source.resolve() != (target / name).resolve():
                    shutil.copyfile(source, target / name)
            for place, copy in copies.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                copy.rename(place)
    return list(copies)


def _copy(run: Trained, place: Path, *, first: bool) -> None:
    (place / "results").mkdir(parents=True)
    with writing(place):
        shutil.copyfile(run.folder / "config.yaml", place / "config.yaml")
        public = [
            {key: value for key, value in start.items() if key not in PRIVATE}
            for start in (run.env, *run.env.get("resumed", ()))
        ]
        record = {**public[0], "resumed": public[1:]} if public[1:] else public[0]
        (place / "env.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        lines = thinned(read_metrics(run.folder))
        (place / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
        _recompress(run.run.path, place / "results" / FILE)
        for name in (BENCHMARK, BOUNDARY):
            if (run.folder / name).is_file():
                shutil.copyfile(run.folder / name, place / name)
        if first:
            keep_detections(run, place / "results" / CHOSEN)


def _recompress(source: Path, target: Path) -> None:
    """The same arrays, under the best compression that numpy reads."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as new:
        for item in old.infolist():
            new.writestr(
                zipfile.ZipInfo(item.filename, date_time=item.date_time),
                old.read(item),
                zipfile.ZIP_LZMA,
            )


def _check_size(target: Path, folders: Sequence[Path]) -> None:
    total = sum(
        file.stat().st_size
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and not file.name.endswith(".resampled.npz")
    )
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
    kept = {
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
