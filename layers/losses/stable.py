"""Arithmetic of the mask losses that stays finite, in value and gradient: at p = 0 and 1, without object pixels, without pixels at all."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def focusing(logits: Tensor, target: Tensor, bce: Tensor, gamma: float | Tensor) -> Tensor:
    """(1 - p_t)^gamma = exp(-gamma (z + BCE)), z the logit of p_t: its gradient is finite where 1 - p_t rounds to 0, also for gamma < 1."""
    return torch.exp(-gamma * (logits * (2 * target - 1) + bce))


def absolute_error(logits: Tensor, target: Tensor) -> Tensor:
    """|p - g| for g in {0,1}: 1 - p is sigmoid(-logit), which keeps its digits where p rounds to 1."""
    return (logits * (1 - 2 * target)).sigmoid()


def log_cosh(x: Tensor) -> Tensor:
    """log cosh x for x >= 0, without overflow at large x and without cancellation at small x; its derivative is tanh x."""
    return _LogCosh.apply(x)


class _LogCosh(torch.autograd.Function):
    """Written out, because differentiating both branches costs four times as much."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        square = x * x
        near = square * (-17 / 2520)  # Taylor, in place: the next term is below 1e-15
        for coefficient in (1 / 45, -1 / 12, 1 / 2):
            near.add_(coefficient).mul_(square)
        far = F.softplus(x * -2).add_(x).sub_(math.log(2))
        return torch.where(x < 0.05, near, far)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, = ctx.saved_tensors
        return gradient * x.tanh()


def neighbourhood_max(x: Tensor, dim: int) -> Tensor:
    """Maximum of each value and its two neighbours along a dimension; fewer at the ends. Of equal values, one gets the gradient."""
    return _NeighbourhoodMax.apply(x, dim)


class _NeighbourhoodMax(torch.autograd.Function):
    """Pooling looks for the place of each maximum even where no gradient passes: on a CPU, ten times the work of the maximum itself."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        before, after = _but_last(x, dim), _but_first(x, dim)
        result = x.clone()
        torch.maximum(after, before, out=_but_first(result, dim))
        end = _but_last(result, dim)
        torch.maximum(end, after, out=end)
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x, result), dim = ctx.saved_tensors, ctx.dim
        free = x != result  # whose gradient goes to a neighbour
        passed = gradient.masked_fill(free, 0)
        from_before = _but_first(free, dim) & (_but_last(x, dim) == _but_first(result, dim))
        _but_last(passed, dim).addcmul_(_but_first(gradient, dim), from_before.to(gradient.dtype))
        _but_first(free, dim).logical_and_(~from_before)
        _but_first(passed, dim).addcmul_(_but_last(gradient, dim), _but_last(free, dim).to(gradient.dtype))
        return passed, None


def _but_first(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 1, x.shape[dim] - 1)


def _but_last(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 0, x.shape[dim] - 1)


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
