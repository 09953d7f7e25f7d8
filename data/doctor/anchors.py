"""How many ground truths the anchors of a config can cover."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.doctor.findings import Findings
from data.doctor.split import Split
from data.schema import ModelConfig
from layers.anchors import STRIDES, level_shapes, make_anchors
from layers.boxes import corners, pairwise_iou

SAMPLED_BOXES = 5_000  # the standard error of the coverage is then below 0.7 %
POSITIVE_IOU = 0.5
LOW_COVERAGE = 0.8


def check_coverage(split: Split, model: ModelConfig, found: Findings) -> None:
    """Share of the ground truths whose best anchor reaches IoU 0.5, over at most SAMPLED_BOXES of
    them."""
    relative = _relative_sides(split)
    if not len(relative):
        return  # which check_usable() tells
    sampled = len(relative) > SAMPLED_BOXES
    if sampled:
        chosen = np.random.default_rng(0).choice(len(relative), SAMPLED_BOXES, replace=False)
        relative = relative[chosen]
    best = _best_overlaps(relative, model)
    covered = float((best >= POSITIVE_IOU).float().mean())
    size = torch.from_numpy(np.sqrt(relative[:, 2] * relative[:, 3])) * model.max_size
    median = float(size.median())
    where = f"the {split.name} split"
    what = (
        f"has {covered:.1%} of {'a sample of ' if sampled else ''}{len(best)} ground truths under "
        f"an anchor of IoU >= {POSITIVE_IOU} at {model.max_size} px input (sqrt of box area: "
        f"median {median:.0f} px)"
    )
    if covered >= LOW_COVERAGE:
        found.note(what, where)
        return
    uncovered = (best < POSITIVE_IOU).numpy()
    missed = float(size[uncovered].median())
    what += f"; the uncovered ones have a median of {missed:.0f} px"
    fix = (
        "set model.anchor_scales near their size (they are pixels of the input), or a larger "
        "model.max_size"
    )
    thin = _thin(relative[uncovered, 2] / relative[uncovered, 3], model)
    if len(thin) > uncovered.sum() / 2:
        what += f", {len(thin)} of them are too long or too thin for any scale"
        fix = f"set {_ratios(thin, model)}"
    elif (between := _between(relative[uncovered], model)) > uncovered.sum() / 2:
        what += (
            f", {between} of them lie between the places of anchors, which are {STRIDES[0]} px or "
            "more apart"
        )
        fix = "a larger model.max_size brings objects nearer to an anchor"
    found.warning(f"{what}, and learn from one anchor each at most", where, fix)


def overlaps_at(
    sides: np.ndarray, model: ModelConfig, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """(N,K) IoU of boxes, (N,2) width and height in pixels of the input, with the K anchors that
    have one place on every level.

    shift: how far the anchors' centre lies from the box's, (x, y) in steps of their level; a box
    is at most half a step from the nearest.
    """
    scales, ratios = model.anchor_scales, model.anchor_ratios
    anchors = make_anchors(
        [(1, 1)] * len(scales),
        scales,
        ratios,
        image_size=model.max_size,
        square=model.square_anchors,
    )
    of_anchors = anchors[:, 2:].double().numpy() * model.max_size  # (K,2)
    step = np.repeat(STRIDES[: len(scales)], [len(level) * len(ratios) for level in scales])
    smaller = np.minimum(sides[:, None], of_anchors)  # (N,K,2)
    reach = (sides[:, None] + of_anchors) / 2 - np.outer(step, np.abs(shift))
    shared = np.clip(np.minimum(smaller, reach), 0, None).prod(-1)
    return shared / (sides.prod(1)[:, None] + of_anchors.prod(1) - shared)


def _between(relative: np.ndarray, model: ModelConfig) -> int:
    """How many of these boxes other scales would not help: an anchor at their centre would cover
    them, or one of their own size would not, a quarter of the finest step away."""
    sides = relative[:, 2:] * model.max_size
    at_centre = overlaps_at(sides, model).max(1)
    shared = np.clip(sides - STRIDES[0] / 4, 0, None).prod(1)
    of_own_size = shared / (2 * sides.prod(1) - shared)
    return int(((at_centre >= POSITIVE_IOU) | (of_own_size < POSITIVE_IOU)).sum())


def _thin(shapes: np.ndarray, model: ModelConfig) -> np.ndarray:
    """Those of the shapes, width / height in the input, that no anchor of any scale covers.

    Boxes of one centre whose shapes differ by the factor q have an IoU of at most
    1 / (2 sqrt(q) - 1), where the areas are equal.
    """
    own = np.array([1.0] if model.square_anchors else model.anchor_ratios)
    factor = np.exp(np.abs(np.log(shapes[:, None]) - np.log(own))).min(1)
    return shapes[1 / (2 * np.sqrt(factor) - 1) < POSITIVE_IOU]


def _ratios(thin: np.ndarray, model: ModelConfig) -> str:
    """The settings that bring the median shape of the long boxes, and of the high ones."""
    parts = (thin[thin >= 1], thin[thin < 1])
    wanted = sorted(float(f"{np.median(part):.2g}") for part in parts if len(part))
    ratios = [*(model.anchor_ratios[:1] if model.square_anchors else model.anchor_ratios), *wanted]
    square = "model.square_anchors=false and " if model.square_anchors else ""
    return f"{square}model.anchor_ratios={ratios} (width / height in the input)"


def _relative_sides(split: Split) -> np.ndarray:
    """(N,4) float64: x, y, width and height of the ground truths, as shares of their image."""
    rows = []
    for annotation in split.annotations:
        if not annotation.get("iscrowd"):
            image = split.images[annotation["image_id"]]
            rows.append([*annotation["bbox"], image["width"], image["height"]])
    sides = np.array(rows, np.float64).reshape(-1, 6)
    return sides[:, :4] / sides[:, [4, 5, 4, 5]]


def _best_overlaps(relative: np.ndarray, model: ModelConfig) -> Tensor:
    """(N,) IoU of each box with its best anchor."""
    boxes = torch.from_numpy(
        np.concatenate([relative[:, :2], relative[:, :2] + relative[:, 2:]], axis=1)
    ).float()
    anchors = corners(
        make_anchors(
            level_shapes(model.max_size),
            model.anchor_scales,
            model.anchor_ratios,
            image_size=model.max_size,
            square=model.square_anchors,
            offset=model.anchor_offset,
            strides=None if model.anchor_offset else STRIDES,
        )
    )
    if not len(boxes):
        return torch.zeros(0)
    return torch.cat([pairwise_iou(part, anchors).amax(1) for part in boxes.split(128)])
