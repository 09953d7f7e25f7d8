"""A few validation images with their predictions beside their ground truth."""

from __future__ import annotations

import copy

import numpy as np
import torch

from data.loader import build_dataset
from data.schema import Config
from yolact.draw import draw_detections, draw_targets, gallery, shrunk, side_by_side
from yolact.engine.predict import Predictor
from yolact.finite import Diverged
from yolact.model import Yolact

SCORE = 0.3  # predictions below it are not drawn


def prediction_pictures(
    model: Yolact,
    cfg: Config,
    dataset,
    device: torch.device,
    *,
    count: int = 4,
    longest: int | None = None,
) -> dict[str, np.ndarray]:
    """{image id: HWC uint8 RGB} for `count` images spread evenly over the validation set, the same
    ones at every call.

    dataset: the validation split with full-size masks. longest: of a picture's sides in pixels, to
    which it is shrunk before the next is made; None = as large as it is. None of a model that has
    diverged, where train.on_nonfinite=skip lets it.
    """
    predict = Predictor(model, cfg, device, cfg.validation_precision)
    pictures = {}
    count = min(count, len(dataset))
    for i in range(count):
        sample = dataset[i * len(dataset) // count]
        image = dataset.load_image(sample.index)
        try:
            found = predict(image)
        except Diverged:
            if cfg.train.on_nonfinite == "stop":
                raise
            return {}
        left = draw_detections(image, found, cfg.data.class_names, score_threshold=SCORE)
        right = draw_targets(image, sample.targets, cfg.data.class_names)
        pair = side_by_side(left, right)
        pictures[str(sample.image_id)] = pair if longest is None else shrunk(pair, longest)
    return pictures


def training_views(cfg: Config, *, images: int = 3, views: int = 4) -> np.ndarray:
    """HWC uint8 RGB: a row for each of `images` training images spread evenly over the set, as
    stored and as the first epochs show it, with its masks. ValueError where the set cannot be
    read."""
    augmented = build_dataset(cfg, "train", needs_full_masks=True)
    stored = copy.copy(augmented)
    stored.transform = None
    cells, count = [], min(images, len(augmented))
    for i in range(count):
        index = i * len(augmented) // count
        for sample in (stored[index], *(augmented[epoch, index] for epoch in range(views))):
            picture = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())  # (h,w,3)
            cells.append(draw_targets(picture, sample.targets, cfg.data.class_names))
    side = cfg.model.max_size
    return gallery(cells, columns=views + 1, cell=(side, side))
