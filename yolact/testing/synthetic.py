"""A detector without a network: per-image records drawn from a few numbers, so that its true AP can
be had from very many images."""

from __future__ import annotations

import numpy as np

from yolact.engine.metrics import THRESHOLDS
from yolact.engine.records import AREAS, Found, Records, Truth

RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])


def synthetic_records(
    images: int,
    *,
    classes: int = 1,
    truths: float = 4,
    wrong: float = 4,
    skill: float = 0.0,
    set_seed: int = 0,
    run_seed: int = 0,
    image_skill: np.ndarray | float = 0.0,
) -> Records:
    """set_seed draws the set (ground truth, how hard images and instances are); run_seed what one
    trained model makes of it.

    skill and image_skill (images,) raise the IoU of detections in logits. truths, wrong: mean
    instances and false detections an image.
    """
    on_set, on_run = (
        np.random.default_rng([set_seed, images]),
        np.random.default_rng([set_seed, run_seed, 1]),
    )
    image = np.repeat(np.arange(images), on_set.poisson(truths, images)).astype(np.int32)
    label = on_set.integers(0, classes, len(image)).astype(np.int32)
    area = np.exp(on_set.normal(np.log(60**2), 1.3, len(image)))
    ease = 1.0 + 0.7 * on_set.normal(size=images)[image] + 0.8 * on_set.normal(size=len(image))
    truth = Truth(
        image, label, area.astype(np.float32), (area < RANGES[:, :1]) | (area > RANGES[:, 1:])
    )
    ease = (
        ease
        + skill
        + (image_skill[image] if isinstance(image_skill, np.ndarray) else image_skill)
        + 0.5 * on_run.normal(size=len(image))
    )
    iou = 1 / (1 + np.exp(-ease))
    score = 1 / (1 + np.exp(-(ease + on_run.normal(size=len(image)))))
    extra = np.repeat(np.arange(images), on_run.poisson(wrong, images)).astype(np.int32)
    score = np.concatenate([score, on_run.beta(1, 3, len(extra))])
    areas = np.concatenate([area, np.exp(on_run.normal(np.log(60**2), 1.3, len(extra)))])
    iou = np.concatenate([iou, np.zeros(len(extra))])
    inside = (areas >= RANGES[:, :1]) & (areas <= RANGES[:, 1:])
    right = inside[:, None] & (iou >= np.array(THRESHOLDS)[:, None] / 100)
    rows = np.concatenate([np.arange(len(image)), np.full(len(extra), -1)])
    found_image = np.concatenate([image, extra])
    found_label = np.concatenate([label, on_run.integers(0, classes, len(extra)).astype(np.int32)])
    order = np.lexsort((-score, found_image, found_label))
    right, ignored = right[..., order], np.repeat(~inside[:, None], len(THRESHOLDS), 1)[..., order]
    found = Found(
        found_image[order],
        found_label[order],
        score[order],
        areas[order].astype(np.float32),
        right,
        ignored,
        np.where(right[:, 0], iou[order], 0).astype(np.float32),
        iou[order].astype(np.float32),
        np.where(iou >= np.array(THRESHOLDS)[:, None] / 100, rows, -1)[:, order].astype(np.int32),
    )
    assert len(AREAS) == len(RANGES)
    names = tuple(f"class {c}" for c in range(classes))
    return Records(
        tuple(range(images)), tuple(range(classes)), names, 100, truth, {"mask": found}, {}
    )
