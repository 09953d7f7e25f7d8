import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from layers.losses.mask import build_mask_loss
from layers.losses.terms.pixel import (
    bce,
    focal,
    huber,
    l1,
    log_cosh_bce,
    mse,
    smooth_l1,
    weighted_bce,
)


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64)[None, None]


QUARTER = math.log(1 / 3)  # the logit of 0.25


def test_by_hand():
    # p = 0.25: on an object pixel the error is 0.75 and the cross-entropy log 4, on background 0.25
    # and log 4/3.
    logits, target = pixels(QUARTER, QUARTER), pixels(1, 0)
    right, wrong = math.log(4 / 3), math.log(4)
    for value, expected in [
        (bce(logits, target), (wrong, right)),
        (weighted_bce(logits, target, alpha=0.8), (0.8 * wrong, 0.2 * right)),
        (focal(logits, target), (0.25 * 0.75**2 * wrong, 0.75 * 0.25**2 * right)),
        (focal(logits, target, alpha=None, gamma=1.0), (0.75 * wrong, 0.25 * right)),
        (mse(logits, target), (0.5625, 0.0625)),
        (l1(logits, target), (0.75, 0.25)),
        (smooth_l1(logits, target, beta=0.5), (0.5, 0.0625)),
        (huber(logits, target, delta=0.5), (0.25, 0.03125)),
        (log_cosh_bce(logits, target), (math.log(math.cosh(wrong)), math.log(math.cosh(right)))),
    ]:
        torch.testing.assert_close(value, pixels(*expected))


def test_alpha_from_the_background_share_is_per_instance():
    target = torch.tensor([[[1.0, 0, 0, 0]], [[1, 1, 1, 0]]])
    value = weighted_bce(torch.zeros(2, 1, 4), target)
    torch.testing.assert_close(
        value, math.log(2) * torch.tensor([[[0.75, 0.25, 0.25, 0.25]], [[0.25, 0.25, 0.25, 0.75]]])
    )
    assert weighted_bce(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).sum() == 0  # nothing to balance


def test_a_positive_class_weight_is_a_coefficient():
    logits, target = torch.randn(3, 5, 5), (torch.rand(3, 5, 5) > 0.5).float()
    boxes = torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4)
    ours = build_mask_loss("4*weighted_bce(alpha=0.75, region='image')")(logits, target, boxes)
    theirs = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(3.0), reduction="none"
    ).mean((1, 2))
    torch.testing.assert_close(ours, theirs)


@given(st.floats(0.01, 0.99))
def test_smooth_l1_is_huber_divided_by_delta(delta):
    logits, target = (
        torch.linspace(-4, 4, 32, dtype=torch.float64).reshape(2, 4, 4),
        torch.arange(32).reshape(2, 4, 4) % 2,
    )
    torch.testing.assert_close(
        smooth_l1(logits, target.double(), beta=delta),
        huber(logits, target.double(), delta=delta) / delta,
    )


def test_log_cosh_bce_does_not_overflow():
    value = log_cosh_bce(torch.tensor([[[-100.0]]]), torch.ones(1, 1, 1))
    assert value.item() == pytest.approx(100 - math.log(2))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_finite_gradient_where_probabilities_round(gamma):
    logits = torch.tensor([[[200.0, -200.0, 200.0, -200.0]]], requires_grad=True)
    focal(logits, torch.tensor([[[1.0, 1, 0, 0]]]), gamma=gamma).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 0, 1] < 0 < logits.grad[0, 0, 2]  # and still pulls wrong pixels


@pytest.mark.parametrize(
    "expression, why",
    [
        ("smooth_l1(beta=1)", "use mse"),
        ("huber(delta=1.5)", "0.5\\*mse"),
        ("weighted_bce(alpha=1)", "cost nothing"),
        ("focal(alpha=0)", "alpha=None"),
        ("focal(gamma=-1)", "outside"),
        ("tversky(alpha=0)", "cost nothing"),
        ("dice(smooth=-1)", "outside"),
        ("lovasz(kind='hing')", "did you mean hinge"),
        ("unified_focal(gamma=1)", "above 0"),
        ("boundary_agreement(width=0)", "outside"),
        ("hausdorff(alpha=0)", "outside"),
        ("survey_huber(delta=0)", "outside"),
        ("focal_tversky(gamma=0)", "outside"),
    ],
)
def test_parameters_out_of_bounds(expression, why):
    with pytest.raises(ValueError, match=why):
        build_mask_loss(expression)
