import math

import pytest
import torch
import torch.nn.functional as F

from layers.losses.mask import build_mask_loss
from layers.losses.terms.pixel import log_cosh_bce, mse
from layers.losses.terms.survey import (
    survey_dice,
    survey_huber,
    survey_log_cosh_bce,
    survey_log_cosh_dice,
)

BOX = torch.tensor([[0.25, 0.25, 0.75, 0.75]])


def random_pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, 8, generator=generator, dtype=torch.float64), (
        torch.rand(3, 8, 8, generator=generator) > 0.5
    ).double()


def test_dice_is_per_pixel():
    # p = 0.5: (2 * 0.5 + 0.1) / (1.5 + 0.1) on an object pixel, 0.1 / 0.6 on background
    value = survey_dice(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0]]]))
    torch.testing.assert_close(value, torch.tensor([[[1 - 1.1 / 1.6, 1 - 0.1 / 0.6]]]))
    torch.testing.assert_close(
        survey_log_cosh_dice(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0]]])), value.cosh().log()
    )


@pytest.mark.parametrize("delta", [1.0, 1.3, 1.5, 2.0, 3.0])
def test_huber_beyond_one_is_half_of_mse(delta):
    logits, target = random_pixels()
    torch.testing.assert_close(
        survey_huber(logits, target, delta=delta), mse(logits, target) / 2, rtol=0, atol=0
    )


def test_log_cosh_bce_sees_clamped_logarithms():
    logits, target = random_pixels()
    torch.testing.assert_close(survey_log_cosh_bce(logits, target), log_cosh_bce(logits, target))
    # infinite in the original
    worst = survey_log_cosh_bce(torch.tensor([[[-1000.0]]]), torch.ones(1, 1, 1))
    assert worst.item() == pytest.approx(100 - math.log(2))


@pytest.mark.parametrize(
    "name, at_a_missed_pixel",
    [
        ("survey_dice", 1 - 0.1 / 1.1),
        ("survey_log_cosh_dice", math.log(math.cosh(1 - 0.1 / 1.1))),
        ("survey_huber", 0.5),
        ("survey_log_cosh_bce", 100 - math.log(2)),
    ],
)
def test_charged_outside_the_box_as_a_probability_of_zero(name, at_a_missed_pixel):
    target = torch.zeros(1, 8, 8)
    target[0, 0, :3] = 1  # outside the grown box of 6 x 6 pixels, whose own area is 16
    logits = torch.randn(1, 8, 8)
    inside, charged = (
        build_mask_loss(f"{name}(outside='{outside}')")(logits, target, BOX)
        for outside in ("ignore", "charge")
    )
    assert (charged - inside).item() == pytest.approx(3 * at_a_missed_pixel / 16, rel=1e-5)


def test_unsummed_is_the_mean_over_everything():
    logits, target = random_pixels()
    boxes = BOX.double().expand(3, 4)
    total = build_mask_loss("survey_log_cosh_bce(region='image', unsummed=True)")(
        logits, target, boxes
    ).sum()
    expected = (
        F.binary_cross_entropy_with_logits(logits, target, reduction="none").cosh().log().mean()
        / 64
    )
    torch.testing.assert_close(total, expected)
