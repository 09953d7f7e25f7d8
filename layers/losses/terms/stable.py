"""Arithmetic of the mask losses that stays finite, in value and gradient: at p = 0 and 1, without
object pixels, without pixels at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 20.0  # from here on log cosh x is x - log 2 in every floating-point type


def focal_bce(logits: Tensor, target: Tensor, gamma: float | Tensor) -> Tensor:
    """(1 - p_t)^gamma BCE for a constant gamma >= 0, per pixel: its gradient is finite where 1 -
    p_t rounds to 0, also for gamma < 1."""
    z = logits * (1 - 2 * target)  # logit of 1 - p_t
    bce = F.softplus(z)
    return (gamma * (z - bce)).exp() * bce  # log(1 - p_t) = z - BCE


def absolute_error(logits: Tensor, target: Tensor) -> Tensor:
    """|p - g|, see error."""
    return error(logits, target).abs()


def error(logits: Tensor, target: Tensor) -> Tensor:
    """p - g or g - p for g in [0,1]: it starts from 1 - p = sigmoid(-logit) where g > 0.5, which
    keeps its digits where p rounds to 1."""
    nearest = (target > 0.5).to(target.dtype)
    # |p - nearest| and |g - nearest|, both measured from the same end of [0,1]
    return (logits * (1 - 2 * nearest)).sigmoid() - (target - nearest).abs()


def log_cosh(x: Tensor) -> Tensor:
    """log cosh x for x >= 0, without overflow at large x and without cancellation at small x."""
    near = x.clamp(max=LINEAR)
    # cosh x = 1 + 2 sinh^2(x/2); beyond LINEAR, what is left of x is added
    return (2 * (near / 2).sinh().square()).log1p() + (x - near)


def clamped_bce(logits: Tensor, target: Tensor) -> Tensor:
    """BCE of p = sigmoid(logit) as F.binary_cross_entropy has it: logarithms clamped at -100, no
    gradient where p rounds to 0 or 1."""
    return F.binary_cross_entropy(logits.sigmoid(), target, reduction="none")


def cross_max(x: Tensor) -> Tensor:
    """Maximum of each value >= 0 of (N,H,W) and its four neighbours; fewer at the edges. Equal
    values share the gradient."""
    wide = F.pad(x, (1, 1, 1, 1))  # by 0, which no maximum notices
    across = torch.maximum(wide[:, 1:-1, :-2], wide[:, 1:-1, 2:])
    down = torch.maximum(wide[:, :-2, 1:-1], wide[:, 2:, 1:-1])
    return torch.maximum(torch.maximum(across, down), x)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator where 0 <= numerator <= const * denominator, and 0 for 0 / 0."""
    return numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny)


def power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0 and exponent > 0, with gradient 0 instead of an infinite one at
    base = 0."""
    positive = base > 0
    return torch.where(
        positive, base.where(positive, torch.ones_like(base)).pow(exponent), torch.zeros_like(base)
    )


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean (N,) of values (N,H,W); 0 for an instance whose weights are all 0."""
    return ratio((weight * values).sum((1, 2)), weight.sum((1, 2)))
