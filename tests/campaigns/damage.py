"""Checkpoints whose bytes or content are others, read for resuming and for prediction."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.campaigns.runner import Door, Silent
from tests.campaigns.values import WRONG, damaged, damaged_bytes
from yolact.cli import run
from yolact.engine.load import open_model
from yolact.engine.optim import set_step
from yolact.engine.rundir import find_checkpoint
from yolact.engine.start import changed_settings
from yolact.engine.state import build_state, to_checkpoint
from yolact.testing import tiny


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

    def damaged_bytes(self, rng: random.Random) -> None:
        """Bytes of the file are others. What is read all the same must be what was written."""
        self.path.write_bytes(damaged_bytes(self.bytes, rng))
        found = self.read()
        if not all(same(found[key], self.content[key]) for key in ("model", "ema", "training")):
            raise Silent("other numbers were read")

    def damaged_content(self, rng: random.Random) -> None:
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


def door(kind: Callable[[Checkpoints, random.Random], None]) -> Door:
    """A door of the campaigns: reads a checkpoint damaged in one way."""

    def opened(files: Any, _: Path, rng: random.Random) -> Callable[[], int]:
        def read(_: Namespace) -> None:
            kind(_checkpoints(files.root), rng)

        return lambda: run(read, Namespace(traceback=False))

    return opened


@cache
def _checkpoints(root: Path) -> Checkpoints:
    return Checkpoints(root / "checkpoints")


DOORS = {
    "checkpoint_bytes": door(Checkpoints.damaged_bytes),
    "checkpoint_content": door(Checkpoints.damaged_content),
}
