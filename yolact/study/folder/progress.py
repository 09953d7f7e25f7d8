"""Where a run is, whether it is done, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.schema import Config
from yolact.provenance import plugin_digests
from yolact.run_files import LAST, RECORDS
from yolact.study.arms import PlannedRun, identity
from yolact.study.folder.kept import kept_anywhere, kept_runs, kept_study
from yolact.study.folder.layout import INIT_FOLDER, TUNE_FOLDER
from yolact.study.folder.locks import is_held
from yolact.study.folder.reading import (
    final_validation,
    has_checkpoint,
    metric,
    read_config,
    read_metrics,
    read_note,
    skipped_steps,
    trained_by,
)


@dataclass(frozen=True)
class Progress:
    """state: done, running, interrupted, failed or waiting; step: of the last line of its metrics;
    value: its final metric, in percent."""

    state: str
    step: int = 0
    value: float | None = None
    images_per_s: float = 0.0
    error: str = ""
    skipped: int = 0


def folder_of(root: Path, run: PlannedRun) -> Path:
    """Where the run is: its folder under root, or its kept copy if that alone is finished. A
    folder whose hash was made by another version of the settings is found by the config in it."""
    study, *arm, name = run.folder.parts
    own, kept = root / run.folder, kept_study(study)
    for place in (own, *kept_runs(kept, "/".join(arm), name)):
        if is_done(place, run.config):
            return place
    alike = f"seed{run.seed}-*"
    for other in (*sorted(own.parent.glob(alike)), *kept_runs(kept, "/".join(arm), alike)):
        if other.name != name and is_done(other, run.config) and _same_config(other, run.config):
            return other
    return own


def twin(root: Path, run: PlannedRun, code: str) -> Path | None:
    """The finished run of another study, kept ones too, that trained the same config with the same
    code. With a shared start, that has to be the same too, which its path in the config says. What
    is to be a start needs its weights."""
    name = f"seed*-{run.folder.name.rpartition('-')[2]}"
    others = [
        *sorted(root.glob(f"*/*/{name}")),
        *sorted(root.glob(f"*/{TUNE_FOLDER}/*/{name}")),
        *kept_anywhere(name),
    ]
    plugins = plugin_digests(run.config.loss.plugins)
    is_start = INIT_FOLDER in run.folder.parts
    for other in others:
        if other == root / run.folder or (is_start and not has_checkpoint(other)):
            continue
        if (
            is_done(other, run.config)
            and _same_config(other, run.config)
            and trained_by(other, code, plugins)
        ):
            return other.resolve()
    return None


def is_done(folder: Path, config: Config) -> bool:
    """Whether the run has the validation after its last iteration, and the records of it that
    statistics need."""
    return (folder / RECORDS).is_file() and final_validation(
        folder, config.train.iterations
    ) is not None


def shared_weights(root: Path, run: PlannedRun) -> Path | None:
    """The weights that a run evaluates in place of a training of its own: the last ones of the
    finished run whose training it shares. None where it shares none, or where that run is not
    finished or was kept without weights."""
    if run.shares is None:
        return None
    folder = folder_of(root, run.shares)
    last = folder / LAST
    return last if is_done(folder, run.shares.config) and last.is_file() else None


def progress(root: Path, run: PlannedRun, primary: str = "mask_ap") -> Progress:
    """How far a run is."""
    folder = folder_of(root, run)
    records = read_metrics(folder)
    step = records[-1]["step"] if records else 0
    skipped = skipped_steps(folder)
    final = final_validation(folder, run.config.train.iterations)
    if final is not None and is_done(folder, run.config):
        return Progress("done", step, metric(final, primary), skipped=skipped)
    training = [record for record in records if record["kind"] == "train"]
    speed = (training[-1].get("images_per_s") or 0.0) if training else 0.0
    note = read_note(folder)
    if is_held(root, run):
        return Progress("running", step, images_per_s=speed, skipped=skipped)
    if note.get("state") == "failed":
        return Progress("failed", step, error=note.get("error", ""), skipped=skipped)
    if has_checkpoint(folder):
        return Progress("interrupted", step, skipped=skipped)
    return Progress("waiting")


def _same_config(folder: Path, config: Config) -> bool:
    try:
        return identity(read_config(folder)) == identity(config)
    except (ValueError, OSError):
        return False
