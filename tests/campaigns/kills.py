"""Kills trainings by SIGKILL, goes on, and compares them with one that was left alone.

    python -m tests.campaigns.kills                          # 60 at file operations, 40 at random
    python -m tests.campaigns.kills --operations 5 --moments 3

A file operation of the run's folder (opened to be written, renamed, removed, made, flushed) is
counted; the kill comes just before the one that was drawn. A third of the trainings that go on are
killed again. In the end weights, optimiser, averages, metrics and files must be the same.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from data.schema import Config
from tests.yolact.engine.test_resume import assert_same, metrics
from yolact.checkpoint import read_checkpoint
from yolact.engine.train import train
from yolact.run_files import CHECKPOINTS
from yolact.testing import tiny

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
LONGEST = 120.0  # seconds of a training


def settings(data: Path) -> Config:
    """Few steps with everything that leaves files: two validations, checkpoints kept for good."""
    return tiny.config(
        data,
        iterations=6,
        batch_size=2,
        save_every=1,
        log_every=2,
        validate_every=3,
        keep_every=3,
        ema_decay=0.9,
        optimizer="adamw",
    )


def go_on(cfg: Config, run: Path) -> None:
    """What a user does after a kill: resume, or start again where there is nothing to resume."""
    begun = any((run / name).exists() for name in CHECKPOINTS)
    train(cfg, device="cpu", **({"resume": run} if begun else {"run_dir": run}))


def on_each_operation(run: Path, call: Callable[[], None]) -> None:
    """Calls before each file operation in a folder, in this process from now on."""
    inside = str(run)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            counts = bool(writes) and str(arguments[0]).startswith(inside)
        else:
            counts = event in CHANGES and any(str(a).startswith(inside) for a in arguments)
        if counts:
            call()

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        call()
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def job(cfg: Config, run: Path, last: int, counted: Any) -> None:
    """Trains, up to the file operation number `last`."""
    torch.set_num_threads(1)
    random.seed(0)  # Python draws a seed for every forked process

    def count() -> None:
        counted.value += 1
        if counted.value == last:
            os.kill(os.getpid(), signal.SIGKILL)

    on_each_operation(run, count)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        go_on(cfg, run)


def started(cfg: Config, run: Path, last: int = 0) -> tuple[BaseProcess, Any]:
    context = multiprocessing.get_context("fork")
    counted = context.Value("i", 0)
    process = context.Process(target=job, args=(cfg, run, last, counted))
    process.start()
    return process, counted


def whole(cfg: Config, run: Path) -> tuple[int, float]:
    """(file operations, seconds) of a training that is left alone."""
    begun = time.monotonic()
    process, counted = started(cfg, run)
    process.join(LONGEST)
    assert process.exitcode == 0
    return counted.value, time.monotonic() - begun


def files(run: Path) -> list[str]:
    """Names of what a run leaves; those of TensorBoard's hold the time."""
    found = (file for file in run.rglob("*") if file.is_file())
    return sorted(str(f.relative_to(run)) for f in found if "tensorboard" not in f.parts)


def difference(run: Path, expected: Path) -> str:
    """What differs between two runs, or ''."""
    if files(run) != files(expected):
        return f"files: {set(files(run)) ^ set(files(expected))}"
    for file in expected.rglob("*.pth"):
        try:
            assert_same(read_checkpoint(file), read_checkpoint(run / file.relative_to(expected)))
        except AssertionError as error:
            return f"{file.name}: {str(error).splitlines()[0]}"
    if metrics(run) != metrics(expected):
        return "metrics"
    other = [
        name
        for name in files(expected)
        if name.startswith("results/") and name.endswith(".json")
        if (run / name).read_bytes() != (expected / name).read_bytes()
    ]
    return f"content of {other}" if other else ""


def killed(cfg: Config, run: Path, rng: random.Random, operations: int, seconds: float) -> int:
    """Trains with one kill or two, at file operations (seconds=0) or moments; how many there
    were."""
    kills = 0
    for _ in range(1 if rng.random() < 2 / 3 else 2):
        process, _ = started(cfg, run, 0 if seconds else rng.randint(1, operations))
        process.join(rng.uniform(0, seconds) if seconds else LONGEST)
        if process.is_alive():
            process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL), f"exit {process.exitcode}"
    process, _ = started(cfg, run)
    process.join(LONGEST)
    assert process.exitcode == 0, f"going on ended with {process.exitcode}"
    return kills


def campaign(operations: int, moments: int, seed: int) -> list[str]:
    """What went wrong in so many kills, in lines."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        cfg = settings(tiny.write_dataset(folder / "data", train=4, val=2))
        count, seconds = whole(cfg, folder / "whole")
        for kind, wanted in (("operations", operations), ("moments", moments)):
            done, case = 0, 0
            while done < wanted:
                run = folder / f"{kind}{case}"
                try:
                    rng = random.Random(f"{seed} {kind} {case}")
                    done += killed(cfg, run, rng, count, seconds if kind == "moments" else 0.0)
                    found = difference(run, folder / "whole")
                except AssertionError as error:
                    done, found = done + 1, str(error)
                if found:
                    wrong.append(f"{kind} {case}: {found}")
                case += 1
            print(f"{kind}: {done} kills of {case} trainings, {count} operations each", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=60)
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = campaign(given.operations, given.moments, given.seed)
    print("\n".join(wrong) or "all as if left alone")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
