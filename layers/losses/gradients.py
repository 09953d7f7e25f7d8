"""What each mask term does to the prototypes: norms of its gradient there, and weights chosen by
them (match='grad').

T terms, N instances, B images, K prototypes, H x W prototype map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32**2, 96**2)  # COCO's, in pixels of the network input


def prototype_norms(
    values: Sequence[Tensor], logits: Tensor, coeffs: Tensor, counts: list[int], areas: Tensor
) -> Tensor:
    """Squared norms (T,4) of the gradients of `values` with respect to the prototypes, by all,
    small, medium and large instances.

    values   T scalars with a graph from logits (N,H,W), the instances' mask logits; the graph is
             kept
    coeffs   (N,K); counts, how many instances each image has, in their order
    areas    (N,) of the instances in pixels of the network input, which tell their size as COCO's
             AP does

    The norms of different images add up, so those of micro-batches and ranks do."""
    limits = torch.tensor(SIZE_LIMITS, dtype=areas.dtype).to(areas.device, non_blocking=True)
    size = torch.bucketize(areas, limits, right=True)  # (N,)
    # (N,3)
    by_size = (size[:, None] == torch.arange(len(SIZES), device=size.device)).to(coeffs.dtype)
    spread = (by_size[:, :, None] * coeffs.detach()[:, None]).flatten(1)  # (N,3K)
    spread = pad_sequence(spread.split(counts), batch_first=True).transpose(1, 2)  # (B,3K,most)
    norms = []
    for value in values:
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        gradient = pad_sequence(gradient.flatten(1).split(counts), batch_first=True)  # (B,most,HW)
        of_prototypes = torch.bmm(spread, gradient).unflatten(1, (len(SIZES), -1))  # (B,3,K,HW)
        norms.append(
            torch.cat(
                (of_prototypes.sum(1).square().sum()[None], of_prototypes.square().sum((0, 2, 3)))
            )
        )
    return torch.stack(norms)


def shares(squared: dict[str, Sequence[float]]) -> dict[str, float]:
    """{term: 4 squared norms} -> {"term/share": its part of the sum of the terms' norms,
    "term/share/small": the part of its gradient from small instances in the sum over terms and
    sizes, ...}; {} where every gradient is 0 or one is not finite.

    The shares of all terms add up to 1, and so do those of all terms and sizes."""
    norms = {term: [value**0.5 for value in row] for term, row in squared.items()}
    whole, parts = (
        sum(row[0] for row in norms.values()),
        sum(sum(row[1:]) for row in norms.values()),
    )
    if not 0 < whole < float("inf"):
        return {}
    return {
        f"{term}/share{suffix}": row[i] / (parts if i else whole)
        for term, row in norms.items()
        for i, suffix in enumerate(("", *(f"/{size}" for size in SIZES)))
    }


class GradientMatch(nn.Module):
    """Factors that bring the gradients of matched terms to the size of the reference term's, at the
    prototypes.

    In the first `steps` steps the norms are measured; the factor is the geometric mean of the
    ratios measured so far, 1 in step 0. After that it is frozen. Steps in which a norm is 0 or not
    finite do not count. The state is in state_dict, so a resumed run goes on.

    matched     (T,) bool, which terms are matched
    reference   index of the term to which they are matched, with its coefficient
    """

    log_sum: Tensor
    count: Tensor
    pending: Tensor

    def __init__(self, matched: Sequence[bool], reference: int, coefficient: float, steps: int):
        super().__init__()
        self.matched, self.reference, self.coefficient, self.steps = (
            tuple(matched),
            reference,
            coefficient,
            steps,
        )
        self.measured_step = -1  # whose norms are in `pending`
        for name in ("log_sum", "count", "pending"):
            self.register_buffer(name, torch.zeros(len(self.matched)))

    def measures(self, step: int) -> bool:
        return step < self.steps

    @torch.no_grad()
    def factors(self, step: int) -> Tensor:
        """(T,) of this step; those of terms that are not matched are 1. Takes up what earlier steps
        measured."""
        if step != self.measured_step:
            ratio = self.pending[self.reference] / self.pending  # squared
            sound = (ratio > 0) & torch.isfinite(ratio)
            self.log_sum += torch.where(sound, ratio, 1).log() / 2
            self.count += sound
            self.pending.zero_()
        mean = torch.exp(self.log_sum / self.count.clamp(min=1)) * self.coefficient
        matched = torch.tensor(self.matched).to(mean.device, non_blocking=True) & (self.count > 0)
        return torch.where(matched, mean, 1)

    @torch.no_grad()
    def observe(self, squared: Tensor, step: int) -> None:
        """Adds squared norms (T,) of the unweighted terms for a micro-batch of this step. A
        collective call if there are several ranks."""
        if dist.is_available() and dist.is_initialized():
            squared = squared.clone()
            dist.all_reduce(squared)
        self.pending += squared
        self.measured_step = step

    def get_extra_state(self) -> int:
        return self.measured_step

    def set_extra_state(self, state: int) -> None:
        self.measured_step = state
