"""Finished runs, as statistics see them: one folder, an arm's folder, or a COCO results file. A
study's are in study_runs.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.results import read_results
from data.schema import Config
from yolact.engine.records import Records, read_records, records_of_results
from yolact.run_files import CONFIG, LAST, RECORDS, run_of_records
from yolact.study.arms import identity
from yolact.study.folder.kept import is_archive, runs_in
from yolact.study.folder.layout import seed_of
from yolact.study.folder.reading import read_config, read_env, skipped_steps
from yolact.study.statistics.quality import LRP, Calibration, calibration, olrp
from yolact.study.statistics.resample import RESAMPLES, Resampled, cached_resample, resample


@dataclass(frozen=True)
class FinishedRun:
    """One evaluated training: AP on the images and on their resamples, and what it takes to tell
    whether two runs can be compared.

    skipped: training steps whose loss or gradient was not finite; overflows of fp16's loss scale
    are none. start: the checkpoint that it was trained from, empty where its weights were drawn.
    """

    path: Path
    seed: int
    resampled: Resampled
    truth_digest: str
    images: int
    max_dets: int
    note: Mapping[str, Any]
    skipped: int = 0
    kept: Records | None = field(default=None, repr=False)
    start: str = ""

    @property
    def diverged(self) -> bool:
        return self.skipped > 0

    @property
    def folder(self) -> Path:
        """Of the run; a results file has none."""
        return run_of_records(self.path)

    @property
    def config(self) -> Config:
        """What it was trained with. ConfigError where its folder does not say."""
        return read_config(self.folder)

    @cached_property
    def env(self) -> Mapping[str, Any]:
        """What env.json says, empty where there is none."""
        return read_env(self.folder)

    @cached_property
    def quality(self) -> Mapping[str, tuple[LRP, Calibration]]:
        """{"mask" or "box": oLRP and calibration}; read from the records once, since they take
        seconds on a large set."""
        records = self.records()
        return {
            shape: (olrp(records, shape), calibration(records, shape)) for shape in records.found
        }

    def records(self) -> Records:
        """Per-image records; read from the file again, since those of a whole study would not fit
        into memory."""
        return read_records(self.path) if self.kept is None else self.kept


def load_run(path: str | Path, *, resamples: int = RESAMPLES) -> FinishedRun:
    """The run in a folder that holds results/records.npz, or in a records file itself.

    ValueError where there is none, or where it is not of the weights after the last iteration:
    others never enter a verdict.
    """
    path = Path(path)
    folder = path if path.is_dir() else None
    file = path / RECORDS if folder else path
    records, resampled = cached_resample(file, resamples)
    seed, skipped, start = 0, 0, ""
    if folder and (folder / CONFIG).is_file():
        config = read_config(folder)
        # a study with paired: false counts seeds otherwise than its runs train with
        counted, skipped = seed_of(folder), skipped_steps(folder)
        seed = config.train.seed if counted is None else counted
        start = identity(config).train.init_from
        if records.note.get("step") != config.train.iterations:
            raise ValueError(
                f"{file} is of step {records.note.get('step')}, but the run has "
                f"{config.train.iterations} iterations: finish it (train.py --resume={folder}), or "
                f"evaluate its end (eval.py --trained_model={folder / LAST})"
            )
    return _run(file, seed, records, resampled, skipped=skipped, start=start)


def load_results(
    path: str | Path, ground_truth: str | Path | dict, *, resamples: int = RESAMPLES
) -> FinishedRun:
    """COCO results (a JSON list) on all images of a ground truth, as a run. ValueError where they
    do not belong to it."""
    results = read_results(path)
    try:
        records = records_of_results(ground_truth, results, note={"results": str(path)})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return _run(Path(path), 0, records, resample(records, resamples), kept=records)


def load_arm(folder: str | Path, *, resamples: int = RESAMPLES) -> dict[int, FinishedRun]:
    """{seed: run} of the finished runs in a folder of run folders, or in an archive of kept runs.
    ValueError for none, or for two runs of one seed."""
    runs: dict[int, FinishedRun] = {}
    folder = Path(folder)
    found = runs_in(folder) if is_archive(folder) else sorted(folder.iterdir())
    places = [path for path in found if (path / RECORDS).is_file()]
    for place in tqdm(
        places, desc=f"resampling {Path(folder).name}", unit="run", leave=False, disable=None
    ):
        run = load_run(place, resamples=resamples)
        if run.seed in runs:
            raise ValueError(
                f"{runs[run.seed].path} and {run.path} are both of seed {run.seed}: which one "
                "counts must not depend on their results, so move one of them elsewhere"
            )
        runs[run.seed] = run
    if not runs:
        raise ValueError(
            f"{folder} holds no finished run: a run's folder has {RECORDS}, an arm's holds "
            "several of these"
        )
    return runs


def _run(
    path: Path,
    seed: int,
    records: Records,
    resampled: Resampled,
    *,
    skipped: int = 0,
    kept: Records | None = None,
    start: str = "",
) -> FinishedRun:
    return FinishedRun(
        path,
        seed,
        resampled,
        records.truth_digest,
        len(records.image_ids),
        records.max_dets,
        records.note,
        skipped,
        kept,
        start,
    )


def check_comparable(runs: Mapping[str, FinishedRun]) -> list[str]:
    """ValueError where two runs {name: run} are of different ground truth, images or limits on
    detections; else notes on settings of their evaluations that differ."""
    first_name, first = next(iter(runs.items()))
    notes: dict[str, None] = {}
    for name, run in runs.items():
        if run.truth_digest != first.truth_digest:
            count = (
                f" ({run.images} images against {first.images})"
                if run.images != first.images
                else ""
            )
            raise ValueError(
                f"{name} and {first_name} were evaluated on different images, classes or ground "
                f"truth{count}: evaluate both on one validation set"
            )
        if run.max_dets != first.max_dets:
            raise ValueError(
                f"{name} keeps {run.max_dets} detections an image, {first_name} {first.max_dets}: "
                "evaluate both with one eval.max_dets"
            )
        for key in ("eval", "precision"):
            one, two = run.note.get(key), first.note.get(key)
            if one != two and None not in (one, two):
                notes[
                    f"{name} and {first_name} were evaluated with different settings ({key}): "
                    f"{one} and {two}"
                ] = None
    return list(notes)
