"""Rank & Sort: equal to the quadratic form written out here, and to hand-worked cases; published
numbers are in reference_cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layers.losses.rank_sort import rank_sort_loss
from tests.sync_counter import counted_syncs


def quadratic(logits, targets, delta):
    """Both losses of float64 logits (n,) and their gradients (n,), pair by pair."""
    rows = (targets > 0).nonzero()[:, 0]
    s, y, count = logits[rows], targets[rows], len(rows)
    difference = logits[None] - s[:, None]  # (p,n)
    h = (difference / (2 * delta) + 0.5).clamp(0, 1) if delta > 0 else (difference >= 0).double()
    negative = h * (targets == 0)
    positive = h[:, rows]
    false = negative.sum(1)
    rank = false + positive.sum(1)
    ranking_grad = (negative / rank[:, None]).sum(0)
    ranking_grad[rows] -= false / rank
    as_good = positive * (y[None] >= y[:, None])
    missorted = positive - as_good
    errors = (positive * (1 - y)).sum(1) / positive.sum(1) - (as_good * (1 - y)).sum(
        1
    ) / as_good.sum(1)
    errors = torch.where(missorted.sum(1) > 1e-10, errors, 0)
    sorting_grad = torch.zeros_like(logits)
    sorting_grad[rows] = (missorted * (errors / missorted.sum(1).clamp(min=1e-10))[:, None]).sum(
        0
    ) - errors
    return (false / rank).mean(), errors.mean(), ranking_grad / count, sorting_grad / count


def ours(logits, targets, delta=0.5, **options):
    logits = logits.clone().requires_grad_()
    ranking, sorting = rank_sort_loss(logits, targets, delta=delta, **options)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ranking, sorting)]
    return ranking.detach(), sorting.detach(), *grads


def assert_equal(logits, targets, delta, tolerance=1e-12):
    for mine, theirs in zip(
        ours(logits, targets, delta), quadratic(logits, targets, delta), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 60),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
    st.sampled_from([0.05, 1.0, 8.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_equals_the_quadratic_form(positives, negatives, delta, spread, ties, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(positives + negatives, generator=generator, dtype=torch.float64)
    targets = torch.zeros(positives + negatives, dtype=torch.float64)
    targets[torch.randperm(len(targets), generator=generator)[:positives]] = torch.rand(
        positives, generator=generator, dtype=torch.float64
    ).clamp(min=1e-3)
    if ties:  # exact in binary, so that equal differences are equal
        logits, targets = (logits * 4).round() / 4, (targets * 4).ceil() / 4
    assert_equal(logits, targets, delta)


@pytest.mark.parametrize("offset", [0, 500])
def test_many_anchors_lose_no_digits(offset):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, generator=generator, dtype=torch.float64) - 4 + offset
    targets = torch.zeros_like(logits)
    targets[:200] = torch.rand(200, generator=generator, dtype=torch.float64) + 1e-3
    logits[:200] += 6
    assert_equal(logits, targets, 0.5, tolerance=1e-11)


def test_a_hand_worked_case():
    """Positives at 0 (quality 0.5) and 10 (quality 0.2), negatives at 10 and -10; H is 1/2 for
    equal logits."""
    logits = torch.tensor([0.0, 10, 10, -10], dtype=torch.float64)
    targets = torch.tensor([0.5, 0.2, 0, 0], dtype=torch.float64)
    ranking, sorting, ranking_grad, sorting_grad = ours(logits, targets)
    # at 0: FP 1, R 1/2 + 1; at 10: FP 1/2, R 1/2
    assert float(ranking) == pytest.approx((1 / 2.5 + 0.5 / 1) / 2)
    torch.testing.assert_close(
        ranking_grad, torch.tensor([-0.4, -0.5, 0.9, 0], dtype=torch.float64) / 2
    )
    # at 0: E/R = (0.5 * 0.5 + 0.8) / 1.5 and E'/R' = 0.5; nothing better stands below the one at 10
    error = 1.05 / 1.5 - 0.5
    assert float(sorting) == pytest.approx(error / 2)
    torch.testing.assert_close(
        sorting_grad, torch.tensor([-error, error, 0, 0], dtype=torch.float64) / 2
    )


def test_each_loss_has_a_gradient_of_its_own():
    """The published backward pass scales both by the weight of the ranking loss."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.rand(50, generator=generator, dtype=torch.float64) * (torch.arange(50) < 20)
    ranking, sorting = rank_sort_loss(logits, targets)
    (weighted,) = torch.autograd.grad(3 * ranking + 7 * sorting, logits)
    _, _, ranking_grad, sorting_grad = quadratic(logits.detach(), targets, 0.5)
    assert sorting_grad.abs().max() > 0
    torch.testing.assert_close(weighted, 3 * ranking_grad + 7 * sorting_grad)


def test_without_positives_both_are_zero_with_a_graph():
    for known in ({}, {"positives": 0}):
        ranking, sorting, ranking_grad, sorting_grad = ours(
            torch.randn(2, 5, 3), torch.zeros(2, 5, 3), **known
        )
        assert (float(ranking), float(sorting)) == (0, 0)
        assert ranking_grad.shape == (2, 5, 3) and not ranking_grad.any() and not sorting_grad.any()


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_one_positive_alone(delta):
    for logits, targets in (
        ([0.3], [0.7]),
        ([0.3, -9.0], [0.7, 0]),
        ([2.0] * 6, [0.4] * 3 + [0] * 3),
        ([2.0] * 6, [1, 0.4, 0.1, 0, 0, 0]),
    ):
        assert_equal(
            torch.tensor(logits, dtype=torch.float64),
            torch.tensor(targets, dtype=torch.float64),
            delta,
        )
    ranking, sorting, *grads = ours(torch.tensor([0.3]), torch.tensor([0.7]), delta)
    assert float(ranking) == float(sorting) == 0 and not any(g.any() for g in grads)


def test_negatives_far_below_get_exactly_no_gradient():
    logits = torch.cat((torch.randn(30), torch.full((1000,), -20.0)))
    targets = torch.cat((torch.rand(30).clamp(min=0.1), torch.zeros(1000)))
    ranking, sorting, ranking_grad, _ = ours(logits, targets)
    assert not ranking_grad[30:].any() and float(ranking) == 0 and float(sorting) > 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)]
)
def test_lower_precisions(dtype, tolerance):
    generator = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(500, generator=generator)).to(dtype)
    targets = (torch.rand(500, generator=generator) * (torch.arange(500) < 60)).to(dtype)
    found = ours(logits, targets)
    expected = quadratic(logits.double(), targets.double(), 0.5)
    assert found[0].dtype == found[1].dtype == torch.float32 and found[2].dtype == dtype
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine.double() - theirs).abs().max()) <= tolerance * max(
            float(theirs.abs().max()), 1 if theirs.dim() == 0 else 0
        )


def test_an_infinite_or_undefined_logit_is_not_hidden():
    for bad in (torch.nan, torch.inf):
        for where in (0, 4):
            logits = torch.zeros(5)
            logits[where] = bad
            assert not all(
                torch.isfinite(loss)
                for loss in rank_sort_loss(logits, torch.tensor([0.5, 0.6, 0, 0, 0]))
            )


def test_the_host_does_not_wait():
    logits = torch.randn(3, 40, 5, requires_grad=True)
    targets = torch.zeros(3, 40, 5)
    targets[:, :4, 2] = torch.rand(3, 4).clamp(min=0.1)
    with counted_syncs() as calls:
        sum(rank_sort_loss(logits, targets, positives=12)).backward()
    assert calls == []
