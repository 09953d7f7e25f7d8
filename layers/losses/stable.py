"""Arithmetic of the mask losses that stays finite, in value and gradient: at p = 0 and 1, without object pixels, without pixels at all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def focusing(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """(1 - p_t)^gamma, by logarithms: its gradient is finite where 1 - p_t rounds to 0, also for gamma < 1."""
    return torch.exp(gamma * F.logsigmoid(logits * (1 - 2 * target)))


def absolute_error(logits: Tensor, target: Tensor) -> Tensor:
    """|p - g| for g in {0,1}: 1 - p is sigmoid(-logit), which keeps its digits where p rounds to 1."""
    return (logits * (1 - 2 * target)).sigmoid()


def log_cosh(x: Tensor) -> Tensor:
    """log cosh x for x >= 0, without overflow at large x and without cancellation at small x."""
    near = torch.log1p(2 * torch.sinh(x.clamp(max=1) / 2).square())  # cosh x = 1 + 2 sinh^2(x/2)
    far = x + F.softplus(-2 * x) - math.log(2)
    return torch.where(x < 1, near, far)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator where 0 <= numerator <= const * denominator, and 0 for 0 / 0."""
    return numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny)


def power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0 and exponent > 0, with gradient 0 instead of an infinite one at base = 0."""
    positive = base > 0
    return torch.where(positive, base.where(positive, torch.ones_like(base)).pow(exponent), torch.zeros_like(base))


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean (N,) of values (N,H,W); 0 for an instance whose weights are all 0."""
    return ratio((weight * values).sum((1, 2)), weight.sum((1, 2)))
