"""What a run tells: one console line an interval, metrics.jsonl, trackers, and config.yaml and
env.json beside them."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.resolve import dump_yaml
from data.schema import Config
from yolact.engine.rundir import RunDir
from yolact.engine.step import ReadStep
from yolact.engine.trackers import Trackers
from yolact.files import write_image, write_whole
from yolact.provenance import (
    ROOT,
    changed_parts,
    code_digest,
    code_parts,
    installed,
    plugin_digests,
)
from yolact.run_files import CONFIG, ENV

# metrics of a validation, as curves of trackers
ON_BOARD = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_max")
LETTERS = {"box": "B", "class": "C", "mask": "M", "semantic": "S", "mask_iou": "I"}
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pycocotools",
    "pydantic",
    "opencv-python",
    "opencv-python-headless",
    "tensorboard",
    "mmcv",
)


class Meter:
    """Means of the losses over the steps since the last logged line that had them. Its state goes
    into checkpoints, so that a resumed run logs the same numbers. Steps that were skipped enter no
    mean: `skipped` counts those that were not finite, which mark a run as unstable, `overflows`
    those that fp16's loss scale was too large for, which are ordinary."""

    def __init__(self, state: dict | None = None):
        state = state or {}
        self.sums: dict[str, float] = dict(state.get("sums", {}))
        self.counts: dict[str, int] = dict(state.get("counts", {}))
        self.skipped, self.overflows = state.get("skipped", 0), state.get("overflows", 0)

    def add(self, step: ReadStep) -> None:
        if step.skipped:
            self.skipped += bool(step.problem)
            self.overflows += not step.problem
            return
        numbers = {
            **{f"losses/{k}": v for k, v in step.losses.items()},
            **{f"terms/{k}": v for k, v in step.terms.items()},
            "grad_norm": step.grad_norm,
        }
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def state(self) -> dict:
        return {
            "sums": dict(self.sums),
            "counts": dict(self.counts),
            "skipped": self.skipped,
            "overflows": self.overflows,
        }

    def take(self) -> dict:
        """{"losses": {...}, "terms": {...}, "grad_norm", "skipped", "overflows"}: the means, none
        where every step was skipped; and a fresh start."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        taken: dict[str, Any] = {
            group: {
                name.removeprefix(f"{group}/"): v
                for name, v in means.items()
                if name.startswith(f"{group}/")
            }
            for group in ("losses", "terms")
        }
        taken |= {
            "grad_norm": means.get("grad_norm"),
            "skipped": self.skipped,
            "overflows": self.overflows,
        }
        self.sums, self.counts, self.skipped, self.overflows = {}, {}, 0, 0
        return taken


class RunLog:
    """Writes the metrics of one run. Going on from `step`, last validated at `validated`, first
    drops every later line, so that no step is there twice."""

    def __init__(
        self,
        run: RunDir,
        cfg: Config,
        *,
        step: int,
        validated: int,
        epoch_images: int,
        device: torch.device,
        on_validation: Callable[[int, dict[str, Any]], None] | None = None,
    ):
        self.cfg, self.run, self.epoch_images, self.device = cfg, run, epoch_images, device
        cut_metrics(run.metrics, step, validated)
        self.trackers, self.on_validation = Trackers(run.path, cfg, step), on_validation
        self.file = run.metrics.open("a", encoding="utf-8")
        self.pace: float | None = None  # seconds a step, smoothed
        self.mark_step, self.mark = step, time.perf_counter()

    def restart_clock(self, step: int) -> None:
        """Leaves what happened since the last line (a validation, a checkpoint) out of images/s."""
        self.mark_step, self.mark = step, time.perf_counter()

    def train_line(self, step: int, means: dict, lr: float, mask_weights: dict[str, float]) -> None:
        """One interval of training: console, metrics.jsonl and trackers. mask_weights: those of
        the next step, where they change."""
        now, steps = time.perf_counter(), max(1, step - self.mark_step)
        seconds = (now - self.mark) / steps
        self.mark_step, self.mark = step, now
        self.pace = seconds if self.pace is None else 0.7 * self.pace + 0.3 * seconds
        train = self.cfg.train
        record = {
            "kind": "train",
            "step": step,
            "epoch": round(step * train.batch_size / self.epoch_images, 4),
            "loss": sum(means["losses"].values()) if means["losses"] else None,
            **means,
            "lr": lr,
            "images_per_s": round(train.batch_size / seconds, 3),
            "time": round(time.time(), 3),
        }
        if mask_weights:
            record["mask_weights"] = mask_weights
        if self.device.type == "cuda":
            record["memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20)
        self._append(record)
        numbers = {
            **{f"loss/{k}": v for k, v in means["losses"].items()},
            "loss/total": record["loss"],
            **{f"mask_terms/{k}": v for k, v in means["terms"].items()},
            **{f"mask_weights/{k}": v for k, v in mask_weights.items()},
            "train/lr": lr,
            "train/grad_norm": means["grad_norm"],
            "train/images_per_s": record["images_per_s"],
        }
        self.trackers.numbers(step, numbers)
        print(
            self._console(record, timedelta(seconds=round(self.pace * (train.iterations - step)))),
            flush=True,
        )

    def _console(self, record: dict, eta: timedelta) -> str:
        width = len(str(self.cfg.train.iterations))
        losses = " ".join(
            f"{LETTERS[name]} {record['losses'][name]:.3f}"
            for name in LETTERS
            if name in record["losses"]
        )
        total = f"T {record['loss']:.3f}" if record["loss"] is not None else "all steps skipped"
        parts = [
            f"[{record['step']:{width}d}/{self.cfg.train.iterations}] epoch {int(record['epoch'])}",
            f"{losses} {total}".strip(),
            f"lr {record['lr']:.2e}",
            f"{record['images_per_s']:.1f} img/s",
            f"ETA {eta}",
        ]
        if record["skipped"]:
            parts.append(f"skipped {record['skipped']}")
        if record["overflows"]:
            parts.append(f"fp16 overflows {record['overflows']}")
        if "memory_mb" in record:
            parts.append(f"{record['memory_mb'] / 1024:.1f} GB")
        return " | ".join(parts)

    def validation(self, step: int, result: dict, *, best: bool, seconds: float) -> None:
        """A validation: `result` as EvalResult.to_dict() gives it."""
        times = {"seconds": round(seconds, 3), "time": round(time.time(), 3)}
        self._append({"kind": "validation", "step": step, "best": best, **result, **times})
        # the rest, per class too, is in metrics.jsonl
        numbers = {
            f"validation_{shown}/{name}": metrics.get(name)
            for shown, metrics in (("box", result["bbox"]), ("mask", result["segm"]))
            for name in ON_BOARD
        }
        self.trackers.numbers(step, numbers)
        self.trackers.flush()
        if self.on_validation is not None:
            self.on_validation(step, result)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """{name: HWC uint8 RGB}, to trackers and as files."""
        self.trackers.pictures(step, {f"pictures/{name}": p for name, p in pictures.items()})
        for name, picture in pictures.items():
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            write_image(self.run.pictures / f"{safe}.jpg", picture)

    def close(self) -> None:
        """Closes both files. On a full disk that fails as well, and the error that ended the run is
        the one to be seen."""
        self.trackers.close()
        with suppress(OSError):
            self.file.close()

    def _append(self, record: dict) -> None:
        try:
            self.file.write(json.dumps(finite(record)) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(
                f"cannot write {self.run.metrics} ({error.strerror or error}): free space there; "
                f"checkpoints written so far are whole, go on with --resume={self.run.path}"
            ) from error


def finite(value):
    """value with NaN and infinities as None: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_metrics(path: Path, step: int, validated: int) -> None:
    """Keeps the lines of metrics.jsonl up to `step`, of validations up to `validated`; later ones,
    and a last line that a kill left unfinished, go. Whole or not at all."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= (validated if record["kind"] == "validation" else step):
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    write_whole(path, "".join(kept))


def write_run_files(
    run: RunDir,
    cfg: Config,
    device: torch.device,
    world_size: int,
    resumed_from: int | None,
    *,
    given: Sequence[str] = (),
    length: dict[str, Any] | None = None,
) -> list[str]:
    """config.yaml, and env.json, which lists every start of the run. given: what Python handed over
    (model, criterion, data sets), which the config therefore does not describe. length: what the
    number of iterations was set from, where it was measured. Returns notes on
    code that has changed since the run began."""
    write_whole(run.path / CONFIG, dump_yaml(cfg))
    path = run.path / ENV
    record = environment(cfg, device, world_size)
    if given:
        record["given"] = list(given)
    if length is not None:
        record["length"] = length
    notes: list[str] = []
    if resumed_from is not None and path.exists():
        first = _object_in(path)
        again = [start for start in first.get("resumed", ()) if isinstance(start, dict)]
        notes = _changed_code(first, record)
        record = {**first, "resumed": [*again, {"step": resumed_from, **record}]}
    write_whole(path, json.dumps(record, indent=2) + "\n")
    return notes


def _object_in(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where it is damaged: no training fails for that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _changed_code(first: dict[str, Any], now: dict[str, Any]) -> list[str]:
    notes = []
    if first.get("code", now["code"]) != now["code"]:
        parts = first.get("parts")
        where = changed_parts(parts if isinstance(parts, dict) else None, now["parts"])
        notes.append(
            f"note: the code has changed since this run began{f', in {where}' if where else ''}: "
            "studies do not compare it with runs of one code"
        )
    plugins = first.get("plugins")
    for name, digest in now.get("plugins", {}).items():
        if isinstance(plugins, dict) and plugins.get(name, digest) != digest:
            notes.append(f"note: loss.plugins={name} has changed since this run began")
    return notes


def environment(cfg: Config, device: torch.device, world_size: int) -> dict:
    """What a run ran on: commit, digests of the code, versions, device, seed, command."""

    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "code": code_digest(),
        "parts": code_parts(),
        **({"plugins": plugin_digests(cfg.loss.plugins)} if cfg.loss.plugins else {}),
        "argv": sys.argv,
        "seed": cfg.train.seed,
        "device": f"{device} ({name})",
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "precision": cfg.train.precision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "versions": {package: found for package in PACKAGES if (found := installed(package))},
    }


def commit() -> str | None:
    """The checked-out commit of this code, "+changes" where files differ from it; None outside a
    git checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        changed = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        found.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
        if found.returncode == 0
        else None
    )
