"""Run folders: runs/<config>/<n>, the checkpoints in them, and what `resume` may name."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from yolact.checkpoint import read_checkpoint
from yolact.cli import say
from yolact.engine.resumable import check_resumable
from yolact.locking import RunLock
from yolact.run_files import (
    CHECKPOINTS,
    CONFIG,
    LAST,
    METRICS,
    PICTURES,
    RECORDS,
    RESULTS,
    TENSORBOARD,
    WEIGHTS,
    kept_checkpoints,
    run_of_weights,
)


@dataclass(frozen=True)
class RunDir:
    """Where the files of one run are."""

    path: Path

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS

    @property
    def results(self) -> Path:
        return self.path / RESULTS

    @property
    def records(self) -> Path:
        return self.path / RECORDS

    @property
    def pictures(self) -> Path:
        return self.path / PICTURES

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    def make(self) -> RunDir:
        """Creates the folders, proves that they can be written, and removes what an earlier kill
        left half-written."""
        try:
            for folder in (self.path, self.weights, self.results, self.pictures):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.weights / f".probe.{os.getpid()}"
            probe.write_text("writable")
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"cannot write into the run folder {self.path} ({error.strerror or error}): "
                "choose another with --save_folder, or free space there"
            ) from error
        partial = [
            file
            for folder in (self.path, self.weights, self.results)
            for file in folder.glob(".*.part")
        ]
        for leftover in (*partial, *self.weights.glob(".probe.*")):
            leftover.unlink(missing_ok=True)
        return self


def new_run(runs_root: Path, name: str) -> RunDir:
    """runs_root/<name>/<n> with n the number after the highest there. mkdir decides between
    processes that start together."""
    parent = Path(runs_root) / name
    number = 1 + max((int(p.name) for p in parent.glob("*") if p.name.isdecimal()), default=0)
    while True:
        try:
            (parent / str(number)).mkdir(parents=True)
            return RunDir(parent / str(number)).make()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise OSError(
                f"cannot create a run folder in {parent} ({error.strerror or error}): choose "
                "another place with --save_folder"
            ) from error


def named_run(path: Path, lock: RunLock) -> tuple[RunDir, list[str]]:
    """A folder of the user's own choice for a new run, locked, and notes on it. What a run that
    ended before its first checkpoint left there goes.

    Raises ValueError where the folder already holds a run, or another process trains there.
    """
    run = RunDir(Path(path))
    lock.take(run.path)
    if any(run.weights.glob("*.pth")) or run.records.exists() or _was_validated(run.metrics):
        raise ValueError(
            f"{path} already holds a run: go on with it by --resume={path}, or choose another "
            "folder"
        )
    if not run.metrics.exists():
        return run.make(), []
    run.metrics.unlink()
    shutil.rmtree(run.path / TENSORBOARD, ignore_errors=True)
    return run.make(), [
        f"note: the run in {path} ended before its first checkpoint: it starts anew"
    ]


def _was_validated(metrics: Path) -> bool:
    return metrics.exists() and '"kind": "validation"' in metrics.read_text(encoding="utf-8")


def find_checkpoint(
    resume: str | Path, runs_root: Path, name: str, lock: RunLock | None = None
) -> tuple[Path, dict]:
    """The checkpoint that `resume` means, and its content: a .pth file, a run folder (its newest),
    or 'latest' of this config.

    lock: what holds the run from now on, if the training would go on there.

    Raises ValueError where there is none, or where it holds only weights.
    """
    path = Path(resume)
    if str(resume) == "latest":
        path = _latest_run(Path(runs_root) / name)
    folder = path if path.is_dir() else run_of_weights(path)
    if lock is not None and folder is not None and _goes_on_in(folder, path):
        lock.take(folder)  # before reading: another process may be about to replace it
    if path.is_dir():
        candidates = _checkpoints(path)
        if not candidates:
            begun = (path / METRICS).exists()
            raise ValueError(
                f"{path} holds no checkpoint to resume (no {LAST}): "
                + (
                    f"its run ended before the first one, so start it again, --run_dir={path}"
                    if begun
                    else "name another run folder or a .pth file"
                )
            )
        return _newest(candidates)
    return path, _read_resumable(path)


def _read_resumable(path: Path) -> dict:
    content = read_checkpoint(path)
    if "training" not in content:
        raise ValueError(
            f"{path} holds weights only and cannot be resumed exactly: resume from "
            f"{LAST} of its run, or start a new run from it with train.init_from={path}"
        )
    check_resumable(content, f"checkpoint {path}")
    return content


def _newest(candidates: list[Path]) -> tuple[Path, dict]:
    """The newest of a run's checkpoints that is whole, and its content; a damaged one is told.
    ValueError where none is."""
    found, damaged = [], []
    for path in candidates:
        try:
            found.append((path, _read_resumable(path)))
        except ValueError as error:
            damaged.append(str(error))
    if not found:
        kept = kept_checkpoints(candidates[0].parent.parent)
        others = f"; or resume from {kept[-1]}, which was kept" if kept else ""
        raise ValueError(f"{'; '.join(damaged)}{others}")
    for text in damaged:
        say(f"warning: {text}; the other one of the run is taken", error=True)
    return max(found, key=lambda item: item[1]["step"])


def _latest_run(parent: Path) -> Path:
    runs = [p for p in parent.glob("*") if p.name.isdecimal() and _checkpoints(p)]
    if not runs:
        raise ValueError(f"there is no run to resume in {parent}: start one without --resume")
    return max(runs, key=lambda p: int(p.name))


def find_config_file(resume: str | Path, runs_root: Path) -> Path:
    """The config.yaml of the run that `resume` means: its folder, a checkpoint in it, or 'latest'
    for the newest run under runs_root, of any config. ValueError where there is none."""
    path = Path(resume)
    if str(resume) == "latest":
        # config names may hold a /
        checkpoints = [file for name in CHECKPOINTS for file in runs_root.glob(f"**/{name}")]
        if not checkpoints:
            raise ValueError(
                f"--resume: there is no run with a checkpoint in {runs_root}: start one without "
                "--resume"
            )
        path = max(checkpoints, key=lambda checkpoint: checkpoint.stat().st_mtime)
    if not path.exists():
        raise ValueError(f"--resume: {path} does not exist")
    folder = path if path.is_dir() else path.parent.parent
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"--resume: there is no {folder / CONFIG}: name the config by --config, or "
            f"start a new training from the weights by train.init_from={path}"
        )
    return folder / CONFIG


def home_of(checkpoint: Path, step: int) -> RunDir | None:
    """The run that a checkpoint belongs to, if going on there from `step` would not run over newer
    checkpoints of that run."""
    folder = run_of_weights(checkpoint)
    if folder is None or not (folder / CONFIG).exists():
        return None
    newest = [p for p in _checkpoints(folder) if p.resolve() != checkpoint.resolve()]
    return RunDir(folder) if all(_step_of(p) <= step for p in newest) else None


def _step_of(path: Path) -> int:
    """The step of a checkpoint; 0 for one that cannot be gone on from, which holds nothing to be
    lost."""
    try:
        return _read_resumable(path)["step"]
    except ValueError:
        return 0


def _goes_on_in(run: Path, resumed: Path) -> bool:
    """Whether resuming a run's folder, or a checkpoint in it, replaces its checkpoints. (One that
    is kept for good can start another run while its own trains.)"""
    newest = [run, *(run / name for name in CHECKPOINTS)]
    return (run / CONFIG).is_file() and resumed.resolve() in [path.resolve() for path in newest]


def _checkpoints(run: Path) -> list[Path]:
    """What there is in a run's folder to go on from."""
    return [run / name for name in CHECKPOINTS if (run / name).exists()]
