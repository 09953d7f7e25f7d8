"""Classification loss of anchors: cross-entropy over the positives and the hardest negatives of each image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def negatives_wanted(positives: list[int], anchors: int, *, ratio: float, least: int) -> list[int]:
    """Hard negatives per image: `ratio` per positive, at least `least`, never all anchors."""
    return [min(max(int(ratio * count), least), anchors - 1) for count in positives]


def ohem_cross_entropy(class_logits: Tensor, rows: Tensor, labels: Tensor, background: Tensor, wanted: list[int]) -> Tensor:
    """Sum (0-d) of the cross-entropy of positives and hard negatives (SSD, Liu et al. 2016, section 2.2, hard negative mining).

    class_logits  (B,A,1+C), column 0 = background
    rows, labels  (P,) positives as indices into the flattened (B*A) anchors, and their 0-based foreground classes
    background    (B,A) bool, anchors that may serve as negatives; positives and ignored anchors are False
    wanted        per image, how many negatives; those of the lowest background probability are taken, fewer where there are fewer
    """
    flat = class_logits.flatten(0, 1)  # (B*A,1+C)
    negatives, real = _hardest(class_logits, background, wanted)
    chosen = flat.index_select(0, torch.cat((rows, negatives)))  # (P+Q,1+C)
    classes = torch.cat((labels + 1, torch.zeros_like(negatives)))
    counts = torch.cat((torch.ones_like(rows, dtype=torch.bool), real))
    return F.cross_entropy(chosen, classes, reduction="none").masked_fill(~counts, 0).sum()


@torch.no_grad()
def _hardest(class_logits: Tensor, background: Tensor, wanted: list[int]) -> tuple[Tensor, Tensor]:
    """(Q,) indices into the flattened anchors, and (Q,) bool: False where an image had no negative left. Q = sum(wanted)."""
    most = max(wanted, default=0)
    if most <= 0:
        return background.new_zeros(0, dtype=torch.int64), background.new_zeros(0)
    hardness = torch.logsumexp(class_logits, -1) - class_logits[..., 0]  # (B,A) = -log p(background)
    hardness = hardness.masked_fill(~background, -torch.inf)
    values, anchors = hardness.topk(most, dim=1)  # (B,most)
    first = torch.arange(len(wanted), device=anchors.device)[:, None] * class_logits.shape[1]
    return take_each(anchors + first, wanted), take_each(values > -torch.inf, wanted)


def take_each(rows: Tensor, counts: list[int]) -> Tensor:
    """(B,T,...) -> (sum(counts),...): the first counts[b] of each row b."""
    return torch.cat([row[:count] for row, count in zip(rows.unbind(0), counts, strict=True)])
