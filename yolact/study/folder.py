"""What the files of a run say about it, and the lock that lets one process train it. Imports no
torch.

A lock is flock(2) on runs/.locks/<hash>.lock, one for each resolved config. The process that trains
inherits it, so it holds while the training lives, whoever started it and however that one ended;
the kernel frees it when the last holder is gone, kill -9 or not.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.resolve import config_hash, load_config
from data.schema import Config
from yolact.files import write_whole
from yolact.study.arms import INIT_FOLDER, TUNE_FOLDER, PlannedRun, identity

NOTE, LOG = "sweep.json", "log.txt"
RECORDS = "results/records.npz"
CHECKPOINTS = ("last.pth", "interrupt.pth")
# finished runs without weights: <study>/runs/<arm>/seed<k>-<hash8>
ARCHIVE = Path(__file__).resolve().parents[2] / "docs" / "studies"
SHAPES = {"mask": "segm", "box": "bbox"}
# metrics.jsonl: what it was when it was read, and its lines
_READ: dict[Path, tuple[tuple[int, int, int], list[dict[str, Any]]]] = {}


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


# -------------------------------------------------------------------------------------------- locks


def claim(root: Path, run: PlannedRun) -> int | None:
    """A file descriptor that holds the run's lock, to be passed to whoever trains it; None where
    another process holds it."""
    path = lock_file(root, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Gives up this process' share of a lock; a training that inherited it keeps it."""
    os.close(descriptor)


@contextmanager
def claimed(root: Path, run: PlannedRun) -> Iterator[int | None]:
    descriptor = claim(root, run)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            release(descriptor)


def is_held(root: Path, run: PlannedRun) -> bool:
    """Whether some process trains the run now."""
    path = lock_file(root, run)
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # shared: two that look at the same time do not see each other
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def lock_file(root: Path, run: PlannedRun) -> Path:
    return root / ".locks" / f"{config_hash(identity(run.config))}.lock"


# ----------------------------------------------------------------------------------------- progress


def archive(study: str) -> Path:
    """Where the plan, the tuning and the finished runs of a study are kept."""
    return ARCHIVE / study


def folder_of(root: Path, run: PlannedRun) -> Path:
    """Where the run is: its archived copy if that is finished, or else its folder under root. A
    folder whose hash was made by another version of the settings is found by the config in it."""
    study, *rest = run.folder.parts
    places = (root / run.folder, archive(study) / "runs" / Path(*rest))
    for place in places:
        if is_done(place, run.config):
            return place
    for place in places:
        for other in sorted(place.parent.glob(f"seed{run.seed}-*")):
            if (
                other.name != place.name
                and is_done(other, run.config)
                and _same_config(other, run.config)
            ):
                return other
    return places[0]


def twin(root: Path, run: PlannedRun, code: str) -> Path | None:
    """The finished run of another study, kept ones too, that trained the same config with the same
    code. With a shared start, that has to be the same too, which its path in the config says. What
    is to be a start needs its weights."""
    name = f"seed*-{run.folder.name.rpartition('-')[2]}"
    others = [
        *sorted(root.glob(f"*/*/{name}")),
        *sorted(root.glob(f"*/{TUNE_FOLDER}/*/{name}")),
        *sorted(ARCHIVE.glob(f"*/runs/*/{name}")),
    ]
    is_start = INIT_FOLDER in run.folder.parts
    for other in others:
        if other == root / run.folder or (is_start and not has_checkpoint(other)):
            continue
        if is_done(other, run.config) and _same_config(other, run.config) and _code(other) == code:
            return other.resolve()
    return None


def is_done(folder: Path, config: Config) -> bool:
    """Whether the run has the validation after its last iteration, and the records of it that
    statistics need."""
    return (folder / RECORDS).is_file() and final_validation(
        folder, config.train.iterations
    ) is not None


def final_validation(folder: Path, iterations: int) -> dict[str, Any] | None:
    """The validation of the weights after `iterations` (their moving average, where there is one),
    as metrics.jsonl holds it. What best.pth scored is not looked at."""
    found = [
        record
        for record in read_metrics(folder)
        if record["kind"] == "validation" and record["step"] == iterations
    ]
    return found[-1] if found else None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill left unfinished is left out. They are read again
    once the file has changed."""
    path = (folder / "metrics.jsonl").absolute()
    try:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if path in _READ and _READ[path][0] == stamp:
            return _READ[path][1]
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and {"kind", "step"} <= record.keys():
            records.append(record)
    _READ[path] = stamp, records
    return records


def metric(validation: dict[str, Any], name: str) -> float | None:
    """A metric by a study's name (mask_ap, box_ap50), in percent; None where it is undefined."""
    shape, _, key = name.partition("_")
    value = validation[SHAPES[shape]].get(key)
    return None if value is None else 100 * value


def progress(root: Path, run: PlannedRun, primary: str = "mask_ap") -> Progress:
    """How far a run is."""
    folder = folder_of(root, run)
    records = read_metrics(folder)
    step = records[-1]["step"] if records else 0
    final = (
        final_validation(folder, run.config.train.iterations)
        if is_done(folder, run.config)
        else None
    )
    training = [record for record in records if record["kind"] == "train"]
    skipped = sum(record.get("skipped") or 0 for record in training)
    if final is not None:
        return Progress("done", step, metric(final, primary), skipped=skipped)
    speed = (training[-1].get("images_per_s") or 0.0) if training else 0.0
    note = read_note(folder)
    if is_held(root, run):
        return Progress("running", step, images_per_s=speed, skipped=skipped)
    if note.get("state") == "failed":
        return Progress("failed", step, error=note.get("error", ""), skipped=skipped)
    if has_checkpoint(folder):
        return Progress("interrupted", step, skipped=skipped)
    return Progress("waiting")


def has_checkpoint(folder: Path) -> bool:
    return any((folder / "weights" / name).exists() for name in CHECKPOINTS)


def read_note(folder: Path) -> dict[str, Any]:
    """What the last process that ran it left in sweep.json; empty where there is none."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return note if isinstance(note, dict) else {}


def write_note(folder: Path, **note: Any) -> None:
    write_whole(folder / NOTE, json.dumps({**note, "time": time.time()}, indent=2) + "\n")


def _code(folder: Path) -> str | None:
    """The digest of the code that trained a run; None where it was resumed by other code."""
    try:
        record = json.loads((folder / "env.json").read_text(encoding="utf-8"))
        codes = {start.get("code") for start in (record, *record.get("resumed", []))}
    except (OSError, json.JSONDecodeError, AttributeError):
        return None
    return codes.pop() if len(codes) == 1 else None


def _same_config(folder: Path, config: Config) -> bool:
    try:
        return identity(load_config(folder / "config.yaml", check_names=False)) == identity(config)
    except (ValueError, OSError):
        return False
