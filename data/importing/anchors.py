"""Anchors for the boxes of a set: those of a config, moved to their sizes and shapes. Their number
at a cell stays, so that weights of the config fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.doctor.anchors import overlaps_by_shape
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
    scales, own = model.anchor_scales, model.anchor_ratios
    candidates = [own]
    if not model.square_anchors:
        middle = (np.arange(len(own)) + 0.5) / len(own)
        wide = np.quantile(np.log(sides[:, 0] / sides[:, 1]), middle)
        candidates.append(tuple(_round(ratio) for ratio in np.exp(wide)))
    best = [_scaled(sides, scales, ratios, model.square_anchors) for ratios in candidates]
    chosen = 1 if len(best) > 1 and best[1][0] > best[0][0] + GAIN else 0
    iou, factor = best[chosen]
    before = _overlap(sides, scales, own, model.square_anchors)
    if iou <= before + GAIN:
        return Anchors(scales, own, before, before)
    moved = tuple(tuple(_round(side * factor) for side in level) for level in scales)
    return Anchors(moved, candidates[chosen], iou, before)


def _scaled(
    sides: np.ndarray,
    scales: Sequence[Sequence[float]],
    ratios: Sequence[float],
    square: bool,
) -> tuple[float, float]:
    """(mean IoU, the factor of the scales that gives it): the one nearest to 1 of those that lack
    at most NEARLY, since a level of the pyramid sees objects of its own size best."""
    found = [
        (_overlap(sides, [[side * f for side in level] for level in scales], ratios, square), f)
        for f in FACTORS.tolist()
    ]
    enough = max(found)[0] - NEARLY
    return min((one for one in found if one[0] >= enough), key=lambda one: abs(np.log(one[1])))


def _overlap(
    sides: np.ndarray,
    scales: Sequence[Sequence[float]],
    ratios: Sequence[float],
    square: bool,
) -> float:
    """Mean IoU of (N,2) boxes with their best anchors, over where a box may lie between places of
    anchors. Small boxes lose by it on coarse levels, whose places are far apart."""
    shifts = [(x, y) for x in PLACES for y in PLACES]
    found = sum(overlaps_by_shape(sides, scales, ratios, square, shift) for shift in shifts)
    return float(np.asarray(found).max(1).mean()) / len(shifts)


def _round(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
