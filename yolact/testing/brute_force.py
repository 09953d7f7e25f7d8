"""Mask-aware overlaps and ATSS written as their definitions say, one anchor and one ground truth at
a time.

For tests, and for scripts/bench.py to compare with.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gma_iou_by_pixels(
    anchors: Tensor, boxes: Tensor, masks: Tensor, *, polygon: str, rounding: str = "reference"
) -> Tensor:
    """(A,4), (M,4) pixels, (M,h,w) bool -> (M,A): |P| / |m| * |b and m| / |b or P|."""
    out = torch.zeros(len(boxes), len(anchors), dtype=anchors.dtype)
    for m, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        pixels = int(mask.sum())
        for a, anchor in enumerate(anchors):
            if pixels == 0:
                continue
            covered = (
                pixels_inside(mask, anchor)
                if rounding == "reference"
                else area_inside(mask, anchor)
            )
            size = float((anchor[2] - anchor[0]) * (anchor[3] - anchor[1]))
            if polygon == "mask":
                out[m, a] = covered / (size + pixels - covered)
            else:
                area = float((box[2] - box[0]) * (box[3] - box[1]))
                sides = (
                    torch.minimum(box[2:], anchor[2:]) - torch.maximum(box[:2], anchor[:2])
                ).clamp(min=0)
                out[m, a] = area / pixels * covered / (size + area - float(sides.prod()))
    return out


def pixels_inside(mask: Tensor, anchor: Tensor) -> int:
    # Python rounds halves to even as well
    x1, y1, x2, y2 = (max(0, round(edge)) for edge in anchor.tolist())
    return int(mask[y1:y2, x1:x2].sum())


def area_inside(mask: Tensor, anchor: Tensor) -> float:
    x1, y1, x2, y2 = anchor.double()
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in mask.shape)
    down = (torch.minimum(rows + 1, y2) - torch.maximum(rows, y1)).clamp(min=0)
    across = (torch.minimum(columns + 1, x2) - torch.maximum(columns, x1)).clamp(min=0)
    return float(down @ mask.double() @ across)


def atss(
    anchors: Tensor, level_sizes: list[int], boxes: Tensor, overlap: Tensor, k: int = 9
) -> list[int]:
    """Algorithm 1 of Zhang et al. 2020 on a table of overlaps (M,A) -> per anchor the ground truth,
    or -1."""
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    best = [(-1, float("-inf"))] * len(anchors)
    for m, box in enumerate(boxes):
        candidates, first = [], 0
        for size in level_sizes:
            squares = ((box[:2] + box[2:]) / 2 - centres[first : first + size]).square()
            order = sorted(range(size), key=lambda a: float(squares[a, 0] + squares[a, 1]))  # noqa: B023  used at once
            candidates += [first + a for a in order[:k]]
            first += size
        values = overlap[m, candidates].double()
        threshold = values.mean() + (values.std() if len(values) > 1 else 0)
        for a in candidates:
            inside = torch.cat((centres[a] - box[:2], box[2:] - centres[a])).min() > 0.01
            if inside and overlap[m, a] >= threshold and overlap[m, a] > best[a][1]:
                best[a] = (m, float(overlap[m, a]))
    return [m for m, _ in best]
