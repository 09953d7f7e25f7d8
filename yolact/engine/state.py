"""Everything a run must remember to go on exactly where it stopped, and how it gets into a
checkpoint and back.

The order of the data, augmentation and the choice of positives are functions of (seed, step), so
they need no state of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from data.schema import Config, TrainConfig
from layers.losses.criterion import Criterion
from yolact.build import build_criterion, build_model, load_pretrained_backbone
from yolact.checkpoint import load_weights
from yolact.engine import distributed
from yolact.engine.optim import (
    Ema,
    build_optimizer,
    build_scheduler,
    load_optimizer,
    load_scaler,
    set_step,
)
from yolact.engine.resumable import restoring
from yolact.hub import hub_weights, is_hub
from yolact.model import Yolact
from yolact.starting import load_initial
from yolact.weights_file import FORMAT

# images a device: YOLACT's limit under which batch statistics are worse than the pretrained ones
AUTO_FREEZE_BELOW = 6
SMALL_BATCH = 4


@dataclass
class TrainState:
    """The parts of a run that change while it trains.

    step        optimiser steps done
    best_ap     best mask AP so far, -1 before the first validation
    validated   step of the last finished validation
    stale       validations since the one of best_ap
    meter       sums of the losses since the last logged line (see log.Meter)
    pretrained  whether training started from given backbone weights
    """

    model: Yolact
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    ema: Ema[Yolact] | None
    pretrained: bool
    batchnorm: str
    step: int = 0
    best_ap: float = -1.0
    validated: int = 0
    stale: int = 0
    meter: dict = field(default_factory=dict)

    @property
    def best_model(self) -> Yolact:
        """The weights to validate: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def is_stale(self, patience: int, *, more: int = 0) -> bool:
        """Whether `patience` validations in a row, `more` that come among them, found no better
        mask AP; never with a patience of 0."""
        return 0 < patience <= self.stale + more

    def train_mode(self) -> None:
        self.model.train()
        self.criterion.train()
        self.model.freeze_batchnorm(self.batchnorm == "frozen")


def build_state(
    cfg: Config,
    device: torch.device,
    checkpoint: dict | None,
    *,
    model: Yolact | None = None,
    criterion: Criterion | None = None,
) -> tuple[TrainState, list[str]]:
    """A state ready to train, and lines that say what was loaded. `checkpoint` (from
    read_checkpoint) resumes a run. A given model starts from the weights that it has.

    Raises ValueError where given weights or the checkpoint do not fit the config.
    """
    notes: list[str] = []
    given = model is not None
    model = build_model(cfg) if model is None else model
    model.to(device)
    if checkpoint is not None:
        pretrained = checkpoint["training"]["pretrained"]
        try:
            load_weights(model, checkpoint["model"], name="the checkpoint to resume")
        except ValueError as error:
            raise ValueError(f"{error} (--resume without --config takes that of the run)") from None
    elif given:
        pretrained = False
        notes.append("weights       those of the given model")
    else:
        pretrained = _starting_weights(model, cfg, notes)
    if cfg.train.channels_last:
        model.to(memory_format=torch.channels_last)
    criterion = build_criterion(cfg, model) if criterion is None else criterion
    criterion.to(device)
    model.train()
    if cfg.model.freeze_backbone:
        frozen = True
        model.freeze_backbone()
        notes.append(_frozen_note(checkpoint is not None or given or pretrained))
    else:
        frozen = freeze_batchnorm(cfg, pretrained, notes)
    model.freeze_batchnorm(frozen)
    ema = Ema(model, cfg.train.ema_decay) if cfg.train.ema_decay else None
    if cfg.train.compile:
        model.compile()
    optimizer = build_optimizer([*model.parameters(), *criterion.parameters()], cfg.train)
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.train.precision == "fp16")
    state = TrainState(
        model,
        criterion,
        optimizer,
        build_scheduler(optimizer, cfg.train),
        scaler,
        ema,
        pretrained,
        "frozen" if frozen else "trained",
    )
    state.train_mode()
    if checkpoint is not None:
        _restore(state, checkpoint, cfg.train, notes)
    return state, notes


def _fetched(start: str) -> str:
    """hub_weights() by rank 0 first, which may download them; the others then find them, or each
    machine's own are downloaded."""
    found = distributed.first_run_by_main(lambda: hub_weights(start))
    return str(found if distributed.is_main() else hub_weights(start))


