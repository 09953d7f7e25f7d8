"""The losses that have no alternatives: semantic segmentation and the mask-IoU regression of
YOLACT++. Each returns a sum (0-d)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.losses.mask import read_target
from layers.masks import crop


def semantic_loss(
    logits: Tensor, masks: Tensor, image: Tensor, labels: Tensor, keep: Tensor
) -> Tensor:
    """Binary cross-entropy of every class map, summed over images and classes, divided by h*w
    (YOLACT, section 3.3).

    logits (B,C,h,w); masks (M,h,w) of all images, bool or uint8 coverages (extras.coverage), with
    image (M,), labels (M,) 0-based; rows where keep (M,) is False (crowds) are left out. A class's
    target is the union of its instances' masks: of coverages the sum, at most 1."""
    batch, classes, h, w = logits.shape
    covered = logits.new_zeros(batch * classes + 1, h * w)  # the last row takes what is left out
    slot = torch.where(keep, image * classes + labels, batch * classes)
    covered.index_add_(0, slot, read_target(masks.flatten(1), covered.dtype))
    target = covered[:-1].clamp(max=1).view_as(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / (h * w)


def mask_iou_targets(soft: Tensor, target: Tensor) -> Tensor:
    """(N,) intersection over union of soft masks (N,H,W), cut at 0.5, with the ground truth (N,H,W)
    in {0,1}; 0 where both are empty."""
    with torch.no_grad():
        mask = soft > 0.5
        truth = target > 0.5
        intersection = (mask & truth).sum((1, 2))
        union = (mask | truth).sum((1, 2))
        return intersection / union.clamp(min=1)


class HasMasks(Protocol):
    """logits (N,H,W), of_iou (N,H,W) binary or uint8 coverages, boxes (N,4) XYXY relative."""

    logits: Tensor
    of_iou: Tensor
    boxes: Tensor


def mask_quality(instances: HasMasks) -> Tensor:
    """(N,) IoU of masks, cropped to their boxes and cut at 0.5, with the ground truth."""
    soft = crop(instances.logits.sigmoid(), instances.boxes)
    return mask_iou_targets(soft, read_target(instances.of_iou, soft.dtype))


def soft_mask_iou(soft: Tensor, target: Tensor) -> Tensor:
    """(N,) sum of minima over sum of maxima of soft masks and ground truth, both (N,H,W) in [0,1]:
    1 where they are equal, and 0 where both are empty."""
    with torch.no_grad():
        smaller, larger = torch.minimum(soft, target), torch.maximum(soft, target)
        return smaller.sum((1, 2)) / larger.sum((1, 2)).clamp(min=1e-6)


class MaskIoULoss:
    """Regression of each instance's mask IoU (YOLACT++, Bolya et al. 2020, section 6.1; after Mask
    Scoring R-CNN, Huang et al. 2019).

    Borrows the network, (n,1,H,W) -> (n,C), whose parameters stay the model's. The gradient also
    flows into the masks, as published. Ground-truth masks of at most min_area prototype pixels have
    weight 0: they pass through the network all the same, so that choosing them needs no
    synchronisation and every parameter has a gradient."""

    def __init__(self, net: Callable[[Tensor], Tensor], *, min_area: float = 25.0):
        self.net = net
        self.min_area = min_area

    def __call__(self, logits: Tensor, target: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """logits (N,H,W), target (N,H,W) in {0,1} or uint8 coverages, boxes (N,4) XYXY relative,
        labels (N,) 0-based -> sum of smooth L1 (beta 1). The IoU of coverages is that of
        soft_mask_iou."""
        soft = crop(logits.sigmoid(), boxes)
        predicted = self.net(soft[:, None]).gather(1, labels[:, None])[:, 0]  # (N,)
        iou_of = soft_mask_iou if target.dtype == torch.uint8 else mask_iou_targets
        truth = read_target(target, soft.dtype)
        wrong = F.smooth_l1_loss(
            predicted, iou_of(soft, truth).to(predicted.dtype), reduction="none"
        )
        counted = truth.sum((1, 2)) > self.min_area
        return (wrong * counted).sum()
