"""The batches of training steps, as one process reads them."""

from __future__ import annotations

from collections.abc import Generator

import torch

from data.coco import CocoDataset
from data.loader import train_loader
from data.schema import Config
from yolact.engine import distributed
from yolact.engine.datasets import OwnItems


def step_batches(
    cfg: Config, trainset: CocoDataset | OwnItems, device: torch.device, *, start_step: int = 0
) -> Generator[list, None, None]:
    """The micro-batches of each step of this process, from `start_step` on, without end. Closing
    it ends the loader's processes."""
    batches = iter(
        train_loader(
            cfg,
            trainset,
            start_step=start_step,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            num_workers=cfg.train.num_workers,
            pin_memory=device.type == "cuda",
        )
    )
    while True:
        yield [next(batches) for _ in range(cfg.train.accumulate)]
