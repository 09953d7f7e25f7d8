"""What a training's step and validation take, by a few of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from data.coco import CocoDataset
from data.schema import Config
from data.workers import deaths_held
from yolact.engine.batches import step_batches
from yolact.engine.datasets import OwnItems, finds_ap
from yolact.engine.evaluate import evaluate
from yolact.engine.precision import wait_for
from yolact.engine.state import TrainState
from yolact.engine.step import Updater
from yolact.model import Yolact

IMAGES = 8  # of a timed validation
_now = time.perf_counter


class Steps:
    """Training steps of this process on a data set, each at a call that waits for the device."""

    def __init__(
        self, state: TrainState, cfg: Config, trainset: CocoDataset | OwnItems, device: torch.device
    ) -> None:
        self.state, self.device = state, device
        self.update = Updater(state, cfg, device)
        self._batches = step_batches(cfg, trainset, device)

    def __call__(self) -> None:
        self.update(next(self._batches))
        wait_for(self.device)

    def close(self) -> None:
        """Ends the loader's processes."""
        self._batches.close()


@contextmanager
def steps_of(
    state: TrainState, cfg: Config, trainset: CocoDataset | OwnItems, device: torch.device
) -> Iterator[Steps]:
    """Steps, whose loader ends with the block."""
    with deaths_held(report=False):
        steps = Steps(state, cfg, trainset, device)
        try:
            yield steps
        finally:
            steps.close()


def step_seconds(
    step: Callable[[], None], *, untimed: int, enough: Callable[[int, float], bool]
) -> tuple[float, int]:
    """Seconds of a step with its loading, and how many were timed: the slower of all and of the
    later half, since the first batches were loaded ahead.

    untimed: first steps, in which caches, kernels and loader processes start. enough: of how many
    were timed, and the seconds that they took.
    """
    times: list[float] = []
    timed = 0
    while timed < 1 or not enough(timed, times[-1] - times[untimed - 1]):
        step()
        times.append(_now())
        timed = len(times) - untimed
    middle = untimed - 1 + timed // 2
    every = (times[-1] - times[untimed - 1]) / timed
    late = (times[-1] - times[middle]) / (len(times) - 1 - middle)
    return max(every, late), timed


def validation_seconds(
    model: Yolact,
    cfg: Config,
    dataset: CocoDataset | OwnItems | None,
    device: torch.device,
    few: int = IMAGES,
) -> float:
    """Seconds of one validation, by one and by `few` of its images: an image's share, and what a
    validation takes beside its images, as reading the annotation file. 0 where there is no AP."""
    if dataset is None or not finds_ap(dataset):
        return 0.0
    images = min(len(dataset), cfg.train.validate_images or len(dataset))
    few = min(images, few)

    def seconds(count: int) -> float:
        return evaluate(
            model,
            cfg,
            device=device,
            precision=cfg.validation_precision,
            max_images=count,
            dataset=dataset,
            progress=False,
        ).seconds

    seconds(1)  # modules and kernels load in the first one
    one = seconds(1)
    each = max(0.0, seconds(few) - one) / (few - 1) if few > 1 else 0.0
    return one + each * (images - 1)
