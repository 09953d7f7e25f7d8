"""The anchor that every ground truth claims for itself, the best that no other has claimed.

In turn the ground truth with the highest IoU to any unclaimed anchor claims that anchor. Equal IoUs
go to the lowest anchor, then to the lowest ground truth.

A device takes the turns one after another, M steps over an (M,M) table, since none may wait for a
value. A host does it by proposals (Gale and Shapley, 1962): IoUs order the pairs, so the stable
matching is unique, and it is what the turns lead to.

b images, M ground truths, A anchors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layers.assigners.base import CHUNK_ELEMENTS, HOST_ELEMENTS
from layers.boxes import area

FIRST_CHOICES = (
    16  # anchors that a host ranks for every ground truth; more only where all are taken
)
MORE = 8  # times as many then


class HostOverlaps:
    """IoUs of anchors (A,4) with ground truths (M,4), a few rows at a time: memory and time grow
    with M as A * M, and nothing of size M * M or M * A is held.

    highest, best  (A,) the highest IoU of each anchor, and its ground truth, the lowest of equals
    """

    def __init__(self, anchors: Tensor, boxes: Tensor):
        self.columns, self.areas = anchors.t().contiguous(), area(anchors)  # (4,A), (A,)
        self.boxes = boxes
        rows = max(1, HOST_ELEMENTS // (2 * len(anchors)))
        self._buffers = tuple(anchors.new_empty(rows, len(anchors)) for _ in range(3))
        self.highest = anchors.new_full((len(anchors),), -1.0)
        self.best = torch.zeros(len(anchors), dtype=torch.int64)
        first_choices = []
        for first in range(0, len(boxes), rows):
            iou = self._iou(boxes[first : first + rows])
            self._keep_highest(iou.numpy(), first)
            first_choices.append(_first_choices(iou, min(FIRST_CHOICES, len(anchors))))
        self._choices = list(torch.cat(first_choices).numpy())  # a row may grow

    def claim_best_anchors(self) -> tuple[Tensor, Tensor]:
        """(A,) int64 the ground truth that claimed each anchor, or -1, and (A,) their IoU."""
        count, last = len(self.boxes), len(self.areas) - 1
        held = np.full(last + 1, -1, np.int64)  # of each anchor the IoU's bits above M - 1 - holder
        by_first_choice = np.argsort([-row[0] for row in self._choices], kind="stable")
        for g in by_first_choice.tolist():
            while g >= 0:  # whoever has no anchor proposes
                row = self._choices[g]
                anchors = last - (row & 0xFFFFFFFF)
                offers = (row & ~0xFFFFFFFF) | (count - 1 - g)
                wins = offers > held[anchors]
                place = int(wins.argmax())
                if wins[place]:
                    anchor, before = anchors[place], held[anchors[place]]
                    held[anchor] = offers[place]
                    g = -1 if before < 0 else count - 1 - int(before & 0xFFFFFFFF)
                elif len(row) <= last:
                    self._choices[g] = self._more_choices(g)
                else:
                    g = -1  # more ground truths than anchors
        keys = torch.from_numpy(held)
        claims = torch.where(keys >= 0, count - 1 - (keys & 0xFFFFFFFF), -1)
        return claims, (keys >> 32).int().view(torch.float32)

    def _keep_highest(self, iou: np.ndarray, first: int) -> None:
        highest, best = self.highest.numpy(), self.best.numpy()
        for g, row in enumerate(iou, first):
            better = np.flatnonzero(row > highest)  # of equals the lower ground truth stays
            highest[better], best[better] = row[better], g

    def _more_choices(self, g: int) -> np.ndarray:
        wanted = min(MORE * len(self._choices[g]), len(self.areas))
        return _ranked_keys(self._iou(self.boxes[g : g + 1])[None], wanted)[0, 0].numpy()

    def _iou(self, boxes: Tensor) -> Tensor:
        """pairwise_iou, number for number, of a few boxes, in buffers that the next call reuses:
        a quarter of the time."""
        width, height, edge = (buffer[: len(boxes)] for buffer in self._buffers)
        left, top, right, bottom = boxes.t().contiguous()[..., None]  # (m,1) each
        x1, y1, x2, y2 = self.columns
        for size, low, high, start, end in (
            (width, left, right, x1, x2),
            (height, top, bottom, y1, y2),
        ):
            torch.minimum(high, end, out=size)
            torch.maximum(low, start, out=edge)
            size.sub_(edge).clamp_(min=0)
        shared, union = width.mul_(height), edge
        torch.add(area(boxes)[:, None], self.areas, out=union)
        return shared.div_(union.sub_(shared).clamp_(min=torch.finfo(union.dtype).tiny))


def _first_choices(iou: Tensor, k: int) -> Tensor:
    """_ranked_keys of a few rows (m,A) >= 0 -> (m,k), a third of its time: only the k best become
    keys."""
    values, anchors = iou.topk(k, dim=1)  # of equals at the end, any
    for row, last, chosen in zip(iou.numpy(), values.numpy(), anchors.numpy(), strict=True):
        cut = int(np.searchsorted(-last, -last[-1]))  # better ones are all there
        chosen[cut:] = np.flatnonzero(row == last[-1])[: k - cut]
    keys = ((values + 0.0).view(torch.int32).long() << 32) | (iou.shape[1] - 1 - anchors)
    return keys.sort(1, descending=True).values


def claim_best_anchors(iou: Tensor) -> Tensor:
    """(b,M,A) IoU, negative rows for padding -> (b,A) int64: the ground truth that claimed each
    anchor, or -1. The form of a device: it reads no value back."""
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
