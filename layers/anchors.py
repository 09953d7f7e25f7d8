"""Anchor boxes (YOLACT calls them priors).

One set for every pyramid level, row, column, scale and ratio, in this order. Sides are given in
pixels of the network input, so the same scales at a smaller input give relatively larger anchors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)  # of P3..P7


def level_shapes(image_size: int, levels: int = len(STRIDES)) -> list[tuple[int, int]]:
    """[(h, w)] of the feature maps P3, P4, ... for a square input: a cell for every stride, and one
    for what is left."""
    sides = [-(-image_size // (STRIDES[0] << level)) for level in range(levels)]
    return [(side, side) for side in sides]


def level_sizes(
    level_shapes: Sequence[tuple[int, int]],
    scales: Sequence[Sequence[float]],
    ratios: Sequence[float],
) -> tuple[int, ...]:
    """Anchors on each level, for level_shapes [(h, w)]; their sum is A."""
    _check(level_shapes, scales, ratios)
    return tuple(
        h * w * len(level_scales) * len(ratios)
        for (h, w), level_scales in zip(level_shapes, scales, strict=True)
    )


def make_anchors(
    level_shapes: Sequence[tuple[int, int]],
    scales: Sequence[Sequence[float]],
    ratios: Sequence[float],
    *,
    image_size: int,
    square: bool = False,
    offset: float = 0.5,
    strides: Sequence[int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """(A,4) float32 cx, cy, w, h relative to the network input.

    level_shapes  [(h, w)] feature map sizes
    scales        per level, anchor sides in pixels of an image_size x image_size input
    ratios        width / height at an unchanged area
    square        height := width, which turns the ratios into three sizes (the published base and
                  im presets)
    offset        position of the centre inside its cell: 0.5 = middle, 0 = top left corner
    strides       per level, the side of a cell in pixels; None = the input divided evenly, as
                  YOLACT. The two differ where a map's side was rounded up: 69 cells of stride 8
                  reach 2 pixels beyond an input of 550
    """
    _check(level_shapes, scales, ratios)
    # cells that the input holds
    across = (
        level_shapes if strides is None else [(image_size / s, image_size / s) for s in strides]
    )
    levels = [
        _level(shape, cells, level_scales, ratios, image_size, square, offset)
        for shape, cells, level_scales in zip(level_shapes, across, scales, strict=True)
    ]
    return torch.cat(levels).to(device=device, dtype=torch.float32)


def _level(
    shape: tuple[int, int],
    cells: tuple[float, float],
    scales: Sequence[float],
    ratios: Sequence[float],
    image_size: int,
    square: bool,
    offset: float,
) -> Tensor:
    # In float64, rounded once at the end: float32 steps would move centres and sides by an ulp from
    # the published anchors.
    side = torch.tensor(scales, dtype=torch.float64)[:, None]  # (scales,1)
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()  # (ratios,)
    width = side * root / image_size
    height = width if square else side / root / image_size
    shapes = torch.stack((width, height), -1).reshape(1, 1, -1, 2)  # (1,1,scales*ratios,2)
    (h, w), (cells_down, cells_across) = shape, cells
    y = (torch.arange(h, dtype=torch.float64) + offset) / cells_down
    x = (torch.arange(w, dtype=torch.float64) + offset) / cells_across
    centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[:, :, None]  # (h,w,1,2)
    per_cell = shapes.shape[2]
    return torch.cat(
        (centers.expand(h, w, per_cell, 2), shapes.expand(h, w, per_cell, 2)), -1
    ).reshape(-1, 4)


def _check(
    level_shapes: Sequence[tuple[int, int]],
    scales: Sequence[Sequence[float]],
    ratios: Sequence[float],
) -> None:
    if len(level_shapes) != len(scales):
        raise ValueError(
            f"{len(scales)} lists of anchor scales for {len(level_shapes)} feature maps: give one "
            "list per level"
        )
    if not ratios or min(ratios) <= 0 or any(not s or min(s) <= 0 for s in scales):
        raise ValueError(
            "anchor scales and ratios must be positive, with at least one of each on every level"
        )
