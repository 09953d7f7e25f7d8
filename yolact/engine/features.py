"""Features of a frozen backbone, computed once for each training image (train.cache_features).

They lie in a file without a name in the run's folder, which the process maps into memory and which
is gone when it ends. Each process of a training keeps the features of the images that it has seen.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.coco import CocoDataset
from data.schema import Config
from yolact.engine.datasets import OwnItems
from yolact.model import Yolact


def feature_cache(
    cfg: Config, model: Yolact, trained: CocoDataset | OwnItems, folder: Path
) -> FeatureCache | None:
    """That of a training whose config asks for one."""
    return FeatureCache(model, len(trained), folder) if cfg.train.cache_features else None


class FeatureCache:
    """(images, their indices) -> the backbone's features of each level, (B,C,h,w) in the type that
    the backbone computes in. Images that were seen before are not read."""

    def __init__(self, model: Yolact, count: int, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.levels: list[Tensor] = []  # (N,C,h,w) each, on the CPU
        self.known = np.zeros(count, bool)

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: Sequence[int]) -> list[Tensor]:
        rows = np.asarray(indices)
        new = np.flatnonzero(~self.known[rows])
        if len(new):
            found = self.model.backbone(images if len(new) == len(rows) else images[new])
            self.levels = self.levels or self._room(found)
            for level, features in zip(self.levels, found, strict=True):
                level[rows[new]] = features.cpu()  # waits for a GPU once an image
            self.known[rows[new]] = True
        layout = (
            torch.channels_last
            if images.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        return [
            level[rows].to(images.device, non_blocking=True).contiguous(memory_format=layout)
            for level in self.levels
        ]

    def _room(self, found: Sequence[Tensor]) -> list[Tensor]:
        """One mapped tensor a level, for every image. ValueError where the disk has no room."""
        shapes = [(len(self.known), *level.shape[1:]) for level in found]
        sizes = [
            int(np.prod(shape)) * level.element_size()
            for shape, level in zip(shapes, found, strict=True)
        ]
        needed, free = sum(sizes), shutil.disk_usage(self.folder).free
        if needed > free:
            raise ValueError(
                f"train.cache_features needs {needed / 1e9:.1f} GB in {self.folder}, where "
                f"{free / 1e9:.1f} GB are free: choose another --run_dir, or set it to false"
            )
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a disk that fills up later ends the process
                os.posix_fallocate(file.fileno(), 0, needed)
            whole = torch.from_numpy(np.memmap(file, np.uint8, mode="r+", shape=(needed,)))
        return [
            part.view(level.dtype).view(shape)
            for part, level, shape in zip(whole.split(sizes), found, shapes, strict=True)
        ]
