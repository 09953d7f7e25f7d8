"""Rank & Sort loss (Oksuz et al., ICCV 2021): positives above negatives, and positives among
themselves by their soft target.

n logits of which p are positive, s their logits, y their soft targets, H(x) = clip(x / (2 delta) +
1/2, 0, 1), over positives i:

    FP(i)    = sum of H(s_j - s_i) over negatives j
    R(i)     = sum of H(s_j - s_i) over positives j
    E(i)     = sum of H(s_j - s_i) (1 - y_j) over positives j
    R'(i), E'(i)  the same over positives with y_j >= y_i

    ranking(i) = FP(i) / (R(i) + FP(i))
    sorting(i) = E(i) / R(i) - E'(i) / R'(i)

The losses are the means over i.

The gradient is the paper's identity update: what i has too much of is charged to i, and to the j
that cause it in proportion to their H(s_j - s_i). H is piecewise linear, so each of these sums is a
few prefix sums at positions found by bisection: O(n log p + p log^2 p) time and O(n + p) memory
instead of n p.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST = 1e-10  # mass of wrongly sorted positives below which there are none


def rank_sort_loss(
    logits: Tensor, targets: Tensor, *, positives: int | None = None, delta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """(ranking loss, sorting loss), each 0-d, of logits and targets of one shape; all logits are
    ranked against each other.

    targets    0 for negatives, in (0,1] for positives: their localisation quality, such as the IoU
               of the predicted box
    positives  how many targets are above 0, where the host knows; otherwise it waits for the device
               to count them
    delta      half the width of H in logits; 0 makes H a step that is 1 at 0

    Both losses are in [0,1) and 0 without positives. float16 and bfloat16 are lifted to float32;
    sums are float64 in any case.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if positives is None:
        positives = int((targets > 0).sum())
    quality, rows = targets.detach().flatten().double().topk(positives)
    return _RankSort.apply(logits.flatten(), quality, rows, delta)


class _RankSort(torch.autograd.Function):
    """logits (n,); quality (p,) falling soft targets of the positives and rows (p,) where they are
    -> the two losses."""

    @staticmethod
    def forward(
        ctx, logits: Tensor, quality: Tensor, rows: Tensor, delta: float
    ) -> tuple[Tensor, Tensor]:
        count = len(rows)
        if count == 0:
            ctx.save_for_backward(rows, torch.zeros_like(logits), logits.new_zeros(0))
            return logits.new_zeros(()), logits.new_zeros(())
        values = logits.double()
        scores, by_score = values[rows].sort()  # rising
        rows = rows[by_score]
        negatives = _Negatives(values, rows, scores, delta)
        found, sorting, sorting_grad = _sorting(scores, quality, by_score, delta)
        rank = found + negatives.above
        ranking = negatives.above / rank
        ranking_grad = negatives.charge(1 / rank).index_copy_(0, rows, -ranking)
        ctx.save_for_backward(
            rows, (ranking_grad / count).to(logits.dtype), (sorting_grad / count).to(logits.dtype)
        )
        return ranking.mean().to(logits.dtype), sorting.mean().to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, ranking_out: Tensor, sorting_out: Tensor):
        rows, ranking_grad, sorting_grad = ctx.saved_tensors
        return (
            (ranking_out * ranking_grad).index_add_(0, rows, sorting_out * sorting_grad),
            None,
            None,
            None,
        )


class _Negatives:
    """Negatives by interval: the ends of all positives' ramps, s_i - delta and s_i + delta, cut the
    line into 2p + 1 intervals, and within one of them every H(. - s_i) is linear.

    above (p,) is FP. values (n,) are all logits, scores (p,) the positives' and rows (p,) where
    they are.
    """

    def __init__(self, values: Tensor, rows: Tensor, scores: Tensor, delta: float):
        self.values, self.scores, self.slope = values, scores, _slope(delta)
        ends = torch.cat((scores - delta, scores + delta)).sort().values
        self.interval = torch.searchsorted(ends, values, right=True)  # (n,) in 0..2p
        # (p,) first interval of the ramp
        self.low = torch.searchsorted(ends, scores - delta, right=True)
        # (p,) first interval above it
        self.high = torch.searchsorted(ends, scores + delta, right=True)
        weight = torch.ones_like(values).index_fill_(0, rows, 0)  # positives count nothing
        number, total = (
            values.new_zeros(len(ends) + 1).index_add_(0, self.interval, v)
            for v in (weight, weight * values)
        )
        # From the top, so that the many negatives far below every positive cost no digits.
        number, total = (v.flip(0).cumsum(0).flip(0) for v in (number, total))
        ramp = number[self.low] - number[self.high]
        self.above = (
            number[self.high]
            + ramp / 2
            + self.slope * (total[self.low] - total[self.high] - scores * ramp)
        )

    def charge(self, each: Tensor) -> Tensor:
        """each (p,) -> (n,) sum of each_i H(value - s_i) over i; what positives get is to be
        overwritten."""
        steep = self.slope * each
        start = each / 2 - steep * self.scores  # on the ramp: start + steep * value
        lines = self.values.new_zeros(2, 2 * len(each) + 1)
        lines.index_add_(1, self.low, torch.stack((start, steep))).index_add_(
            1, self.high, torch.stack((each - start, -steep))
        )
        start, steep = lines.cumsum(1)
        return torch.addcmul(start[self.interval], steep[self.interval], self.values)


