"""ATSS: anchors chosen by a threshold that each ground truth sets for itself, on any measure of
overlap.

B images, A anchors, M ground truths (padded to the largest image of a batch), K candidates of each:
k from every pyramid level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from layers.assigners.base import (
    BACKGROUND,
    HOST_ELEMENTS,
    IGNORED,
    Assignment,
    BatchAssigner,
    crowd_share,
    on_host,
    register_assigner,
)
from layers.assigners.mask_iou import mask_overlap
from layers.boxes import area, pairwise_intersection, pairwise_iou
from layers.records import Bound

Measure = Literal["iou", "diou", "giou", "maiou", "gmaiou"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
POLYGON_OF = {"maiou": "box", "gmaiou": "mask"}
NEAR_EDGE = 0.01  # pixels that an anchor's centre must be inside a box by, as in the published code
LOWEST = torch.iinfo(torch.int64).min


@register_assigner(
    "atss",
    bounds={"k": Bound("[1, inf)"), "crowd": Bound("[0, 1]")},
    source="ATSS (Zhang et al., CVPR 2020), algorithm 1; mask-aware IoU as Oksuz et al., BMVC 2021",
)
class ATSS(BatchAssigner):
    """Adaptive training sample selection: a threshold that each ground truth sets for itself.

    The candidates of a ground truth are, on each pyramid level, the k anchors (all, if there are
    fewer) whose centres are nearest to its own. Those are positive whose overlap reaches mean +
    standard deviation over all its candidates and whose centre lies inside its box. An anchor that
    several claim goes to the one of highest overlap. Nothing is claimed by force: a ground truth
    may get no anchor. Equal distances go to the lower anchor, equal overlaps to the lower ground
    truth.

    iou       'iou', 'diou', 'giou', 'maiou' (mask-aware IoU) or 'gmaiou' (IoU of anchor and mask);
              the last two read masks, and a ground truth none of whose candidates touches its mask
              gets no anchor
    masks     'full' = at network input size; 'prototype' = those the mask loss reads, which cost no
              memory but change some assignments
    rounding  of mask areas, see layers.assigners.mask_iou
    crowd     as in max_iou: background anchors of which more than this lies inside one crowd region
              are ignored; 1 = off

    The overlap of an anchor that no ground truth has is 0: it is never computed.

    Example: candidates of overlap 0.8, 0.6, 0.2, 0.0 have mean 0.4 and deviation 0.365: the first
    alone is positive.
    """

    def __init__(
        self,
        *,
        k: int = 9,
        iou: Measure = "iou",
        masks: Literal["full", "prototype"] = "full",
        rounding: Literal["reference", "exact"] = "reference",
        crowd: float = 0.7,
    ):
        self.needs_masks = iou in POLYGON_OF
        if not self.needs_masks and (masks, rounding) != ("full", "reference"):
            raise ValueError(
                f"masks and rounding belong to iou='maiou' and iou='gmaiou'; iou={iou!r} reads no "
                "masks"
            )
        self.prototype_masks = masks == "prototype"
        self.k, self.iou, self.rounding, self.crowd = k, iou, rounding, crowd

    def some_images(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        boxes: Tensor,
        real: Tensor,
        crowd: Tensor,
        masks: Sequence[Tensor] | None,
    ) -> Assignment:
        # As max_iou, this reads no value back to the host: padding and crowds have candidates like
        # any other box, and no claim.
        assert sum(level_sizes) == anchors.shape[0], (
            f"levels of {tuple(level_sizes)} anchors do not make {anchors.shape[0]}"
        )
        if self.needs_masks and (masks is None or any(m is None for m in masks)):
            raise ValueError(
                f"assigner {self.expression or type(self).__name__!r} compares anchors with masks, "
                "but these targets have none: use atss(iou='iou'), or a data set with masks"
            )
        candidates = nearest_anchors(anchors, level_sizes, boxes, self.k)  # (b,M,K)
        rects = anchors[candidates]  # (b,M,K,4)
        overlap = self._overlap(rects, boxes, masks)  # (b,M,K)
        wide = overlap.double()  # in float32 the mean of equal numbers may exceed them
        mean = wide.mean(2, keepdim=True)  # (b,M,1)
        threshold = (
            mean + ((wide - mean).square().sum(2, keepdim=True) / max(1, wide.shape[2] - 1)).sqrt()
        )
        positive = (wide >= threshold) & _centre_inside(rects, boxes) & real[..., None]
        if self.needs_masks:
            positive &= threshold > 0  # 0: the mask is empty, or lies where no candidate is
        found = _settle(candidates, overlap, positive, anchors.shape[0])
        if self.crowd < 1 and boxes.shape[1]:
            inside = crowd_share(boxes, crowd, anchors)
            ignored = (found.gt_index < 0) & (inside > self.crowd)
            found.gt_index = found.gt_index.masked_fill(ignored, IGNORED)
        return found

    def _overlap(self, rects: Tensor, boxes: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        """(b,M,K,4) candidates of boxes (b,M,4) -> (b,M,K)."""
        if not self.needs_masks:
            return _box_overlap(self.iou, rects, boxes)
        assert masks is not None  # batch() refuses targets without
        # One image at a time: each has its own number of masks, and to bring them side by side
        # would copy them all.
        overlap = rects.new_zeros(rects.shape[:3])
        for b, own in enumerate(masks):
            m = own.shape[0]
            overlap[b, :m] = mask_overlap(
                rects[b, :m],
                boxes[b, :m],
                own,
                polygon=POLYGON_OF[self.iou],
                rounding=self.rounding,
            )
        return overlap


def nearest_anchors(anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, k: int) -> Tensor:
    """(A,4) anchors, (b,M,4) boxes -> (b,M,K) int64: on each level the k anchors with the nearest
    centres, nearest first."""
    rows = max(1, HOST_ELEMENTS // max(1, anchors.shape[0]))
    if on_host(boxes) and boxes.shape[1] > rows:
        parts = boxes.split(rows, dim=1)
        return torch.cat([nearest_anchors(anchors, level_sizes, part, k) for part in parts], 1)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2  # (b,M,2)
    found, first = [], 0
    for size in level_sizes:
        level = anchors[first : first + size]
        place = (level[:, :2] + level[:, 2:]) / 2  # (A',2)
        # (b,M,A') each
        x, y = centre[..., 0, None] - place[:, 0], centre[..., 1, None] - place[:, 1]
        squared = x.mul_(x).add_(y.mul_(y))
        # Floats >= 0 are ordered as their bits are. The anchor's number below them settles ties,
        # the same way on every device.
        keys = (squared.view(torch.int32).long() << 32) | torch.arange(
            first, first + size, device=anchors.device
        )
        found.append(keys.topk(min(k, size), dim=2, largest=False).values & 0xFFFFFFFF)
        first += size
    return torch.cat(found, 2)


def _box_overlap(measure: str, rects: Tensor, boxes: Tensor) -> Tensor:
    """(b,M,K): IoU, generalised IoU (Rezatofighi et al. 2019) or distance IoU (Zheng et al. 2020)
    of rects (b,M,K,4) with boxes (b,M,4)."""
    boxes = boxes[..., None, :]  # (b,M,1,4)
    iou = pairwise_iou(boxes, rects)[..., 0, :]
    if measure == "iou":
        return iou
    low, high = (
        torch.minimum(rects[..., :2], boxes[..., :2]),
        torch.maximum(rects[..., 2:], boxes[..., 2:]),
    )
    tiny = torch.finfo(iou.dtype).tiny
    if measure == "giou":
        union = area(rects) + area(boxes) - pairwise_intersection(boxes, rects)[..., 0, :]
        hull = (high - low).prod(-1)  # of the smallest box around both
        return iou - (hull - union) / hull.clamp(min=tiny)
    apart = (rects[..., :2] + rects[..., 2:] - boxes[..., :2] - boxes[..., 2:]) / 2
    return iou - apart.square().sum(-1) / (high - low).square().sum(-1).clamp(min=tiny)


def _centre_inside(rects: Tensor, boxes: Tensor) -> Tensor:
    """(b,M,K) bool: whether the centre of each of rects (b,M,K,4) lies inside its box (b,M,4)."""
    centre, boxes = (rects[..., :2] + rects[..., 2:]) / 2, boxes[..., None, :]
    return torch.cat((centre - boxes[..., :2], boxes[..., 2:] - centre), -1).amin(-1) > NEAR_EDGE


def _settle(candidates: Tensor, overlap: Tensor, positive: Tensor, anchors: int) -> Assignment:
    """Gives each anchor to the claim of highest overlap: candidates, overlap, positive (b,M,K) ->
    gt_index, overlap (b,A)."""
    b, m, _ = candidates.shape
    bits = (overlap + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    # integers in the order of the floats, negative ones too; its own inverse
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    # equal overlaps: the lower ground truth
    rank = torch.arange(m - 1, -1, -1, device=overlap.device)[:, None]
    keys = ((ordered.long() << 32) | rank).masked_fill_(~positive, LOWEST)
    best = torch.full((b, anchors), LOWEST, dtype=torch.int64, device=overlap.device)
    best = best.scatter_reduce_(1, candidates.flatten(1), keys.flatten(1), "amax")  # (b,A)
    claimed = best > LOWEST
    index = torch.where(claimed, m - 1 - (best & 0xFFFFFFFF), BACKGROUND)
    ordered = (best >> 32).int()
    value = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return Assignment(index, torch.where(claimed, value, 0.0))
