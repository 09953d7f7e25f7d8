import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers.losses.terms.region import (
    areas,
    dice,
    focal_tversky,
    generalized_dice,
    jaccard,
    log_cosh_bce_dice,
    log_cosh_dice,
    tversky,
    unified_focal,
)

HALF = torch.tensor([[[0.0, 0, 0, 0]]], dtype=torch.float64)  # p = 0.5 everywhere
TARGET = torch.tensor([[[1.0, 0, 0, 0]]], dtype=torch.float64)
ONES = torch.ones_like(HALF)


def random_instances(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 6, 7, generator=generator, dtype=torch.float64)
    target = (torch.rand(4, 6, 7, generator=generator) > 0.6).double()
    weight = (torch.rand(4, 6, 7, generator=generator) > 0.3).double()
    return logits, target, weight


def test_by_hand():
    # TP = 0.5, FP = 1.5, FN = 0.5, TN = 1.5
    assert [float(a) for a in areas(HALF, TARGET, ONES)] == [0.5, 1.5, 0.5, 1.5]
    assert dice(HALF, TARGET, ONES, smooth=0.0).item() == pytest.approx(1 - 1 / 3)
    assert dice(HALF, TARGET, ONES).item() == pytest.approx(1 - 2 / 4)
    assert dice(HALF, TARGET, ONES, denominator="squares", smooth=0.0).item() == pytest.approx(
        1 - 1 / 2
    )
    assert jaccard(HALF, TARGET, ONES, smooth=0.0).item() == pytest.approx(1 - 0.5 / 2.5)
    assert tversky(HALF, TARGET, ONES).item() == pytest.approx(
        1 - 1.5 / (1.5 + 0.3 * 1.5 + 0.7 * 0.5)
    )
    assert focal_tversky(HALF, TARGET, ONES).item() == pytest.approx((1 - 1.5 / 2.3) ** 0.75)
    assert log_cosh_dice(HALF, TARGET, ONES).item() == pytest.approx(math.log(math.cosh(0.5)))
    assert log_cosh_bce_dice(HALF, TARGET, ONES).item() == pytest.approx(
        math.log(math.cosh(math.log(2) + 0.5))
    )
    # w = 1 and 1/9: 1 - 2 (0.5 + 1.5/9) / ((1 + 2) + (3 + 2) / 9)
    assert generalized_dice(HALF, TARGET, ONES).item() == pytest.approx(
        1 - 2 * (0.5 + 1.5 / 9) / (3 + 5 / 9)
    )


def test_areas_of_targets_between_0_and_1():
    logits, _, w = random_instances()
    g = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = logits.sigmoid()
    written = [(w * a * b).sum((1, 2)) for a, b in ((p, g), (p, 1 - g), (1 - p, g), (1 - p, 1 - g))]
    for ours, theirs in zip(areas(logits, g, w), written, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        dice(logits, g, w, denominator="squares", smooth=0.5),
        1 - (2 * written[0] + 0.5) / ((w * (p**2 + g**2)).sum((1, 2)) + 0.5),
    )


@pytest.mark.parametrize("form", ["symmetric", "asymmetric"])
def test_unified_focal_by_the_written_formula(form):
    logits, target, weight = random_instances()
    mix, delta, gamma = 0.3, 0.7, 0.4
    value = unified_focal(logits, target, weight, form=form, mix=mix, delta=delta, gamma=gamma)
    for row in range(4):
        p, g = logits[row].sigmoid()[weight[row] == 1], target[row][weight[row] == 1]
        front = -g * delta * p.log() * ((1 - p) ** gamma if form == "symmetric" else 1)
        back = -(1 - g) * (1 - delta) * (1 - p).log() * p**gamma
        index = [
            (a * b).sum()
            / ((a * b).sum() + delta * ((1 - a) * b).sum() + (1 - delta) * (a * (1 - b)).sum())
            for a, b in ((p, g), (1 - p, 1 - g))
        ]
        tversky_part = (
            (1 - index[0]) ** (1 - gamma)
            + (1 - index[1]) ** (1 - gamma if form == "symmetric" else 1)
        ) / 2
        expected = mix * tversky_part + (1 - mix) * (front + back).mean()
        torch.testing.assert_close(value[row], expected)


@given(st.floats(0, 10))
def test_tversky_contains_dice_and_jaccard(smooth):
    given_ = random_instances()
    torch.testing.assert_close(
        tversky(*given_, alpha=0.5, beta=0.5, smooth=smooth / 2), dice(*given_, smooth=smooth)
    )
    torch.testing.assert_close(
        tversky(*given_, alpha=1.0, beta=1.0, smooth=smooth), jaccard(*given_, smooth=smooth)
    )


@pytest.mark.parametrize(
    "loss",
    [
        dice,
        generalized_dice,
        jaccard,
        tversky,
        focal_tversky,
        log_cosh_dice,
        log_cosh_bce_dice,
        unified_focal,
    ],
)
def test_weight_zero_is_the_same_as_no_pixel(loss):
    logits, target, _ = random_instances()
    weight = torch.zeros_like(target)
    weight[:, 1:5, 2:6] = 1
    inner = (slice(None), slice(1, 5), slice(2, 6))
    torch.testing.assert_close(
        loss(logits, target, weight), loss(logits[inner], target[inner], weight[inner])
    )


@pytest.mark.parametrize(
    "loss",
    [
        dice,
        generalized_dice,
        jaccard,
        tversky,
        focal_tversky,
        log_cosh_dice,
        log_cosh_bce_dice,
        unified_focal,
    ],
)
def test_instances_are_not_pooled(loss):
    given_ = random_instances()
    alone = torch.cat([loss(*(t[row : row + 1] for t in given_)) for row in range(4)])
    torch.testing.assert_close(loss(*given_), alone)


def test_without_smoothing_an_empty_target_costs_one_and_nothing_at_all_costs_nothing():
    empty = torch.zeros_like(TARGET)
    assert dice(HALF, empty, ONES, smooth=0.0).item() == 1
    for loss in (dice, jaccard, tversky, generalized_dice, focal_tversky, unified_focal):
        logits = HALF.clone().requires_grad_()
        value = loss(
            logits,
            TARGET,
            torch.zeros_like(ONES),
            **({"smooth": 0.0} if loss not in (generalized_dice, unified_focal) else {}),
        )
        value.sum().backward()
        assert value.item() == 0 and (logits.grad == 0).all()


def test_no_digits_are_lost_near_a_perfect_mask():
    # The errors are 1e-9 of the area: 1 - (2 I + 1) / (D + 1) would be 0 or 6e-8 in float32.
    logits = torch.full((1, 10, 10), 20.0).requires_grad_()
    value = dice(logits, torch.ones(1, 10, 10), torch.ones(1, 10, 10))
    assert value.item() == pytest.approx(100 * math.exp(-20) / 201, rel=1e-3)
    value.backward()
    assert (logits.grad < 0).all()
