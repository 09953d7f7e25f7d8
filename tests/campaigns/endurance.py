"""A long training of tiny steps: memory, handles, threads and processes must stay as they are.

    python -m tests.campaigns.endurance                 # 10,000 steps, some minutes
    python -m tests.campaigns.endurance --steps 500

Prints what is in use, ten times. Exit 1 where the last tenth uses more than the third.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from yolact.engine.train import train
from yolact.testing import tiny

MORE_MEMORY = 8.0  # MB that noise of the allocator may add


@dataclass(frozen=True)
class Use:
    """What a training has in use at a step: MB of memory, of itself and of its loader processes,
    open handles, threads, processes, MB of files."""

    step: int
    memory: float
    workers: float
    handles: int
    threads: int
    processes: int
    files: float


def resident(pid: int | str) -> float:
    """MB of memory that a process holds and shares with none."""
    return sum(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith(("Private_Dirty", "Private_Clean"))
    )


def use(step: int, run: Path) -> Use:
    children = [child.pid for child in multiprocessing.active_children() if child.pid]
    return Use(
        step,
        resident("self"),
        sum(map(resident, children)),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(children),
        sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) / 2**20,
    )


def measured(steps: int, folder: Path) -> list[Use]:
    """What is in use after each tenth of a training with validations and checkpoints."""
    cfg = tiny.config(
        tiny.write_dataset(folder / "data"),
        augment=True,
        iterations=steps,
        batch_size=2,
        num_workers=1,
        log_every=steps // 10,
        save_every=steps // 20,
        validate_every=steps // 5,
        ema_decay=0.9,
    )
    found = []
    train(
        cfg,
        device="cpu",
        run_dir=folder / "run",
        on_step=lambda step, _: found.append(use(step, folder / "run")),
    )
    return found


def grown(found: list[Use]) -> list[str]:
    """What the last tenth uses more of than the third."""
    before, after = found[2], found[-1]
    limits = {"memory": MORE_MEMORY, "workers": MORE_MEMORY, "handles": 0, "threads": 0}
    return [
        f"{name}: {getattr(before, name):.0f} at step {before.step}, {getattr(after, name):.0f} at "
        f"step {after.step}"
        for name, more in {**limits, "processes": 0}.items()
        if getattr(after, name) > getattr(before, name) + more
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        found = measured(steps, Path(folder))
    print("step | memory MB | workers MB | handles | threads | processes | files MB")
    for each in found:
        print(
            f"{each.step} | {each.memory:.1f} | {each.workers:.1f} | {each.handles} | "
            f"{each.threads} | {each.processes} | {each.files:.2f}"
        )
    wrong = grown(found)
    print("\n".join(wrong) or f"flat over {steps} steps ({time.monotonic() - begun:.0f} s)")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
