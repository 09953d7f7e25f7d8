"""Non-maximum suppression: Fast NMS and its cross-class form (Bolya et al. 2019, section 3.4), and
the greedy algorithm.

All three share one signature and return (rows, labels, scores) by falling score: rows index the
given boxes, labels are 0-based classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layers.boxes import pairwise_iou

Kept = tuple[Tensor, Tensor, Tensor]
FIRST_RANKS = 32  # candidates of every class that fast_nms compares first; seldom are more needed


@torch.no_grad()
def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float,
    top_k: int,
    max_detections: int,
    image_size: int | None = None,
) -> Kept:
    """Fast NMS on boxes (A,4) corners, scores (A,C) -> rows (D,), labels (D,), scores (D,).

    An anchor whose best class scores above score_threshold enters with the scores of all its
    classes, however low: there is no second threshold. Within a class, the top_k best are
    candidates, and one falls if any better one overlaps it by more than iou_threshold, also one
    that fell itself. The max_detections best over all classes remain. image_size is not used.
    """
    kept = (scores.amax(1) > score_threshold).nonzero()[:, 0]  # (n,)
    ranked, order = scores[kept].t().sort(dim=1, descending=True, stable=True)  # (C,n)
    ranked, rows = ranked[:, :top_k], kept[order[:, :top_k]]  # (C,k)
    survives = _survivors(boxes[rows], ranked, iou_threshold, max_detections)  # (C,k)
    labels = torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(rows)
    return _best(rows[survives], labels[survives], ranked[survives], max_detections)


@torch.no_grad()
def cross_class_fast_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float,
    top_k: int,
    max_detections: int,
    image_size: int | None = None,
) -> Kept:
    """Fast NMS over all classes together: each box takes part once, with its best class.

    Arguments and result as fast_nms. The original does not apply its limit of 100 here;
    max_detections >= top_k gives the same.
    """
    best, labels = scores.max(1)
    kept = (best > score_threshold).nonzero()[:, 0]
    ranked, order = best[kept].sort(descending=True, stable=True)
    ranked, rows = ranked[:top_k], kept[order[:top_k]]
    survives = _no_better_overlap(boxes[rows], iou_threshold)
    return _best(rows[survives], labels[rows[survives]], ranked[survives], max_detections)


@torch.no_grad()
def traditional_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float,
    top_k: int,
    max_detections: int,
    image_size: int | None = None,
) -> Kept:
    """Greedy NMS per class on boxes (A,4) relative corners, scores (A,C); a box falls at an overlap
    >= iou_threshold.

    Overlaps are measured in pixels of the network input, image_size (None: the boxes are in
    pixels), with sides x2 - x1 + 1 as in py-faster-rcnn. Only scores above score_threshold take
    part; top_k is not used, as in the original.
    """
    # Greedy suppression is a sequence of dependent steps: on the host, where a step costs
    # microseconds.
    rows, labels = (scores > score_threshold).nonzero().unbind(1)  # (P,)
    chosen = scores[rows, labels]
    pixels = (boxes if image_size is None else boxes * image_size)[rows].cpu().numpy()
    classes, order = labels.cpu().numpy(), np.argsort(-chosen.cpu().numpy(), kind="stable")
    kept = [order[:0]]
    for label in np.unique(classes):
        members = order[classes[order] == label]
        kept.append(members[_greedy(pixels[members], iou_threshold, max_detections)])
    index = torch.from_numpy(np.concatenate(kept)).to(rows.device)
    return _best(rows[index], labels[index], chosen[index], max_detections)


def _survivors(boxes: Tensor, ranked: Tensor, iou_threshold: float, max_detections: int) -> Tensor:
    """(C,k,4) boxes and (C,k) falling scores -> (C,k) bool: not overlapped by a better one of the
    class. Candidates that cannot be among the max_detections best survivors may be False: comparing
    all of them is most of the work of Fast NMS."""
    if ranked.shape[1] <= FIRST_RANKS:
        return _no_better_overlap(boxes, iou_threshold)
    survives = torch.zeros_like(ranked, dtype=torch.bool)
    survives[:, :FIRST_RANKS] = _no_better_overlap(boxes[:, :FIRST_RANKS], iou_threshold)
    found = ranked[survives]
    cutoff = (
        found.topk(max_detections).values[-1] if found.numel() >= max_detections else -torch.inf
    )
    # classes whose later candidates can still reach the best
    deeper = (ranked[:, FIRST_RANKS] >= cutoff).nonzero()[:, 0]
    survives[deeper] = _no_better_overlap(boxes[deeper], iou_threshold)
    return survives


def _no_better_overlap(boxes: Tensor, iou_threshold: float) -> Tensor:
    """(...,k,4) by falling score -> (...,k) bool: no earlier box overlaps this one by more than the
    threshold."""
    if boxes.shape[-2] == 0:
        return torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    return pairwise_iou(boxes, boxes).triu_(diagonal=1).amax(-2) <= iou_threshold


def _greedy(boxes: np.ndarray, iou_threshold: float, limit: int) -> list[int]:
    """Positions kept among boxes (n,4) in pixels by falling score; stops after `limit`, as later
    ones cannot be among the best."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    remaining = np.arange(len(boxes))
    kept: list[int] = []
    while remaining.size and len(kept) < limit:
        first, rest = remaining[0], remaining[1:]
        kept.append(int(first))
        width = np.maximum(np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest]) + 1, 0)
        height = np.maximum(
            np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest]) + 1, 0
        )
        intersection = width * height
        overlap = intersection / (areas[first] + areas[rest] - intersection)
        remaining = rest[~(overlap >= iou_threshold)]
    return kept


def _best(rows: Tensor, labels: Tensor, scores: Tensor, limit: int) -> Kept:
    scores, order = scores.sort(descending=True, stable=True)
    order = order[:limit]
    return rows[order], labels[order], scores[:limit]
