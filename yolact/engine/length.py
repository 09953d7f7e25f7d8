"""The length of a training that states minutes: steps and a validation are timed on a copy, which
is then thrown away, and the run is one of so many iterations."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import torch

from data.coco import CocoDataset
from data.length import of_iterations
from data.loader import train_loader
from data.schema import Config
from data.workers import deaths_held
from layers.losses.criterion import Criterion
from yolact.engine import distributed
from yolact.engine.datasets import DataSet, OwnItems, finds_ap
from yolact.engine.evaluate import evaluate
from yolact.engine.start import Sets, check_length, open_sets
from yolact.engine.state import TrainState, build_state, random_state_kept
from yolact.engine.step import Updater
from yolact.model import Yolact

_now = time.perf_counter
UNTIMED = 3  # first steps: caches, kernels and loader processes start in them
TIMED = 8  # steps at least
SHARE = 0.03  # of the minutes that timing steps takes, if more
FEWEST = 10  # steps that a training is worth
IMAGES = 8  # of the timed validation
RESERVE = 0.02  # of the minutes, for checkpoints and what else is not timed


@dataclass(frozen=True)
class TimedLength:
    """What a length was set from, as env.json keeps it. step and validation in seconds; spent: what
    measuring took."""

    max_minutes: float
    iterations: int
    step: float
    steps_timed: int
    validation: float
    spent: float

    def line(self) -> str:
        """For the summary of a training."""
        checked = f", validations of about {self.validation:.1f} s" if self.validation else ""
        return (
            f"length        {self.iterations} iterations in train.max_minutes="
            f"{self.max_minutes:g}: steps of {1e3 * self.step:.0f} ms (over {self.steps_timed})"
            f"{checked}, {self.spent:.0f} s of measuring"
        )


def settled_length(
    cfg: Config,
    notes: list[str],
    device: torch.device,
    checkpoint: dict | None,
    *,
    model: Yolact | None = None,
    criterion: Criterion | None = None,
    train_set: DataSet | None = None,
    val_set: DataSet | None = None,
) -> tuple[Config, list[str], dict[str, Any] | None]:
    """The config with train.max_minutes turned into iterations, the notes with one that says so,
    and what was measured. A run that goes on keeps its length.

    All ranks call this. Other arguments as of train(), and none of them changes. ValueError where
    the minutes hold no training.
    """
    minutes = cfg.train.max_minutes
    if minutes is None:
        return cfg, notes + check_length(cfg), None
    if checkpoint is not None:
        kept = {
            key: checkpoint["config"]["train"][key]
            for key in ("iterations", "lr_steps", "warmup_iterations")
        }
        kept["lr_steps"] = tuple(kept["lr_steps"])
        train = cfg.train.model_copy(update={**kept, "max_minutes": None})
        cfg = cfg.model_copy(update={"train": train})
        line = f"length        {train.iterations} iterations, as the run that goes on"
        return cfg, [*notes, line, *check_length(cfg)], None
    started = _now()
    with random_state_kept():
        state, _ = build_state(
            cfg, device, None, model=copy.deepcopy(model), criterion=copy.deepcopy(criterion)
        )
        sets = open_sets(cfg, state, train_set, val_set)
        step, steps = _step_seconds(cfg, state, sets, device, minutes)
        validation = distributed.first_run_by_main(
            lambda: _validation_seconds(cfg, state, sets, device)
        )
    spent = _now() - started
    iterations = distributed.share(_iterations(cfg, minutes, step, validation, spent))
    measured = TimedLength(
        minutes, iterations, round(step, 4), steps, round(validation, 2), round(spent, 1)
    )
    cfg = cfg.model_copy(update={"train": of_iterations(cfg.train, iterations)})
    return cfg, [*notes, measured.line(), *check_length(cfg)], asdict(measured)


def _step_seconds(
    cfg: Config, state: TrainState, sets: Sets, device: torch.device, minutes: float
) -> tuple[float, int]:
    """Seconds of a step with its loading, and how many steps were timed: the slower of all and of
    the later half, since the first batches were loaded ahead."""
    update, times = Updater(state, cfg, device), []
    with deaths_held(report=False), closing(_batches(cfg, sets.train, device)) as batches:
        while True:
            update(next(batches))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(_now())
            timed = len(times) - UNTIMED
            enough = timed >= TIMED and times[-1] - times[UNTIMED - 1] >= 60 * minutes * SHARE
            if distributed.share(enough):
                break
    middle = UNTIMED - 1 + timed // 2
    every = (times[-1] - times[UNTIMED - 1]) / timed
    late = (times[-1] - times[middle]) / (len(times) - 1 - middle)
    return max(every, late), timed


def _batches(
    cfg: Config, trainset: CocoDataset | OwnItems, device: torch.device
) -> Generator[list, None, None]:
    """Micro-batches of each step, as in training."""
    batches = iter(
        train_loader(
            cfg,
            trainset,
            start_step=0,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            num_workers=cfg.train.num_workers,
            pin_memory=device.type == "cuda",
        )
    )
    while True:
        yield [next(batches) for _ in range(cfg.train.accumulate)]


def _validation_seconds(cfg: Config, state: TrainState, sets: Sets, device: torch.device) -> float:
    """Of one validation, by a few of its images; 0 without any."""
    if sets.val is None or not finds_ap(sets.val):
        return 0.0
    images = min(len(sets.val), cfg.train.validate_images or len(sets.val))
    few = min(images, IMAGES)
    result = evaluate(
        state.best_model,
        cfg,
        device=device,
        precision=cfg.validation_precision,
        max_images=few,
        dataset=sets.val,
        progress=False,
    )
    return result.seconds * images / few


def _iterations(cfg: Config, minutes: float, step: float, validation: float, spent: float) -> int:
    """Steps that fit with their validations, of which one comes at the end."""
    left = 60 * minutes * (1 - RESERVE) - spent
    every = cfg.train.validate_every or max(1, int(left / step))
    # not more than fit with their part of a validation; then the last validation is a whole one
    most = int(left / (step + validation / every))
    validations = math.ceil(most / every)
    fitting = max(
        min(int((left - validations * validation) / step), validations * every),
        (validations - 1) * every,
    )
    if fitting < FEWEST:
        least = (spent + validation + FEWEST * step) / (60 * (1 - RESERVE))
        raise ValueError(
            f"train.max_minutes={minutes:g}: measuring took {spent:.0f} s, a step takes "
            f"{step:.2f} s and a validation about {validation:.0f} s: give at least "
            f"{math.ceil(10 * least) / 10:g}"
        )
    return fitting
