"""YOLACT's own rule: anchors by the highest IoU, and one anchor at least for every ground truth.

b images, M ground truths, A anchors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layers.assigners.base import (
    BACKGROUND,
    CHUNK_ELEMENTS,
    IGNORED,
    Assignment,
    BatchAssigner,
    register_assigner,
    share_in_crowd,
)
from layers.boxes import iou_from_intersection, pairwise_intersection
from layers.records import Bound


@register_assigner(
    "max_iou",
    bounds={"positive": Bound("(0, 1]"), "negative": Bound("[0, 1]"), "crowd": Bound("[0, 1]")},
    source="SSD (Liu et al., ECCV 2016), section 2.2, with YOLACT's ignored band and crowds",
)
class MaxIoU(BatchAssigner):
    """YOLACT's rule: the ground truth of highest IoU, and for each of them its best free anchor.

    An anchor belongs to the ground truth of highest IoU if that is at least `positive`, is
    background below `negative` and ignored between. Then every ground truth, those with the best
    remaining IoU first, claims its best anchor that no other has claimed, however low the IoU.
    Background anchors of which more than `crowd` lies inside one crowd region are ignored; crowd=1
    turns this off.

    Only overlaps count, so boxes and anchors may be in any one unit.

    Example: anchors of IoU 0.62, 0.45, 0.30 with the only ground truth get 0, -2, -1; of IoU 0.45,
    0.30 they get 0 (claimed), -1.
    """

    scale_free = True

    def __init__(self, *, positive: float = 0.5, negative: float = 0.4, crowd: float = 0.7):
        if negative > positive:
            raise ValueError(f"negative={negative} must be at most positive={positive}")
        self.positive, self.negative, self.crowd = positive, negative, crowd

    def some_images(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        boxes: Tensor,
        real: Tensor,
        crowd: Tensor,
        masks: Sequence[Tensor] | None,
    ) -> Assignment:
        # Nothing here reads a value back to the host: padding takes part in every step with an IoU
        # of -1.
        shape = (boxes.shape[0], anchors.shape[0])
        if boxes.shape[1] == 0 or anchors.shape[0] == 0:
            return Assignment(
                real.new_full(shape, BACKGROUND, dtype=torch.int64), boxes.new_zeros(shape)
            )
        intersection = pairwise_intersection(boxes, anchors)  # (b,M,A)
        inside_crowd = share_in_crowd(intersection, crowd, anchors)  # (b,A)
        iou = iou_from_intersection(intersection, boxes, anchors).masked_fill_(~real[..., None], -1)
        overlap, best = iou.max(1)  # (b,A)
        index = torch.where(
            overlap >= self.positive,
            best,
            torch.where(overlap < self.negative, BACKGROUND, IGNORED),
        )
        forced = claim_best_anchors(iou)  # (b,A)
        claimed = forced >= 0
        index = torch.where(claimed, forced, index)
        overlap = torch.where(
            claimed, iou.gather(1, forced.clamp(min=0)[:, None])[:, 0], overlap.clamp(min=0)
        )
        if self.crowd < 1:
            index = index.masked_fill((index < 0) & (inside_crowd > self.crowd), IGNORED)
        return Assignment(index, overlap)


def claim_best_anchors(iou: Tensor) -> Tensor:
    """(b,M,A) IoU, negative rows for padding -> (b,A) int64: the ground truth that claimed each
    anchor, or -1.

    In turn the ground truth with the highest IoU to any unclaimed anchor claims that anchor. Equal
    IoUs go to the lowest anchor, then to the lowest ground truth.
    """
    images, m, a = iou.shape
    # At most m - 1 anchors are claimed before a ground truth's turn, so its m best suffice, and the
    # rest is work on an (m,m) table.
    keys = _ranked_keys(iou, min(m, a))  # (b,M,k)
    candidate = a - 1 - (keys & 0xFFFFFFFF)  # (b,M,k)
    # column a: ground truths without an anchor
    claims = torch.full((images, a + 1), -1, dtype=torch.int64, device=iou.device)
    rows = torch.arange(m, device=iou.device)
    for _ in range(m):
        best = keys.amax(2)  # (b,M)
        turn = (best >> 32).argmax(1, keepdim=True)  # (b,1)
        key = best.gather(1, turn)
        anchor = torch.where(key >= 0, a - 1 - (key & 0xFFFFFFFF), a)  # (b,1)
        claims.scatter_(1, anchor, turn)
        keys.masked_fill_((candidate == anchor[..., None]) | (rows == turn)[..., None], -1)
    return claims[:, :a]


def _ranked_keys(iou: Tensor, k: int) -> Tensor:
    """(b,M,A) IoU -> (b,M,k) int64, the k best of each row: the IoU's bits above A - 1 - anchor, so
    that equal IoUs are ordered; -1 for negative IoU."""
    a = iou.shape[2]
    tail = torch.arange(a - 1, -1, -1, device=iou.device)
    flat = iou.flatten(0, 1)  # (b*M,A)
    found = []
    for part in flat.split(max(1, CHUNK_ELEMENTS // (4 * a))):
        # Floats >= 0 are ordered as their bits are; + 0.0 turns -0.0 into 0.0.
        keys = ((part + 0.0).view(torch.int32).long() << 32) | tail
        found.append(keys.masked_fill_(part < 0, -1).topk(k, dim=1).values)
    return torch.cat(found).view(*iou.shape[:2], k)
