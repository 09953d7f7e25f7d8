"""What training draws for a picture before a pixel is touched: colours, canvas, crop and mirroring.

The order and the distributions are those of SSD (https://arxiv.org/abs/1512.02325), and the numbers
those that torchvision's transforms.v2 draw from torch's default CPU generator. So a seed gives the
pictures that a chain of RandomPhotometricDistort, RandomZoomOut, RandomIoUCrop and
RandomHorizontalFlip gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.colours import Colours
from data.schema import AugmentConfig

# least IoU of a crop with one box at least; 1 leaves the picture alone
OVERLAPS = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0], np.float32)
TRIALS = 40  # crops drawn for one of OVERLAPS before another is drawn
NARROWEST, WIDEST = 0.5, 2.0  # width / height of a crop
LEAST_SIDE, SPREAD = 0.3, 1.0 - 0.3  # a crop's sides are 0.3 to 1 of the picture's


class Viewport(NamedTuple):
    """The part of a picture in view, in its pixels; mirrored: left and right change places.

    It may reach outside the picture.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False

    def cut(self, top: int, left: int, height: int, width: int) -> Viewport:
        """The part at (top, left) of this view, which is not mirrored; it may be larger."""
        return Viewport(self.top + top, self.left + left, height, width)

    def shrunk(self, times: int) -> Viewport:
        """The same view of a picture that is `times` smaller, where all edges are multiples."""
        top, left, height, width = (edge // times for edge in self[:4])
        return Viewport(top, left, height, width, self.mirrored)


@dataclass(frozen=True)
class Drawn:
    """One draw. boxes: (M,4) float32 XYXY in pixels of the view, not mirrored yet and inside it;
    those that the crop drops are zero."""

    colours: Colours | None
    viewport: Viewport
    boxes: Tensor

    def on_grid(self, step: int) -> Drawn:
        """The largest view inside this one whose edges are multiples of `step` pixels."""
        top, left, height, width, mirrored = self.viewport
        low, first = -(-top // step) * step, -(-left // step) * step
        high, last = (top + height) // step * step, (left + width) // step * step
        inner = Viewport(low, first, high - low, last - first, mirrored)
        boxes = moved_boxes(self.boxes, left - first, top - low, inner.width, inner.height)
        return replace(self, viewport=inner, boxes=boxes)

    def placed(self, height: int, width: int) -> Tensor:
        """The boxes (M,4) in pixels of the view resized to height x width, mirrored if it is."""
        boxes, view = self.boxes, self.viewport
        if view.mirrored:
            boxes = torch.stack(
                [view.width - boxes[:, 2], boxes[:, 1], view.width - boxes[:, 0], boxes[:, 3]], 1
            )
        return boxes * boxes.new_tensor([width / view.width, height / view.height] * 2)


def draw_augmentation(augment: AugmentConfig, height: int, width: int, boxes: Tensor) -> Drawn:
    """Draws for a picture of height x width with `boxes` (M,4) float32 XYXY in pixels."""
    colours = Colours.draw() if augment.photometric else None
    view = Viewport(0, 0, height, width)
    jitter = augment.scale_jitter
    if jitter is not None:
        view = _jittered(height, width, *jitter)
        boxes = moved_boxes(boxes, -view.left, -view.top, view.width, view.height)
    if jitter is None and augment.zoom_out and torch.rand(1) < 0.5:
        view = _canvas(height, width, augment.zoom_out_max)
        boxes = moved_boxes(boxes, -view.left, -view.top, view.width, view.height)
    # Without boxes, an IoU crop would try in vain some 240 times on average before it leaves the
    # picture alone.
    if jitter is None and augment.iou_crop and len(boxes):
        crop = _iou_crop(view.height, view.width, boxes.numpy())
        if crop is not None:
            (top, left, height, width), kept = crop
            view = view.cut(top, left, height, width)
            boxes = moved_boxes(boxes, -left, -top, width, height) * torch.from_numpy(kept)[:, None]
    if augment.flip and torch.rand(1) < 0.5:
        view = view._replace(mirrored=True)
    return Drawn(colours, view, boxes)


def moved_boxes(boxes: Tensor, right: int, down: int, width: int, height: int) -> Tensor:
    """Boxes (M,4) XYXY moved by whole pixels and cut at a canvas of width x height."""
    x, y = boxes[:, 0::2] + right, boxes[:, 1::2] + down
    return torch.stack([x.clamp(0, width), y.clamp(0, height)], 2).flatten(1)


def _canvas(height: int, width: int, largest: float) -> Viewport:
    """Where the picture lies on a canvas of up to `largest` times its sides, as a view of it."""
    times = float(1.0 + torch.rand(1) * (largest - 1.0))
    canvas_width, canvas_height = _whole(width, times), _whole(height, times)
    across, down = torch.rand(2).tolist()
    left, top = _whole(canvas_width - width, across), _whole(canvas_height - height, down)
    return Viewport(-top, -left, canvas_height, canvas_width)


def _jittered(height: int, width: int, least: float, largest: float) -> Viewport:
    """The view of a picture that a scale drawn from least..largest makes (large-scale jitter of
    Ghiasi et al. 2021): above 1 a part of the picture, below 1 a canvas around it."""
    scale = least + float(torch.rand(1)) * (largest - least)
    view_height, view_width = max(1, round(height / scale)), max(1, round(width / scale))
    down, across = torch.rand(2).tolist()
    top, left = _whole(height - view_height, down), _whole(width - view_width, across)
    return Viewport(top, left, view_height, view_width)


def _whole(length: int, share: float) -> int:
    """length x share in float32, cut to a whole number."""
    return int(np.float32(length) * np.float32(share))


def _iou_crop(
    height: int, width: int, boxes: np.ndarray
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """A crop (top, left, height, width) and which of `boxes` (M,4) have their centre in it; None to
    leave the picture alone."""
    while True:
        least = OVERLAPS[int(torch.randint(len(OVERLAPS), (1,)))]
        if least >= 1:
            return None
        # All trials are drawn at once. The generator then goes on from the last that was looked at.
        before = torch.get_rng_state()
        crops, ends = _trials(torch.rand(2 * TRIALS, 2).numpy(), height, width)
        kept, fits = _fitting(crops, boxes, least)
        first = int(fits.argmax()) if fits.any() else len(crops) - 1
        torch.set_rng_state(before)
        torch.rand(ends[first], 2)
        if fits[first]:
            left, top, right, bottom = crops[first].astype(int).tolist()
            return (top, left, bottom - top, right - left), kept[first]


def _trials(drawn: np.ndarray, height: int, width: int) -> tuple[np.ndarray, list[int]]:
    """(TRIALS,4) float32 XYXY crops, NaN where the form is out of bounds, and how many of the rows
    of `drawn` (2 x TRIALS, 2) each and those before it take: one, or two with a sound form."""
    picture = np.array([width, height], np.float32)
    sides = np.trunc((LEAST_SIDE + SPREAD * drawn) * picture)
    wide, tall = sides.T
    sound = (wide >= NARROWEST * tall) & (wide <= WIDEST * tall) & (wide > 0) & (tall > 0)
    rows, row = [], 0
    for _ in range(TRIALS):
        rows.append(row)
        row += 2 if sound[row] else 1
    corners = np.trunc((picture - sides[rows]) * np.take(drawn, np.add(rows, 1), 0, mode="clip"))
    crops = np.concatenate([corners, corners + sides[rows]], 1)
    crops[~sound[rows]] = np.nan
    return crops, [*rows[1:], row]


def _fitting(
    crops: np.ndarray, boxes: np.ndarray, least: np.floating
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the boxes (M,4) have their centre in each crop (T,4), (T,M), and which crops have an
    IoU of at least `least` with one of those (T,)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    start, end = crops[:, None, :2], crops[:, None, 2:]
    centres = np.float32(0.5) * (low + high)
    kept = ((start < centres) & (centres < end)).all(2)
    sides = (np.minimum(high, end) - np.maximum(low, start)).clip(0)
    common = sides[..., 0] * sides[..., 1]
    areas, extents = np.prod(high - low, axis=1), np.prod(end - start, axis=2)
    with np.errstate(invalid="ignore"):
        return kept, (kept & (common / (areas + extents - common) >= least)).any(1)