def _starting_weights(model: Yolact, cfg: Config, notes: list[str]) -> bool:
    """Loads what the config says to start from; True where the backbone then has trained
    weights."""
    if cfg.train.init_from:
        start = cfg.train.init_from
        report = load_initial(model, _fetched(start) if is_hub(start) else start)
        notes.append(f"weights       {cfg.train.init_from}: {report}")
        return True
    # which may download them: once is enough
    loaded = distributed.first_run_by_main(lambda: load_pretrained_backbone(model, cfg))
    if not distributed.is_main():
        load_pretrained_backbone(model, cfg)
    notes.append(
        f"weights       backbone from {cfg.model.pretrained}"
        if loaded
        else "weights       random: training from scratch"
    )
    return loaded


def _frozen_note(started: bool) -> str:
    if started:
        return "backbone      frozen (model.freeze_backbone), batch norm too"
    return (
        "warning: model.freeze_backbone keeps random weights, from which little can be learnt: set "
        "model.pretrained or train.init_from"
    )


def freeze_batchnorm(cfg: Config, pretrained: bool, notes: list[str]) -> bool:
    """Whether batch norm keeps its statistics and weights; says why, and warns where batch
    statistics will be poor.

    auto: frozen below 6 images a device where the backbone was pretrained. From scratch the
    statistics must be learnt, at any size.
    """
    images = cfg.train.batch_size // (distributed.world_size() * cfg.train.accumulate)
    choice = cfg.train.freeze_bn
    frozen = choice == "always" or (choice == "auto" and pretrained and images < AUTO_FREEZE_BELOW)
    why = (
        f"freeze_bn={choice}, {images} images a device and forward pass, "
        f"{'pretrained' if pretrained else 'from scratch'}"
    )
    notes.append(f"batch norm    {'frozen' if frozen else 'trained'} ({why})")
    if not frozen and images < SMALL_BATCH:
        notes.append(
            f"warning: batch norm learns from {images} image{'s' * (images > 1)} at a time, below "
            f"{SMALL_BATCH}: its statistics will be noisy. Use a larger train.batch_size, less "
            "train.accumulate, or pretrained weights with frozen batch norm"
        )
    return frozen


def to_checkpoint(state: TrainState, cfg: Config, *, alone: bool = False) -> dict:
    """last.pth: weights, and all that resuming needs. Tensors and plain Python only, so that it
    loads with weights_only. alone: without the random states of the other ranks."""
    return {
        **weights_only(state.model, state, cfg),
        "ema": None if state.ema is None else state.ema.module.state_dict(),
        "training": {
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ema_updates": 0 if state.ema is None else state.ema.updates,
            "random": [random_state()] if alone else distributed.gather(random_state()),
            "best_ap": state.best_ap,
            "validated": state.validated,
            "stale": state.stale,
            "meter": state.meter,
            "pretrained": state.pretrained,
        },
    }


def weights_only(model: nn.Module, state: TrainState, cfg: Config) -> dict:
    """best.pth: the weights that were validated, without what resuming needs."""
    return {
        "format": FORMAT,
        "model": model.state_dict(),
        "criterion": state.criterion.state_dict(),
        "ema": None,
        "config": cfg.model_dump(mode="json"),
        "step": state.step,
    }


def _restore(state: TrainState, checkpoint: dict, train: TrainConfig, notes: list[str]) -> None:
    training = checkpoint["training"]
    with restoring("criterion, which belongs to loss.mask and assign.name,"):
        state.criterion.load_state_dict(checkpoint["criterion"])
    with restoring("optimiser state"):
        load_optimizer(state.optimizer, training["optimizer"])
    if training["scaler"]:
        with restoring("loss scale of fp16"):
            load_scaler(state.scaler, training["scaler"])
    if state.ema is not None and checkpoint["ema"] is not None:
        with restoring("averaged (EMA) weights"):
            state.ema.restore(checkpoint["ema"], training["ema_updates"])
    elif state.ema is not None:
        notes.append(
            "warning: the checkpoint holds no moving average of the weights; a new one starts here"
        )
    states = training["random"]
    if distributed.rank() < len(states):
        with restoring("random states"):
            set_random_state(states[distributed.rank()])
    if checkpoint["step"] > train.iterations:
        notes.append(
            f"warning: the checkpoint is of step {checkpoint['step']}, beyond train.iterations="
            f"{train.iterations}: nothing is left to train"
        )
    state.step, state.best_ap = checkpoint["step"], training["best_ap"]
    state.validated, state.meter = training["validated"], training["meter"]
    state.stale = training.get("stale", 0)  # not in older checkpoints
    set_step(state.scheduler, state.step)


def random_state() -> dict:
    """The global random states of Python, numpy and torch, as plain values and tensors."""
    now = np.random.get_state()
    assert isinstance(now, tuple)
    name, keys, *rest = now
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # a run on the CPU takes no memory of a GPU for this
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def random_state_kept() -> Iterator[None]:
    """What the block draws from the global random states leaves no trace: a run is the same with
    and without validation."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
