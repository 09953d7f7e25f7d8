"""What training does to a picture at the network's size, with its masks: turning it upside down,
rotating it, and pasting objects of another picture onto it.

S is the side of the network's input, M the instances. Random numbers come from torch's default CPU
generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MASK_BYTES = 64 << 20  # of float masks that are rotated at once


@dataclass(frozen=True)
class Content:
    """A picture (3,S,S) uint8 with boxes (M,4) float32 XYXY in its pixels, masks (M,S,S) bool,
    labels (M,) int64 and crowd (M,) bool."""

    image: Tensor
    boxes: Tensor
    masks: Tensor
    labels: Tensor
    crowd: Tensor

    def select(self, chosen: Tensor) -> Content:
        """Those instances: (M,) bool."""
        return replace(
            self,
            boxes=self.boxes[chosen],
            masks=self.masks[chosen],
            labels=self.labels[chosen],
            crowd=self.crowd[chosen],
        )


def upside_down(content: Content) -> Content:
    """Rows in the opposite order."""
    side = content.image.shape[-1]
    x1, y1, x2, y2 = content.boxes.unbind(1)
    return replace(
        content,
        image=content.image.flip(1),
        masks=content.masks.flip(1),
        boxes=torch.stack([x1, side - y2, x2, side - y1], 1),
    )


def rotated(
    content: Content, degrees: float, aspect: float, fill: np.ndarray, min_side: float
) -> Content:
    """Turned clockwise about the middle, bilinearly, `fill` (3,) uint8 RGB where nothing comes into
    view. aspect: width / height of the picture before it was squeezed to S x S; the turn is that of
    the unsqueezed one. Instances that leave the view go, boxes are those of the masks."""
    angle = math.radians(degrees)
    # output to input, coordinates -1..1, in which a step across is `aspect` steps down
    across, down = math.sin(angle) / aspect, -math.sin(angle) * aspect
    matrix = torch.tensor([[math.cos(angle), across, 0.0], [down, math.cos(angle), 0.0]])
    side = content.image.shape[-1]
    grid = F.affine_grid(matrix[None], [1, 1, side, side], align_corners=False)
    ground = torch.from_numpy(fill.astype(np.float32))[:, None, None]
    image = _sampled(content.image.float() - ground, grid) + ground
    parts = content.masks.split(max(1, MASK_BYTES // (4 * side * side)))
    masks = [_sampled(part.float(), grid) >= 0.5 for part in parts if len(part)]
    turned = replace(
        content,
        image=image.round_().clamp_(0, 255).to(torch.uint8),
        masks=torch.cat(masks) if masks else content.masks,
    )
    return tightened(turned, min_side)


def _sampled(planes: Tensor, grid: Tensor) -> Tensor:
    """(N,S,S) at the places of a grid (1,S,S,2); 0 outside."""
    return F.grid_sample(planes[None], grid, "bilinear", "zeros", align_corners=False)[0]


def pasted(content: Content, other: Content, chosen: Tensor, min_side: float) -> Content:
    """The chosen instances (M',) bool of another picture pasted over this one, pixel for pixel
    (Ghiasi et al. 2021, Simple Copy-Paste). What they hide belongs to no mask any more: instances
    that are hidden go, and the boxes of those hidden in part are those of their masks."""
    above = other.select(chosen)
    cover = above.masks.any(0)  # (S,S)
    left = content.masks & ~cover
    changed = (left != content.masks).flatten(1).any(1)
    below = replace(content, image=torch.where(cover, other.image, content.image), masks=left)
    below = tightened(below, min_side, changed)
    return replace(
        below,
        boxes=torch.cat([below.boxes, above.boxes]),
        masks=torch.cat([below.masks, above.masks]),
        labels=torch.cat([below.labels, above.labels]),
        crowd=torch.cat([below.crowd, above.crowd]),
    )


def tightened(content: Content, min_side: float, changed: Tensor | None = None) -> Content:
    """Boxes of the `changed` instances (M,) bool, None = all, as their masks have them; without
    those that have no pixel left, or a side below min_side pixels."""
    rows, columns = content.masks.any(2), content.masks.any(1)  # (M,S)
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    found = torch.stack([left, top, right, bottom], 1).to(content.boxes.dtype)
    boxes = found if changed is None else torch.where(changed[:, None], found, content.boxes)
    sides = found[:, 2:] - found[:, :2]
    stays = rows.any(1) & (sides >= min_side).all(1)
    if changed is not None:
        stays |= ~changed
    return replace(content, boxes=boxes).select(stays)


def _ends(filled: Tensor) -> tuple[Tensor, Tensor]:
    """(M,S) bool -> the first filled place, and the one behind the last."""
    side = filled.shape[1]
    number = filled.int()
    return number.argmax(1), side - number.flip(1).argmax(1)


def draw_chosen(crowd: Tensor) -> Tensor:
    """(M,) bool: each instance with probability 1/2, at least one where there is one; no crowd."""
    chosen = (torch.rand(len(crowd)) < 0.5) & ~crowd
    free = torch.nonzero(~crowd)[:, 0]
    if len(free) and not chosen.any():
        chosen[free[torch.randint(len(free), (1,))]] = True
    return chosen
