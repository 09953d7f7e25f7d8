"""Anchors for the boxes of a set: those of a config, moved to their sizes and shapes. Their number
at a cell stays, so that weights of the config fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.doctor.anchors import overlaps_at
from data.schema import ModelConfig

FACTORS = 2.0 ** (np.arange(-18, 19) / 6)  # 1/8 to 8
GAIN = 0.01  # of mean IoU, under which anchors of the config stay
NEARLY = 0.02
SAMPLED = 5_000  # boxes
# steps from a box to the nearest anchor, in x and in y: the middles of both halves of what occurs
PLACES = (1 / 8, 3 / 8)


@dataclass(frozen=True)
class Anchors:
    """scales: a tuple a level, in pixels of the input. ratios: width / height. iou, before: mean
    IoU of the boxes with their best anchors, of these and of the config's, wherever boxes lie."""

    scales: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    iou: float
    before: float


def fit_anchors(boxes: np.ndarray, model: ModelConfig) -> Anchors:
    """Scales multiplied by one factor, and as many ratios as before: the quantiles of the boxes',
    where that gains more than GAIN.

    boxes (N,2) float64: width and height as shares of their images, N > 0.
    """
    if len(boxes) > SAMPLED:
        boxes = np.random.default_rng(0).choice(boxes, SAMPLED, replace=False)
    sides = boxes * model.max_size
    candidates = [model]
    if not model.square_anchors:
        middle = (np.arange(len(model.anchor_ratios)) + 0.5) / len(model.anchor_ratios)
        wide = np.quantile(np.log(sides[:, 0] / sides[:, 1]), middle)
        ratios = tuple(_round(ratio) for ratio in np.exp(wide))
        candidates.append(model.model_copy(update={"anchor_ratios": ratios}))
    best = [_scaled(sides, candidate) for candidate in candidates]
    iou, chosen = best[1] if len(best) > 1 and best[1][0] > best[0][0] + GAIN else best[0]
    before = _overlap(sides, model)
    if iou <= before + GAIN:
        return Anchors(model.anchor_scales, model.anchor_ratios, before, before)
    rounded = tuple(tuple(_round(side) for side in level) for level in chosen.anchor_scales)
    return Anchors(rounded, chosen.anchor_ratios, iou, before)


def _scaled(sides: np.ndarray, model: ModelConfig) -> tuple[float, ModelConfig]:
    """(mean IoU, the model whose scales are multiplied by a factor that gives it): the factor
    nearest to 1 of those that lack at most NEARLY, since a level of the pyramid sees objects of its
    own size best."""
    found = []
    for factor in FACTORS:
        scales = tuple(
            tuple(float(side * factor) for side in level) for level in model.anchor_scales
        )
        scaled = model.model_copy(update={"anchor_scales": scales})
        found.append((_overlap(sides, scaled), abs(np.log(factor)), scaled))
    enough = max(iou for iou, _, _ in found) - NEARLY
    iou, _, chosen = min((one for one in found if one[0] >= enough), key=lambda one: one[1])
    return iou, chosen


def _overlap(sides: np.ndarray, model: ModelConfig) -> float:
    """Mean IoU of (N,2) boxes with their best anchors, over where a box may lie between places of
    anchors. Small boxes lose by it on coarse levels, whose places are far apart."""
    found = [overlaps_at(sides, model, (x, y)) for x in PLACES for y in PLACES]
    return float(np.mean(found, axis=0).max(1).mean())


def _round(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
