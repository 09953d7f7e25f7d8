"""Arithmetic of the mask losses that stays finite, in value and gradient: at p = 0 and 1, without
object pixels, without pixels at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LINEAR = 20.0  # from here on log cosh x is x - log 2 in every floating-point type


def focal_bce(logits: Tensor, target: Tensor, gamma: float | Tensor) -> Tensor:
    """(1 - p_t)^gamma BCE for a constant gamma >= 0, per pixel: its gradient is finite where 1 -
    p_t rounds to 0, also for gamma < 1."""
    return _FocalBCE.apply(logits, target, gamma)


class _FocalBCE(torch.autograd.Function):
    """The gradient is found with the value, from the same parts; autograd would take half as long
    again and keep five times the memory."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, gamma: float | Tensor) -> Tensor:
        z = torch.addcmul(logits, logits, target, value=-2)  # logit of 1 - p_t
        bce = F.softplus(z)
        focus = (z - bce).mul_(gamma).exp_()  # log(1 - p_t) = z - BCE
        if ctx.needs_input_grad[0]:
            wrong = z.sigmoid()
            slope = (1 - wrong).mul_(bce).mul_(gamma).add_(wrong).mul_(focus)
            ctx.save_for_backward(slope.addcmul_(slope, target, value=-2))
        return focus.mul_(bce)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def absolute_error(logits: Tensor, target: Tensor) -> Tensor:
    """|p - g| for g in {0,1}: 1 - p is sigmoid(-logit), which keeps its digits where p rounds to
    1."""
    return _AbsoluteError.apply(logits, target)


class _AbsoluteError(torch.autograd.Function):
    """Written out for half the passes over memory, of which the region losses consist."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        error = torch.addcmul(logits, logits, target, value=-2).sigmoid_()
        ctx.save_for_backward(error, target)
        return error

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        error, target = ctx.saved_tensors
        slope = (1 - error).mul_(error).mul_(gradient)
        return slope.addcmul_(slope, target, value=-2), None


def log_cosh(x: Tensor) -> Tensor:
    """log cosh x for x >= 0, without overflow at large x and without cancellation at small x; its
    derivative is tanh x."""
    return _LogCosh.apply(x)


class _LogCosh(torch.autograd.Function):
    """Written out, because differentiating the steps costs several times as much."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        near = x.clamp(max=LINEAR)
        e = near.expm1()
        value = e.square().div_(e.add_(1).mul_(2)).log1p_()  # cosh x = 1 + (e^x - 1)^2 / (2 e^x)
        return value.add_(x).sub_(near)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.tanh()


def clamped_bce(logits: Tensor, target: Tensor) -> Tensor:
    """BCE of p = sigmoid(logit) as F.binary_cross_entropy has it: logarithms clamped at -100, no
    gradient where p rounds to 0 or 1."""
    return _ClampedBCE.apply(logits, target)


class _ClampedBCE(torch.autograd.Function):
    """PyTorch's own is not vectorised on a CPU and takes twenty times as long."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        p = logits.sigmoid()
        ctx.save_for_backward(p, target)
        # |1 - t - p| is p where t = 1 and 1 - p where t = 0
        return (1 - target).sub_(p).abs_().log_().clamp_(min=-100).neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        p, target = ctx.saved_tensors
        slope = (1 - p).mul_(p)
        return slope.div_(slope.clamp(min=1e-12)).mul_(p - target).mul_(gradient), None


def neighbourhood_max(x: Tensor, dim: int) -> Tensor:
    """Maximum of each value and its two neighbours along a dimension; fewer at the ends. Of equal
    values, one gets the gradient."""
    return _NeighbourhoodMax.apply(x, dim)


class _NeighbourhoodMax(torch.autograd.Function):
    """Pooling looks for the place of each maximum even where no gradient passes: on a CPU, ten
    times the work of the maximum itself."""

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
        _but_first(passed, dim).addcmul_(
            _but_last(gradient, dim), _but_last(free, dim).to(gradient.dtype)
        )
        return passed, None


def _but_first(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 1, x.shape[dim] - 1)


def _but_last(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 0, x.shape[dim] - 1)


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
