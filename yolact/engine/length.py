"""The length of a training that states minutes: steps and a validation are timed on a copy, which
is then thrown away, and the run is one of so many iterations."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from data.length import of_iterations
from data.schema import Config
from layers.losses.criterion import Criterion
from yolact.engine import distributed
from yolact.engine.datasets import DataSet
from yolact.engine.start import Sets, changed_settings, check_length, open_sets
from yolact.engine.state import TrainState, build_state, random_state_kept
from yolact.engine.stopping import mistakes_explained
from yolact.engine.timing import step_seconds, steps_of, validation_seconds
from yolact.model import Yolact

_now = time.perf_counter
UNTIMED = 3  # first steps: caches, kernels and loader processes start in them
TIMED = 8  # steps at least
SHARE = 0.03  # of the minutes that timing steps takes, if more
FEWEST = 10  # steps that a training is worth
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
    and what was measured. A run that goes on keeps its length; notes on what has changed since its
    checkpoint come after that.

    All ranks call this. Other arguments as of train(), and none of them changes. ValueError where
    the minutes hold no training.
    """
    measured = None
    if cfg.train.max_minutes is not None:
        if checkpoint is None:
            given = model, criterion, train_set, val_set
            cfg, line, measured = _measured(cfg, cfg.train.max_minutes, device, *given)
        else:
            cfg, line = _kept(cfg, checkpoint)
        notes = [*notes, line]
    changed = changed_settings(cfg, checkpoint) if checkpoint is not None else []
    return cfg, [*notes, *changed, *check_length(cfg)], measured


def _kept(cfg: Config, checkpoint: dict) -> tuple[Config, str]:
    """The config with the length of the run that goes on, and a line that says so."""
    kept = {
        key: checkpoint["config"]["train"][key]
        for key in ("iterations", "lr_steps", "warmup_iterations")
    }
    kept["lr_steps"] = tuple(kept["lr_steps"])
    train = cfg.train.model_copy(update={**kept, "max_minutes": None})
    line = f"length        {train.iterations} iterations, as the run that goes on"
    return cfg.model_copy(update={"train": train}), line


def _measured(
    cfg: Config,
    minutes: float,
    device: torch.device,
    model: Yolact | None,
    criterion: Criterion | None,
    train_set: DataSet | None,
    val_set: DataSet | None,
) -> tuple[Config, str, dict[str, Any]]:
    """The config with as many iterations as the minutes hold, a line that says so, and what was
    measured."""
    started = _now()
    with random_state_kept(), mistakes_explained():
        state, _ = build_state(
            cfg, device, None, model=copy.deepcopy(model), criterion=copy.deepcopy(criterion)
        )
        sets = open_sets(cfg, state, train_set, val_set)
        step, steps = _step_seconds(cfg, state, sets, device, minutes)
        # what the training, which starts again, takes up to its first timed step
        start = max(0.0, _now() - started - step * steps)
        validation = distributed.first_run_by_main(
            lambda: _validation_seconds(cfg, state, sets, device)
        )
    spent = _now() - started
    # by one process: each has its own clock, and all train the same
    iterations = distributed.first_run_by_main(
        lambda: _iterations(cfg, minutes, step, validation, spent + start)
    )
    measured = TimedLength(
        minutes, iterations, round(step, 4), steps, round(validation, 2), round(spent, 1)
    )
    cfg = cfg.model_copy(update={"train": of_iterations(cfg.train, iterations)})
    return cfg, measured.line(), asdict(measured)


def _step_seconds(
    cfg: Config, state: TrainState, sets: Sets, device: torch.device, minutes: float
) -> tuple[float, int]:
    """Seconds of a step with its loading, and how many steps were timed."""

    def enough(timed: int, seconds: float) -> bool:
        return distributed.share(timed >= TIMED and seconds >= 60 * minutes * SHARE)

    with steps_of(state, cfg, sets.train, device) as step:
        return step_seconds(step, untimed=UNTIMED, enough=enough)


def _validation_seconds(cfg: Config, state: TrainState, sets: Sets, device: torch.device) -> float:
    with mistakes_explained():
        return validation_seconds(state.best_model, cfg, sets.val, device)


def _iterations(cfg: Config, minutes: float, step: float, validation: float, spent: float) -> int:
    """Steps that fit with their validations, of which one comes at the end. spent: seconds of
    measuring, and of starting again."""
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
            f"train.max_minutes={minutes:g}: measuring and starting take {spent:.0f} s, a step "
            f"takes {step:.2f} s and a validation about {validation:.0f} s: give at least "
            f"{math.ceil(10 * least) / 10:g}"
        )
    return fitting
