"""Generalised mask-aware IoU: how well an anchor fits a ground truth, seen through the ground
truth's mask.

    GmaIoU(b, g, m, P) = |P| / |m| * |b and m| / |b or P|

for anchor b, ground-truth box g, mask m and polygon P (Oksuz et al., "Mask-aware IoU for Anchor
Assignment in Real-time Instance Segmentation", BMVC 2021, where P is the box, and its generalised
form). P = box scales the IoU of two boxes by how much of the mask the anchor holds; P = mask is the
IoU of the anchor with the mask itself.

N masks, K anchors for each of them, h x w pixels of a mask. Boxes are corners in pixels of the
masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layers.assigners.base import on_host
from layers.boxes import area, pairwise_intersection

POLYGONS = ("box", "mask")
ROUNDINGS = ("reference", "exact")
SNAP = 2**12  # parts of a pixel


def gma_iou(
    anchors: Tensor,
    boxes: Tensor,
    masks: Tensor,
    *,
    polygon: str = "mask",
    rounding: str = "reference",
) -> Tensor:
    """(A,4) anchors, (M,4) boxes, (M,h,w) bool masks -> (M,A).

    polygon   'box' (mask-aware IoU) or 'mask' (box against mask)
    rounding  of |b and m|: 'reference' moves the anchor's edges to the nearest pixel edges, halves
              to even, as the published code does; 'exact' counts covered parts of pixels. Every
              other area is that of the unrounded box.

    Anchors and boxes may reach outside the image, where no mask has pixels. An empty mask gives 0.
    ValueError for an unknown option or counts or types that differ.
    """
    for name, value, known in (("polygon", polygon, POLYGONS), ("rounding", rounding, ROUNDINGS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} must be {' or '.join(map(repr, known))}")
    if boxes.shape[0] != masks.shape[0] or masks.dim() != 3:
        raise ValueError(
            f"{boxes.shape[0]} boxes and masks of shape {tuple(masks.shape)}: give one (h,w) mask "
            "a box"
        )
    if masks.dtype != torch.bool or not (anchors.is_floating_point() and boxes.is_floating_point()):
        raise ValueError(
            f"anchors and boxes must be floating-point and masks bool, got {anchors.dtype}, "
            f"{boxes.dtype}, {masks.dtype}"
        )
    each = anchors[None].expand(boxes.shape[0], -1, -1)  # (M,A,4)
    return mask_overlap(each, boxes, masks, polygon=polygon, rounding=rounding)


def mask_overlap(
    rects: Tensor, boxes: Tensor, masks: Tensor, *, polygon: str, rounding: str
) -> Tensor:
    """gma_iou of each mask with its own anchors: rects (N,K,4), boxes (N,4), masks (N,h,w) bool ->
    (N,K)."""
    integrals = integral_images(masks)
    # (N,K) |b and m|
    covered = integrals.count(rects) if rounding == "reference" else integrals.coverage(rects)
    pixels = integrals.total()[:, None].to(rects.dtype)  # (N,1) |m|
    if polygon == "mask":
        union = area(rects) + pixels - covered
        return covered / union.clamp_(min=torch.finfo(union.dtype).tiny)
    box = area(boxes)[:, None]  # (N,1)
    union = area(rects) + box - pairwise_intersection(boxes[:, None], rects)[:, 0]
    return covered / pixels.clamp(min=1) * box / union.clamp_(min=torch.finfo(union.dtype).tiny)


@dataclass
class IntegralImages:
    """Integral images of N masks in one vector: entry (y,x) of mask n, the pixels above y and left
    of x inside the mask's window, is values[start[n] + y * (width[n] + 1) + x] for 0 <= y <=
    height[n], 0 <= x <= width[n].

    values is int32; all other tensors are (N,1) int64. top, left: where the window lies in the
    mask."""

    values: Tensor
    start: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def total(self) -> Tensor:
        """(N,) int32: the pixels of each mask."""
        return self._at(self.height, self.width)[:, 0]

    def count(self, rects: Tensor) -> Tensor:
        """(N,K,4) rectangles -> (N,K): the mask's pixels inside each, its edges moved to the
        nearest pixel edges (halves to even)."""
        # an edge halfway between pixels may have left it by a bit of float32
        edges = (rects * SNAP).round_().div_(SNAP).round_()
        left, top, right, bottom = self._into(edges).long().unbind(-1)  # (N,K) each
        inside = (
            self._at(bottom, right)
            + self._at(top, left)
            - self._at(top, right)
            - self._at(bottom, left)
        )
        return inside.to(rects.dtype)

    def coverage(self, rects: Tensor) -> Tensor:
        """(N,K,4) rectangles -> (N,K): the area of the mask inside each, parts of pixels
        included."""
        # Inside a pixel the integral of a constant is bilinear, so interpolating the table is
        # exact. In float64: its entries are large.
        left, top, right, bottom = self._into(rects.double()).unbind(-1)
        between = self._between
        inside = (
            between(bottom, right)
            + between(top, left)
            - between(top, right)
            - between(bottom, left)
        )
        return inside.to(rects.dtype)

    def _into(self, rects: Tensor) -> Tensor:
        """Rectangles of the mask -> the part of each that lies in the window, in the window's
        pixels."""
        # (N,2) each
        corner, size = torch.cat((self.left, self.top), 1), torch.cat((self.width, self.height), 1)
        inside = (rects - corner.repeat(1, 2)[:, None]).clamp_(min=0)
        return inside.minimum(size.repeat(1, 2)[:, None].to(inside.dtype))

    def _at(self, y: Tensor, x: Tensor) -> Tensor:
        return self.values[self.start + y * (self.width + 1) + x]

    def _between(self, y: Tensor, x: Tensor) -> Tensor:
        above, before = y.long(), x.long()  # floors: both are >= 0
        below, after = (above + 1).minimum(self.height), (before + 1).minimum(self.width)
        upper = torch.lerp(
            self._at(above, before).double(), self._at(above, after).double(), x - before
        )
        lower = torch.lerp(
            self._at(below, before).double(), self._at(below, after).double(), x - before
        )
        return torch.lerp(upper, lower, y - above)


def integral_images(masks: Tensor) -> IntegralImages:
    """(N,h,w) bool -> their integral images, on the CPU of each mask's tight window only.

    A device would have to report the windows to the host first, which waits for it, and sums whole
    masks in less time than that.
    """
    return windows(masks) if on_host(masks) else whole(masks)


def whole(masks: Tensor) -> IntegralImages:
    n, h, w = masks.shape
    # (N,h+1,w+1)
    values = F.pad(masks.cumsum(2, dtype=torch.int32).cumsum(1, dtype=torch.int32), (1, 0, 1, 0))
    zero = torch.zeros((n, 1), dtype=torch.int64, device=masks.device)
    start = torch.arange(n, device=masks.device)[:, None] * ((h + 1) * (w + 1))
    return IntegralImages(values.flatten(), start, zero, zero, zero + h, zero + w)


def windows(masks: Tensor) -> IntegralImages:
    top, bottom, left, right = tight_windows(masks)
    height, width = bottom - top, right - left
    entries = (height + 1) * (width + 1)
    start = entries.cumsum(0) - entries
    values = torch.zeros(int(entries.sum()), dtype=torch.int32)
    table, pixels = values.numpy(), masks.view(torch.uint8).numpy()
    places = torch.stack((start, top, bottom, left, right), 1).tolist()
    for mask, (first, y1, y2, x1, x2) in zip(pixels, places, strict=True):
        if y2 > y1:  # OpenCV makes this table in a sixth of the time of two cumulative sums
            size = (y2 - y1 + 1, x2 - x1 + 1)
            cv2.integral(
                mask[y1:y2, x1:x2],
                table[first : first + size[0] * size[1]].reshape(size),
                cv2.CV_32S,
            )
    return IntegralImages(values, *(t[:, None] for t in (start, top, left, height, width)))


def tight_windows(masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N,h,w) bool on the CPU -> top, bottom, left, right (N,) int64: the rows top:bottom and
    columns left:right that hold all pixels of a mask; all 0 for an empty mask."""
    n, h, w = masks.shape
    pixels = masks.view(torch.uint8)  # of which a maximum takes a tenth of the time of any()
    rows = pixels.amax(2) if w else pixels.new_zeros((n, h))  # (N,h)
    top, bottom = _extent(rows)
    columns = np.zeros((n, w), np.uint8)
    for mask, band, y1, y2 in zip(
        pixels.numpy(), columns, top.tolist(), bottom.tolist(), strict=True
    ):
        # the band alone: reading the masks is what takes the time
        mask[y1:y2].any(0, out=band.view(bool))
    return top, bottom, *_extent(torch.from_numpy(columns))


def _extent(marks: Tensor) -> tuple[Tensor, Tensor]:
    """(N,length) uint8 -> (N,) index of the first 1 and of the place after the last; 0 and 0 where
    there is none."""
    n, length = marks.shape
    if length == 0:
        return marks.new_zeros(n, dtype=torch.int64), marks.new_zeros(n, dtype=torch.int64)
    first, last = marks.argmax(1), length - marks.flip(1).argmax(1)
    return first, torch.where(marks.amax(1) > 0, last, 0)
