import math

import pytest
import torch
import torch.nn.functional as F

from layers.losses.terms.stable import (
    absolute_error,
    clamped_bce,
    cross_max,
    focal_bce,
    log_cosh,
    mean,
    power,
    ratio,
)


def test_log_cosh_at_both_ends():
    # At 89 exp overflows in float32; at 1e-4 log(cosh) has lost every digit there.
    x = torch.tensor([100.0, 1e4, 1e-4, 0.0, 1.0])
    torch.testing.assert_close(
        log_cosh(x),
        torch.tensor([100 - math.log(2), 1e4 - math.log(2), 5e-9, 0, math.log(math.cosh(1))]),
    )


def test_log_cosh_against_its_definition():
    x = torch.linspace(0, 20, 4001, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(log_cosh(x), x.cosh().log(), rtol=0, atol=1e-14)
    small, large = torch.tensor([1e-4, 1e30])
    torch.testing.assert_close(log_cosh(small), small**2 / 2)
    assert log_cosh(large) == large
    assert torch.autograd.gradcheck(
        log_cosh,
        torch.tensor([1e-3, 0.1, 1, 9, 19.9, 20.1], dtype=torch.float64, requires_grad=True),
    )


def test_absolute_error_keeps_its_digits():
    value = absolute_error(torch.tensor([30.0, 30.0, -30.0]), torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(value, torch.tensor([math.exp(-30), 1, math.exp(-30)]))


def test_absolute_error_of_targets_between_0_and_1():
    logits = torch.tensor([-3.0, -0.2, 0.0, 0.4, 5.0, 40.0], dtype=torch.float64)[:, None]
    target = torch.tensor([0.0, 0.1, 0.5, 0.51, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        absolute_error(logits, target), (logits.sigmoid() - target).abs(), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_bce_against_its_definition(gamma):
    logits = torch.linspace(-12, 12, 49, dtype=torch.float64, requires_grad=True)
    for target in (torch.zeros_like(logits), torch.ones_like(logits)):
        plain = (logits.sigmoid() - target).abs() ** gamma * F.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )
        torch.testing.assert_close(focal_bce(logits, target, gamma), plain)
        ours, theirs = (
            torch.autograd.grad(value.sum(), logits)[0]
            for value in (focal_bce(logits, target, gamma), plain)
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clamped_bce_is_pytorchs(dtype):
    logits = (
        torch.cat((torch.linspace(-60, 60, 481), torch.tensor([-1e4, 1e4])))
        .to(dtype)
        .requires_grad_()
    )
    for target in (torch.zeros_like(logits), torch.ones_like(logits)):
        values = (
            clamped_bce(logits, target),
            F.binary_cross_entropy(logits.sigmoid(), target, reduction="none"),
        )
        torch.testing.assert_close(*values)
        torch.testing.assert_close(
            *(torch.autograd.grad(value.sum(), logits)[0] for value in values)
        )


@pytest.mark.parametrize("shape", [(3, 7, 9), (2, 1, 5), (1, 1, 1), (2, 2, 1)])
def test_cross_maximum_is_pooling_along_both_axes(shape):
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, dtype=torch.float64)
    pooled = [
        F.max_pool2d(x, window, stride=1, padding=(window[0] // 2, window[1] // 2))
        for window in ((3, 1), (1, 3))
    ]
    ours, theirs = cross_max(x), torch.maximum(*pooled)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    ours, theirs = (torch.autograd.grad(value, x, upstream)[0] for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs)


def test_equal_neighbours_share_the_gradient():
    x = torch.tensor([[[1.0, 1, 0, 1, 1, 1]]], requires_grad=True)
    upstream = torch.tensor([[[1.0, 2, 4, 8, 16, 32]]])
    (gradient,) = torch.autograd.grad(cross_max(x), x, upstream)
    assert gradient.sum() == upstream.sum() and gradient[0, 0, 2] == 0


def test_nothing_divided_by_nothing_is_nothing():
    x = torch.zeros(2, requires_grad=True)
    value = ratio(x, x * 1) + power(x, 0.75) + mean(x[:, None, None], torch.zeros(2, 1, 1))
    assert (value == 0).all()
    value.sum().backward()
    assert x.grad.isfinite().all()
