"""Damages checkpoints, configs and files of studies in many ways, by a seed, and reads them.

    python -m tests.campaigns.damage                  # 2,000 cases, some minutes
    python -m tests.campaigns.damage --count 200 --kinds checkpoint_bytes

A case must be refused in one line (ValueError, OSError), or be read. A traceback, more than
LONGEST seconds, and damaged bytes that change what is read without a word are failures.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.campaigns.values import WRONG, damaged, damaged_bytes
from yolact.engine.load import open_model
from yolact.engine.optim import set_step
from yolact.engine.rundir import find_checkpoint
from yolact.engine.start import changed_settings
from yolact.engine.state import build_state, to_checkpoint
from yolact.testing import tiny

LONGEST = 10.0
Reader = Callable[[random.Random, Path], str]


class Silent(AssertionError):
    """What was damaged was read as something else, and nothing said so."""


def same(one: object, two: object) -> bool:
    """Whether nested structures are equal, tensors bit for bit."""
    if isinstance(one, dict):
        return (
            isinstance(two, dict)
            and one.keys() == two.keys()
            and all(same(one[key], two[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return isinstance(two, (list, tuple)) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    return one == two


class Checkpoints:
    """A checkpoint of a tiny training in all its parts, and what reads it."""

    def __init__(self, folder: Path):
        self.cfg = tiny.config(
            folder,
            loss={"mask": "bce(weight=learned) + mse(match='grad')"},
            optimizer="adamw",
            ema_decay=0.9,
            precision="fp16",
        )
        state, _ = build_state(self.cfg, torch.device("cpu"), None)
        for group in state.optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        state.optimizer.step()
        state.step, state.validated = 4, 2
        set_step(state.scheduler, state.step)
        state.meter = {"sums": {"losses/box": 1.0}, "counts": {"losses/box": 1}}
        self.content = to_checkpoint(state, self.cfg)
        self.path = folder / "run" / "weights" / "last.pth"
        self.path.parent.mkdir(parents=True)
        torch.save(self.content, self.path)
        self.bytes = self.path.read_bytes()

    def read(self) -> dict:
        """What a training goes on from; the file is opened for prediction too."""
        path, content = find_checkpoint(self.path, self.path.parent, "tiny")
        changed_settings(self.cfg, content)
        state, _ = build_state(self.cfg, torch.device("cpu"), content)
        found = to_checkpoint(state, self.cfg)
        open_model(path, device="cpu", config=content["config"])
        return found

    def damaged_bytes(self, rng: random.Random, _: Path) -> str:
        """Bytes of the file are others. What is read all the same must be what was written."""
        self.path.write_bytes(damaged_bytes(self.bytes, rng))
        found = self.read()
        if not all(same(found[key], self.content[key]) for key in ("model", "ema", "training")):
            raise Silent("other numbers were read")
        return "read as it was"

    def damaged_content(self, rng: random.Random, _: Path) -> str:
        """An entry of what the file holds is another."""
        tensors = (
            torch.full((3,), float("nan")),
            torch.zeros(0),
            torch.ones((2, 2), dtype=torch.int8),
            torch.eye(2).to_sparse(),
            torch.ones(4, dtype=torch.complex64),
        )
        torch.save(damaged(self.content, rng, (*WRONG, *tensors)), self.path)
        self.read()
        return "read"


def kinds(folder: Path) -> dict[str, Reader]:
    """{name: damages something by a random generator, reads it, and says in a word how}."""
    checkpoints = Checkpoints(folder)
    return {
        "checkpoint_bytes": checkpoints.damaged_bytes,
        "checkpoint_content": checkpoints.damaged_content,
    }


def run(count: int, seed: int, chosen: list[str] | None = None) -> tuple[Counter, list[str]]:
    """{(kind, outcome): cases}, and what failed, in lines."""
    outcomes: Counter = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        readers = kinds(Path(folder))
        names = chosen or list(readers)
        for case in range(count):
            name = names[case % len(names)]
            rng, started = random.Random(f"{seed} {name} {case}"), time.monotonic()
            try:
                outcome = readers[name](rng, Path(folder))
            except (ValueError, OSError) as error:
                outcome = "refused"
                if len(str(error)) > 2000 or not str(error).strip():
                    failures.append(f"{name} {case}: a message of {len(str(error))} characters")
            except Exception:
                outcome = "TRACEBACK"
                failures.append(f"{name} {case}: {traceback.format_exc(limit=-4)[:1500]}")
            if time.monotonic() - started > LONGEST:
                failures.append(f"{name} {case}: took {time.monotonic() - started:.0f} s")
            outcomes[name, outcome] += 1
    return outcomes, failures


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--count", type=int, default=2000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--kinds", nargs="+")
    given = flags.parse_args()
    torch.set_num_threads(1)
    outcomes, failures = run(given.count, given.seed, given.kinds)
    print("\n".join(failures))
    for (name, outcome), number in sorted(outcomes.items()):
        print(f"{name:22} {outcome:16} {number}")
    print(f"{given.count} cases, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
