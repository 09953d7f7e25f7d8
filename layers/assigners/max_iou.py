"""YOLACT's own rule: anchors by the highest IoU, and one anchor at least for every ground truth.

b images, M ground truths, A anchors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layers.assigners.base import (
    BACKGROUND,
    IGNORED,
    Assignment,
    BatchAssigner,
    crowd_share,
    on_host,
    register_assigner,
    share_in_crowd,
)
from layers.assigners.claims import HostOverlaps, claim_best_anchors
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
        forced = claim_best_anchors(iou)  # (b,A)
        claimed = iou.gather(1, forced.clamp(min=0)[:, None])[:, 0]
        return self._settle(overlap, best, forced, claimed, inside_crowd)

    def one_image(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        gt_boxes: Tensor,
        gt_masks: Tensor | None,
        crowd_boxes: Tensor,
    ) -> Assignment:
        if not (on_host(gt_boxes) and len(gt_boxes) and len(anchors)):
            return super().one_image(anchors, level_sizes, gt_boxes, gt_masks, crowd_boxes)
        overlaps = HostOverlaps(anchors, gt_boxes)
        forced, claimed = overlaps.claim_best_anchors()
        is_crowd = torch.ones((1, len(crowd_boxes)), dtype=torch.bool)
        inside_crowd = crowd_share(crowd_boxes[None], is_crowd, anchors)[0]
        return self._settle(overlaps.highest, overlaps.best, forced, claimed, inside_crowd)

    def _settle(
        self, overlap: Tensor, best: Tensor, forced: Tensor, claimed: Tensor, inside_crowd: Tensor
    ) -> Assignment:
        """The highest IoU of every anchor and whose it is, the ground truth that claimed it (-1:
        none) and their IoU, its share in a crowd: (...,A) each."""
        index = torch.where(
            overlap >= self.positive,
            best,
            torch.where(overlap < self.negative, BACKGROUND, IGNORED),
        )
        index = torch.where(forced >= 0, forced, index)
        overlap = torch.where(forced >= 0, claimed, overlap.clamp(min=0))
        if self.crowd < 1:
            index = index.masked_fill((index < 0) & (inside_crowd > self.crowd), IGNORED)
        return Assignment(index, overlap)