def _sorting(
    scores: Tensor, quality: Tensor, by_score: Tensor, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """R, the sorting errors and the sorting gradient times p, each (p,).

    scores (p,) rise; by_score (p,) is where the positive of each score stands in quality (p,),
    which falls.
    """
    slope, count = _slope(delta), torch.full_like(by_score, len(scores))
    wrong = 1 - quality[by_score]
    masses = torch.stack((torch.ones_like(wrong), wrong), 1)  # (p,2)
    table = torch.cat((masses, masses * scores[:, None]), 1)  # (p,4)
    low, high = (
        torch.searchsorted(scores, scores - delta),
        torch.searchsorted(scores, scores + delta),
    )
    as_good = torch.searchsorted(-quality, -quality, right=True)[by_score]  # how many y_j >= y_i

    def rising(below_low: Tensor, below_high: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        ramp = below_high - below_low
        sums = total - below_high + ramp / 2
        mass, error = (sums[:, :2] + slope * (ramp[:, 2:] - scores[:, None] * ramp[:, :2])).unbind(
            1
        )
        return mass, error

    sums = F.pad(table.cumsum(0), (0, 0, 1, 0))
    found, current = rising(sums[low], sums[high], sums[-1:])
    kept, target = rising(
        *_dominance_sums(by_score, table, as_good.repeat(3), torch.cat((low, high, count))).chunk(3)
    )
    missorted = found - kept  # mass of positives that score higher than their quality allows
    target = target / kept
    excess = (current - target * found) / found  # = E/R - E'/R', the errors
    errors = torch.where(missorted > LEAST, excess.clamp(min=0), 0)
    each = torch.where(missorted > LEAST, errors / missorted, 0)

    # how many y_i > y_j: those that j may stand above wrongly
    better = torch.searchsorted(-quality, -quality)[by_score]
    table = torch.stack((each, each * scores), 1)  # (p,2)
    low, high = (
        torch.searchsorted(scores, end, right=True) for end in (scores - delta, scores + delta)
    )
    low, high = _dominance_sums(by_score, table, better.repeat(2), torch.cat((low, high))).chunk(2)
    ramp = high - low
    charged = low[:, 0] + ramp[:, 0] / 2 + slope * (scores * ramp[:, 0] - ramp[:, 1])
    return found, errors, charged - errors


def _dominance_sums(rank: Tensor, values: Tensor, below: Tensor, first: Tensor) -> Tensor:
    """(q,m) sums of values (p,m) over the elements e < first (q,) with rank[e] < below (q,), where
    rank (p,) is a permutation.

    The ranks 0..k-1 are the union of one aligned block of 2^b ranks for every bit b that is set in
    k. Each bit is one sort by (block, e), one prefix sum and two positions a query.
    """
    count = len(rank)
    total = values.new_zeros(len(below), values.shape[1])
    position = torch.arange(count, device=rank.device)
    for bit in range(count.bit_length()):  # of the number of positives
        keys, order = ((rank >> bit) * count + position).sort()
        sums = F.pad(values[order].cumsum(0), (0, 0, 1, 0))
        is_set = (below >> bit) % 2 == 1
        block = torch.where(is_set, (below >> bit) - 1, 0)
        inside = sums[torch.searchsorted(keys, block * count + first)] - sums[block << bit]
        total += torch.where(is_set[:, None], inside, 0)
    return total


def _slope(delta: float) -> float:
    """Of H on its ramp; for a step, which has no ramp, any finite number."""
    return 1 / (2 * delta) if delta > 0 else 0.0
