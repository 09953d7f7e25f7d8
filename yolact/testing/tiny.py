"""A model, a data set and batches small enough to train in a test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from data.schema import Config
from layers.targets import Targets
from yolact.build import build_criterion, build_model

ANCHORS = tuple((side,) for side in (12.0, 24.0, 48.0, 96.0, 192.0))
MODEL = {
    "max_size": 64,
    "backbone": "resnet10",
    "backbone_width": 8,
    "pretrained": "none",
    "fpn_channels": 16,
    "proto_channels": 16,
    "proto_layers": 1,
    "prototypes": 8,
    "head_channels": 16,
    "anchor_scales": ANCHORS,
}
TRAIN = {
    "batch_size": 4,
    "iterations": 6,
    "lr": 1e-3,
    "lr_steps": (5,),
    "warmup_iterations": 2,
    "num_workers": 0,
    "log_every": 2,
    "save_every": 2,
    "validate_every": 0,
    "freeze_bn": "always",
    "seed": 3,
}
CLASSES = ("disc", "bar")


def config(
    folder: Path | None = None,
    *,
    model: dict | None = None,
    loss: dict | None = None,
    augment: bool = False,
    **train,
) -> Config:
    """A tiny config; with a folder, on the data set that write_dataset() puts there."""
    on = {name: augment for name in ("photometric", "zoom_out", "iou_crop", "flip")}
    data = {"name": "tiny", "class_names": CLASSES}
    if folder is not None:
        for split in ("train", "val"):
            data |= {
                f"{split}_images": str(folder / split),
                f"{split}_annotations": str(folder / f"{split}.json"),
            }
    return Config(
        name="tiny",
        model=MODEL | (model or {}),
        data=data,
        augment=on,
        loss=loss or {},
        train=TRAIN | train,
        eval={"score_threshold": 0.2},
    )


def write_dataset(
    folder: Path, *, train: int = 10, val: int = 3, side: int = 72, seed: int = 0
) -> Path:
    """Discs and bars on grey, in COCO format."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        images: list[dict] = []
        annotations: list[dict] = []
        for i in range(count):
            picture = np.full((side, side, 3), rng.integers(60, 120), np.uint8)
            for category in (1, 2)[: rng.integers(1, 3)]:
                x, y, r = (
                    rng.integers(18, side - 18),
                    rng.integers(18, side - 18),
                    rng.integers(8, 16),
                )
                half = (r, r) if category == 1 else (r, max(4, r // 2))
                angles = np.linspace(0, 2 * np.pi, 16 if category == 1 else 4, endpoint=False) + (
                    0 if category == 1 else np.pi / 4
                )
                points = np.stack([x + half[0] * np.cos(angles), y + half[1] * np.sin(angles)], 1)
                cv2.fillPoly(picture, [points.round().astype(np.int32)], (220, 60 * category, 30))
                low, high = points.min(0), points.max(0)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": category,
                        "iscrowd": 0,
                        "bbox": [*map(float, low), *map(float, high - low)],
                        "area": float(np.prod(high - low)),
                        "segmentation": [points.flatten().tolist()],
                    }
                )
            cv2.imwrite(str(folder / split / f"{split}_{i}.png"), picture)
            images.append({"id": i, "file_name": f"{split}_{i}.png", "width": side, "height": side})
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
        (folder / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return folder


def model_and_criterion(cfg: Config):
    model = build_model(cfg).train()
    model.freeze_batchnorm(True)
    return model, build_criterion(cfg, model)


def targets(
    cfg: Config, mask_sizes, instances: int, seed: int, *, keep_full: bool = False
) -> Targets:
    """Random boxes whose masks fill them."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand((instances, 2), generator=generator) * 0.5
    boxes = torch.cat((low, low + 0.25 + 0.2 * torch.rand((instances, 2), generator=generator)), 1)
    side = cfg.model.max_size
    grid = (torch.arange(side) + 0.5) / side
    inside = (grid >= boxes[:, :2, None]) & (grid < boxes[:, 2:, None])  # (M,2,S), x then y
    masks = inside[:, 1, :, None] & inside[:, 0, None, :]
    labels = torch.randint(0, cfg.num_classes, (instances,), generator=generator)
    whole = Targets(boxes, labels, torch.zeros(instances, dtype=torch.bool), masks)
    return whole.reduce(mask_sizes, keep_full=keep_full)


@dataclass
class FakeBatch:
    """The parts of data.loader.Batch that a step reads."""

    images: Tensor
    targets: list[Targets]
    image_ids: list
    indices: list[int] | None = None

    def to(self, device) -> FakeBatch:
        return FakeBatch(
            self.images.to(device), [t.to(device) for t in self.targets], self.image_ids
        )


def batch(cfg: Config, criterion, counts: list[int], seed: int = 0) -> FakeBatch:
    """One image for each of `counts`, with so many instances."""
    generator = torch.Generator().manual_seed(seed)
    side = cfg.model.max_size
    images = torch.randint(
        0, 256, (len(counts), 3, side, side), generator=generator, dtype=torch.uint8
    )
    found = [
        targets(cfg, criterion.mask_sizes, n, 100 * seed + i, keep_full=criterion.needs_full_masks)
        for i, n in enumerate(counts)
    ]
    return FakeBatch(images, found, [f"image{seed}-{i}" for i in range(len(counts))])


def split(whole: FakeBatch, parts: int) -> list[FakeBatch]:
    size = len(whole.targets) // parts
    return [
        FakeBatch(
            whole.images[i : i + size], whole.targets[i : i + size], whole.image_ids[i : i + size]
        )
        for i in range(0, size * parts, size)
    ]
