"""What the files of a run say: its metrics, its environment, the note of the last sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.resolve import load_config
from data.schema import Config
from yolact.files import write_whole
from yolact.run_files import CHECKPOINTS, CONFIG, ENV, METRICS, NOTE

SHAPES = {"mask": "segm", "box": "bbox"}
Stamp = tuple[int, int, int]  # changes with a file
# metrics.jsonl: what it was when it was read, and its lines
_READ: dict[Path, tuple[Stamp, list[dict[str, Any]]]] = {}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a kill left unfinished is left out. They are read again
    once the file has changed."""
    path = (folder / METRICS).absolute()
    try:
        stamp = _stamp(path)
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


def read_config(folder: Path) -> Config:
    """What a run trains, by its config.yaml; read again once the file has changed. ConfigError
    where there is none, or one that cannot be used."""
    path = folder / CONFIG
    return _config(path, _stamp(path) if path.is_file() else None)


@lru_cache(maxsize=1024)
def _config(path: Path, stamp: Stamp | None) -> Config:
    return load_config(path, check_names=False)


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def final_validation(folder: Path, iterations: int) -> dict[str, Any] | None:
    """The validation of the weights after `iterations` (their moving average, where there is one),
    as metrics.jsonl holds it. What best.pth scored is not looked at."""
    found = [
        record
        for record in read_metrics(folder)
        if record["kind"] == "validation" and record["step"] == iterations
    ]
    return found[-1] if found else None


def metric(validation: Mapping[str, Any], name: str) -> float | None:
    """A metric by a study's name (mask_ap, box_ap50), in percent; None where it is undefined."""
    shape, _, key = name.partition("_")
    value = validation[SHAPES[shape]].get(key)
    return None if value is None else 100 * value


def skipped_steps(folder: Path) -> int:
    """Training steps whose loss or gradient was not finite, by metrics.jsonl."""
    return sum(record.get("skipped") or 0 for record in read_metrics(folder))


def read_env(folder: Path) -> dict[str, Any]:
    """What env.json says of where and with which code a run was trained; empty without one."""
    return read_object(folder / ENV)


def starts_of(env: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The start of a training and its resumptions, each with its own environment."""
    return [env, *env.get("resumed", ())]


def trained_by(folder: Path, code: str, plugins: Mapping[str, str]) -> bool:
    """Whether a run was trained, from its start to its end, by code and plugins of these
    digests."""
    return all(
        start.get("code") == code and start.get("plugins", {}) == plugins
        for start in starts_of(read_env(folder))
    )


def has_checkpoint(folder: Path) -> bool:
    """Whether a training can go on, or start, from what is there."""
    return any((folder / name).exists() for name in CHECKPOINTS)


def read_note(folder: Path) -> dict[str, Any]:
    """What the last process that ran it left in sweep.json; empty where there is none."""
    return read_object(folder / NOTE)


def write_note(folder: Path, **note: Any) -> None:
    """Replaces sweep.json by `note` and the time."""
    write_whole(folder / NOTE, json.dumps({**note, "time": time.time()}, indent=2) + "\n")


def read_chosen(path: Path) -> dict[str, Any]:
    """What tuning chose, as a study's tune.json holds it: {"plan": ..., "chosen": {label:
    settings}}. ValueError for a file that no tuning wrote; FileNotFoundError without one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**content, "plan": dict(content["plan"]), "chosen": dict(content["chosen"])}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path} is not what a tuning writes: delete it, and the sweep makes it again from the "
            "trials"
        ) from None
