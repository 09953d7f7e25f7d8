"""Losses whose targets may lie between 0 and 1: each is 0 where p is the target and more elsewhere,
and with targets of 0 and 1 equal to a loss that is not so there.

p = sigmoid(logit), g = target, w = weight. E = sum w |p - g|, the error of an instance, S = sum w
(p + g) and P = sum w p g. With g of 0 and 1, E is FP + FN and P is TP (region.py).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from layers.losses.decorators import pixel_loss, region_loss
from layers.losses.terms.stable import absolute_error, ratio
from layers.records import Bound

SMOOTH = Bound("[0, inf)")
Form = Literal["sum", "product"]


class Sums(NamedTuple):
    """E, S and P of the module's docstring, each (N,)."""

    error: Tensor
    total: Tensor
    product: Tensor


def sums(logits: Tensor, target: Tensor, weight: Tensor) -> Sums:
    """The error keeps its digits where p rounds to 1."""
    p, inside = logits.sigmoid(), weight * target
    return Sums(
        (weight * absolute_error(logits, target)).sum((1, 2)),
        (weight * p + inside).sum((1, 2)),
        (inside * p).sum((1, 2)),
    )


@region_loss(
    "soft_jaccard",
    "1 - soft IoU in forms that are least at targets between 0 and 1",
    bounds={"smooth": SMOOTH},
    soft="proper",
    source="Jaccard metric losses (Wang, Ning and Blaschko, NeurIPS 2023)",
)
def soft_jaccard(
    logits: Tensor, target: Tensor, weight: Tensor, *, form: Form = "sum", smooth: float = 1.0
) -> Tensor:
    """1 - (S - E + 2 smooth) / (S + E + 2 smooth): (S - E) / 2 is the sum of min(p, g), and
    (S + E) / 2 that of max(p, g). Equal to jaccard where g is 0 or 1.

    form     'product': 1 - (P + smooth) / (P + E + smooth), the paper's second form
    smooth   >= 0, in pixels"""
    error, total, product = sums(logits, target, weight)
    if form == "product":
        return ratio(error, product + error + smooth)
    return ratio(error, (total + error) / 2 + smooth)


@region_loss(
    "soft_dice",
    "1 - Dice coefficient in forms that are least at targets between 0 and 1",
    bounds={"smooth": SMOOTH},
    soft="proper",
    source="Dice semimetric losses (Wang et al., MICCAI 2023)",
)
def soft_dice(
    logits: Tensor, target: Tensor, weight: Tensor, *, form: Form = "sum", smooth: float = 1.0
) -> Tensor:
    """1 - (S - E + smooth) / (S + smooth). Equal to dice where g is 0 or 1.

    form     'product': 1 - (2 P + smooth) / (2 P + E + smooth), the paper's second form
    smooth   >= 0, in pixels"""
    error, total, product = sums(logits, target, weight)
    if form == "product":
        return ratio(error, 2 * product + error + smooth)
    return ratio(error, total + smooth)


@pixel_loss(
    "quality_focal",
    "cross-entropy times a power of the error of probabilities",
    bounds={"beta": Bound("[1, inf)", "below 1 its slope is infinite at p = t")},
    soft="proper",
    source="Generalized Focal Loss (Li et al., NeurIPS 2020), quality focal loss",
)
def quality_focal(logits: Tensor, target: Tensor, *, beta: float = 2.0) -> Tensor:
    """|p - t|^beta BCE. Equal to focal(alpha=None, gamma=beta) where t is 0 or 1.

    beta   >= 1; the paper takes 2"""
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return absolute_error(logits, target).pow(beta) * bce
