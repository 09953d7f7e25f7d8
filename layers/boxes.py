"""Box forms, the offsets that the network predicts, and overlaps between boxes.

Two forms occur: corners (x1, y1, x2, y2) and centres (cx, cy, w, h). Nothing here depends on the
unit; areas are (x2-x1)(y2-y1).
"""

from __future__ import annotations

import torch
from torch import Tensor

CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def center_size(boxes: Tensor) -> Tensor:
    """(...,4) corners -> (...,4) centres."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def corners(boxes: Tensor) -> Tensor:
    """(...,4) centres -> (...,4) corners."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((center - half, center + half), -1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets that decode() turns back into the boxes (SSD, Liu et al. 2016, eq. 2, with variances
    0.1 and 0.2).

    boxes (...,4) corners and anchors (...,4) centres in the same unit -> (...,4). A box without
    width or height gives -inf.
    """
    target = center_size(boxes)
    shift = (target[..., :2] - anchors[..., :2]) / (CENTER_VARIANCE * anchors[..., 2:])
    stretch = torch.log(target[..., 2:] / anchors[..., 2:]) / SIZE_VARIANCE
    return torch.cat((shift, stretch), -1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (...,4) at anchors (...,4) in centre form -> boxes (...,4) in corner form, in the
    anchors' unit, not clipped."""
    center = anchors[..., :2] + deltas[..., :2] * CENTER_VARIANCE * anchors[..., 2:]
    size = anchors[..., 2:] * torch.exp(deltas[..., 2:] * SIZE_VARIANCE)
    low = center - size / 2
    return torch.cat((low, low + size), -1)


def area(boxes: Tensor) -> Tensor:
    """(...,4) corners -> (...) areas; negative where only one side is inverted."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    """(...,N,4) and (...,M,4) corners -> (...,N,M) shared areas. Leading dimensions broadcast."""
    # One coordinate at a time: the (...,N,M,2) form doubles the memory and is slower to reduce.
    a, b = a[..., :, None, :], b[..., None, :, :]
    width = (
        torch.minimum(a[..., 2], b[..., 2]).sub_(torch.maximum(a[..., 0], b[..., 0])).clamp_(min=0)
    )
    height = (
        torch.minimum(a[..., 3], b[..., 3]).sub_(torch.maximum(a[..., 1], b[..., 1])).clamp_(min=0)
    )
    return width.mul_(height)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(...,N,4) and (...,M,4) corners -> (...,N,M) intersection over union; 0 where both boxes are
    empty.

    Not meant for autograd: it works in place on three (...,N,M) buffers.
    """
    return iou_from_intersection(pairwise_intersection(a, b), a, b)


def iou_from_intersection(intersection: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """pairwise_iou for callers that need the shared areas (...,N,M) too. They are overwritten with
    the result."""
    union = (area(a)[..., :, None] + area(b)[..., None, :]).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Relative corners (...,4) -> corners in pixels of an image of size (h, w): ordered, clipped to
    the image, not rounded."""
    h, w = size
    scaled = boxes * boxes.new_tensor((w, h, w, h))
    low = torch.minimum(scaled[..., :2], scaled[..., 2:])
    high = torch.maximum(scaled[..., :2], scaled[..., 2:])
    limit = boxes.new_tensor((w, h))
    return torch.cat((low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)), -1)
