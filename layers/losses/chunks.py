"""Instances a chunk at a time, for memory: gradients are taken with the values, and of a chunk only
its gradient is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def in_chunks(
    evaluate: Callable[[Tensor, slice], list[Tensor]], logits: Tensor, rows: int
) -> list[Tensor]:
    """evaluate(logits, slice(None)) for logits (N,H,W) and a function that gives T values (n,) for
    the instances of a slice, each of which depends on its own instance alone; computed for `rows`
    instances at a time.

    Keeps T gradients (N,H,W) for the backward pass, instead of everything that `evaluate` computes.
    Not differentiable twice, and with respect to nothing but the logits."""
    return list(_InChunks.apply(logits, evaluate, rows))


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, evaluate: Callable, rows: int) -> tuple[Tensor, ...]:
        values, gradients = [], []
        for first in range(0, logits.shape[0], rows):
            part = slice(first, first + rows)
            chunk = logits[part].detach().requires_grad_(ctx.needs_input_grad[0])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                found = evaluate(chunk, part)
                totals = [value.sum() for value in found]
            if ctx.needs_input_grad[0]:
                last = len(found) - 1
                gradients.append(
                    [
                        torch.autograd.grad(total, chunk, retain_graph=i < last)[0]
                        for i, total in enumerate(totals)
                    ]
                )
            values.append([value.detach() for value in found])
        ctx.save_for_backward(*(torch.cat(of_term) for of_term in zip(*gradients, strict=True)))
        return tuple(torch.cat(of_term) for of_term in zip(*values, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream: Tensor) -> tuple[Tensor, None, None]:
        total = sum(
            above[:, None, None] * gradient
            for above, gradient in zip(upstream, ctx.saved_tensors, strict=True)
        )
        return total, None, None
