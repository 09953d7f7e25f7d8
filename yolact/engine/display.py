"""Looking into a model: validation images beside their ground truth, prototypes, and how single
masks are assembled from them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.loader import build_dataset
from yolact.draw import (
    display_lincomb,
    display_prototypes,
    draw_detections,
    draw_targets,
    side_by_side,
)
from yolact.engine.predict import Predictor
from yolact.files import write_image


def explain_image(
    predictor: Predictor, image: np.ndarray, output: Path, *, prototypes: bool, lincomb: int
) -> list[Path]:
    """Pictures beside `output`: NAME_prototypes with all K of them, and NAME_lincomb_<i> for the
    `lincomb` best instances; their paths.

    image: (h,w,3) uint8 RGB.
    """
    predictions = predictor.forward(predictor.preprocess([image]))
    pictures = {}
    if prototypes:
        pictures["prototypes"] = display_prototypes(predictions.prototypes[0])
    found = predictor.instances(predictions)
    for i in range(min(lincomb, len(found.scores))):
        pictures[f"lincomb_{i + 1}"] = display_lincomb(
            predictions.prototypes[0], found.coefficients[i], found.boxes[i], image=image
        )
    paths = []
    for name, picture in pictures.items():
        paths.append(output.with_name(f"{output.stem}_{name}.png"))
        write_image(paths[-1], picture)
    return paths


def display_dataset(
    predictor: Predictor,
    output: Path,
    *,
    max_images: int = 0,
    shuffle: bool = False,
    seed: int | None = None,
    score_threshold: float = 0.15,
    top_k: int = 15,
    prototypes: bool = False,
    lincomb: int = 0,
    progress: bool = True,
    **drawing,
) -> list[Path]:
    """Draw validation images beside their ground truth into the folder `output`; max_images=0 means
    all. Returns the pictures' paths.

    shuffle takes the images in a random order (of `seed`). Raises ValueError where the data set
    cannot be read.
    """
    cfg = predictor.cfg
    dataset = build_dataset(cfg, "val", mask_sizes=[], needs_full_masks=True)
    order = list(range(len(dataset)))
    if shuffle:
        random.Random(seed).shuffle(order)
    paths = []
    for index in tqdm(order[: max_images or None], unit="image", disable=not progress):
        image, sample = dataset.load_image(index), dataset[index]
        predicted = draw_detections(
            image,
            predictor(image),
            cfg.data.class_names,
            score_threshold=score_threshold,
            top_k=top_k,
            **drawing,
        )
        paths.append(output / f"{Path(str(sample.image_id)).name}.png")
        write_image(
            paths[-1],
            side_by_side(predicted, draw_targets(image, sample.targets, cfg.data.class_names)),
        )
        if prototypes or lincomb:
            explain_image(predictor, image, paths[-1], prototypes=prototypes, lincomb=lincomb)
    return paths
