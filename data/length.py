"""The length of a training: passes over the training images, or minutes, in iterations."""

from __future__ import annotations

import math
from pathlib import Path

from data.annotations import read_coco
from data.rules import is_id
from data.schema import DataConfig, TrainConfig
from layers.problems import ProblemError

WARMUP = 10  # the warm-up lasts at most this part of a training


def training_images(data: DataConfig) -> int:
    """Images that a config trains on: with annotations, or all that its file lists under
    data.keep_empty. ProblemError where the file cannot be read."""
    content = read_coco(Path(data.root) / data.train_annotations)
    keys = (annotation.get("image_id") for annotation in content["annotations"])
    annotated = {key for key in keys if is_id(key)}
    listed = [image["id"] for image in content["images"] if is_id(image.get("id"))]
    return sum(data.keep_empty or key in annotated for key in listed)


def images_there(data: DataConfig) -> int:
    """training_images(), 0 where the file is not there or cannot be read."""
    if not data.train_annotations or not (Path(data.root) / data.train_annotations).is_file():
        return 0
    try:
        return training_images(data)
    except ProblemError:  # which the check of the data tells in full
        return 0


def with_iterations(train: TrainConfig, images: int) -> TrainConfig:
    """train.epochs turned into iterations over so many images, and switched off. Unchanged without
    epochs, or without images."""
    if train.epochs is None or not images:
        return train
    return of_iterations(train, math.ceil(train.epochs * images / train.batch_size - 1e-9))


def of_iterations(train: TrainConfig, iterations: int) -> TrainConfig:
    """A training of so many iterations, which states its length in no other way.

    lr_steps keep their share of the training, and the warm-up takes at most a tenth of it; those
    that were given beside the length (TrainConfig.keeping) stay.
    """
    share = iterations / train.iterations
    follow = {
        "lr_steps": tuple(sorted({max(1, round(step * share)) for step in train.lr_steps})),
        "warmup_iterations": min(train.warmup_iterations, iterations // WARMUP),
    }
    follow = {key: value for key, value in follow.items() if key not in train.kept}
    length = {"iterations": iterations, "epochs": None, "max_minutes": None}
    return train.model_copy(update={**follow, **length}).keeping(())
