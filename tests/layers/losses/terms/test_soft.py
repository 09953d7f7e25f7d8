import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers.losses.checks.compare import compare_losses, same_up_to_factor
from layers.losses.registry import get
from layers.losses.terms.pixel import bce, focal
from layers.losses.terms.region import dice, jaccard
from layers.losses.terms.soft import quality_focal, soft_dice, soft_jaccard, sums

STORED = Path(__file__).parents[3] / "reference" / "assigners_losses" / "7_soft_losses"
FORMS = ("sum", "product")


def instances(seed=0, *, binary=False):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    target = torch.rand(5, 6, 7, generator=generator, dtype=torch.float64)
    weight = torch.rand(5, 6, 7, generator=generator, dtype=torch.float64)
    return logits, (target > 0.6).double() if binary else target, weight


def test_by_hand():
    """p = 0.5 and 0.25 against 1 and 0.5: E = 0.75, S = 2.25, P = 0.625."""
    logits = torch.tensor([[[0.5, 0.25]]], dtype=torch.float64).logit()
    target = torch.tensor([[[1.0, 0.5]]], dtype=torch.float64)
    given = logits, target, torch.ones_like(target)
    assert [value.item() for value in sums(*given)] == pytest.approx([0.75, 2.25, 0.625])
    values = {
        (loss, form, smooth): loss(*given, form=form, smooth=smooth).item()
        for loss in (soft_jaccard, soft_dice)
        for form in FORMS
        for smooth in (0.0, 0.5)
    }
    assert values == pytest.approx(
        {
            (soft_jaccard, "sum", 0.0): 1 - 0.75 / 1.5,  # sums of minima and maxima
            (soft_jaccard, "sum", 0.5): 1 - 1.25 / 2,
            (soft_jaccard, "product", 0.0): 1 - 0.625 / 1.375,
            (soft_jaccard, "product", 0.5): 1 - 1.125 / 1.875,
            (soft_dice, "sum", 0.0): 1 - 1.5 / 2.25,
            (soft_dice, "sum", 0.5): 1 - 2 / 2.75,
            (soft_dice, "product", 0.0): 1 - 1.25 / 2,
            (soft_dice, "product", 0.5): 1 - 1.75 / 2.5,
        }
    )
    assert quality_focal(logits, target, beta=2.0)[0, 0, 0].item() == pytest.approx(
        0.25 * 0.6931471805599453
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smooth", [0.0, 1.0, 7.5])
@pytest.mark.parametrize("soft, hard", [(soft_jaccard, jaccard), (soft_dice, dice)])
def test_with_targets_of_0_and_1_they_are_the_ordinary_losses(soft, hard, smooth, form):
    logits, target, weight = instances(binary=True)
    target[0] = 0
    weight[1] = 0
    torch.testing.assert_close(
        soft(logits, target, weight, form=form, smooth=smooth),
        hard(logits, target, weight, smooth=smooth),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.5])
def test_quality_focal_of_0_and_1_is_focal(beta):
    logits, target, _ = instances(binary=True)
    torch.testing.assert_close(
        quality_focal(logits, target, beta=beta),
        focal(logits, target, alpha=None, gamma=beta),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "soft, hard",
    [
        ("soft_jaccard", "jaccard"),
        ("soft_dice(form='product')", "dice"),
        ("quality_focal", "focal(alpha=None)"),
    ],
)
def test_copies_are_told_by_the_targets(soft, hard):
    assert same_up_to_factor(soft, hard) == pytest.approx(1)
    found = compare_losses(soft, hard, soft=True)
    assert found.except_at == ("targets between 0 and 1",)


@given(seed=st.integers(0, 1000), form=st.sampled_from(FORMS), smooth=st.sampled_from([0.0, 1.0]))
def test_0_at_the_target_alone(seed, form, smooth):
    logits, target, weight = instances(seed)
    for loss in (soft_jaccard, soft_dice):
        at_target = loss(target.logit(), target, weight, form=form, smooth=smooth)
        assert at_target.max() < 1e-15
        one_off = target.logit()
        one_off[:, 2, 3] += 0.01
        assert (loss(one_off, target, weight, form=form, smooth=smooth) > 1e-9).all()
        assert (loss(logits, target, weight, form=form, smooth=smooth) <= 1).all()
    assert quality_focal(target.logit(), target).max() < 1e-15


def test_the_sum_form_of_jaccard_is_a_distance():
    """The triangle inequality, which the paper proves of it."""
    p, q, r = (instances(seed)[1] for seed in (1, 2, 3))
    ones = torch.ones_like(p)

    def apart(a, b):
        return soft_jaccard(a.logit(), b, ones, smooth=0.0)

    torch.testing.assert_close(apart(p, q), apart(q, p))
    assert (apart(p, r) <= apart(p, q) + apart(q, r)).all()


def test_agrees_with_public_code():
    """See tests/reference/README.md."""
    stored = json.loads((STORED / "soft_losses.json").read_text(encoding="utf-8"))
    logits, target = (
        torch.tensor(stored[name], dtype=torch.float64) for name in ("logits", "target")
    )
    assert ((target > 0) & (target < 1)).sum() > 20 and len(stored["losses"]) == 4
    for row in stored["losses"]:
        x = logits.clone().requires_grad_()
        value = get(row["loss"]).function(x, target, torch.ones_like(x), smooth=row["smooth"])
        for source in ("smp", "jdt"):
            assert value.tolist() == pytest.approx(row[source], abs=1e-12)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        p = logits.sigmoid()
        theirs = torch.tensor(row["smp_gradients"], dtype=torch.float64).view_as(p) * p * (1 - p)
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-12)


def test_gradients_stay_finite_where_logits_are_sure():
    logits = torch.tensor([[[-200.0, 200.0, 200.0, 0.0]]], requires_grad=True)
    target = torch.tensor([[[0.25, 0.75, 1.0, 0.5]]])
    losses = [
        quality_focal(logits, target, beta=1.0).sum(),
        soft_jaccard(logits, target, torch.ones_like(target)).sum(),
        bce(logits, target).sum(),
    ]
    for value in losses:
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and gradient.isfinite().all()
