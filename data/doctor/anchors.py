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
    if not split.annotations:
        return
    relative = _relative_sides(split)
    sampled = len(relative) > SAMPLED_BOXES
    if sampled:
        chosen = np.random.default_rng(0).choice(len(relative), SAMPLED_BOXES, replace=False)
        relative = relative[chosen]
    best = _best_overlaps(relative, model)
    covered = float((best >= POSITIVE_IOU).float().mean()) if len(best) else 1.0
    size = torch.from_numpy(np.sqrt(relative[:, 2] * relative[:, 3])) * model.max_size
    median = float(size.median()) if len(size) else 0.0
    where = f"the {split.name} split"
    what = (
        f"has {covered:.1%} of {'a sample of ' if sampled else ''}{len(best)} ground truths under "
        f"an anchor of IoU >= {POSITIVE_IOU} at {model.max_size} px input (sqrt of box area: "
        f"median {median:.0f} px)"
    )
    if covered >= LOW_COVERAGE:
        found.note(what, where)
        return
    missed = float(size[best < POSITIVE_IOU].median())
    found.warning(
        f"{what}; the uncovered ones have a median of {missed:.0f} px, and learn from one anchor "
        "each at most",
        where,
        "set model.anchor_scales near their size (they are pixels of the input), or a larger "
        "model.max_size",
    )


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
