import pytest
import torch

from layers.losses import contract, registry
from layers.losses.mask import build_mask_loss
from layers.losses.registry import names, pixel_loss, region_loss

COMBINATIONS = ["bce + 0.5*mse(region='image')", "dice(region='image')", "focal + dice(denominator='squares')",
                "survey_dice(outside='charge')", "dice + boundary(weight=ramp(0.01, 1, end=100))", "tversky(alpha=0.7, beta=0.3, smooth=0)",
                "focal(alpha=None, gamma=0.5)", "focal_tversky(gamma=2)", "boundary_agreement(width=2)", "hausdorff(alpha=0.5)",
                "generalized_dice(region='image')", "lovasz(region='image')", "unified_focal(gamma=0, mix=1)",
                "bce(sampling=hardest(0.2))", "focal(sampling=points(40)) + dice", "mse(region='image', sampling=hardest(1))",
                "bce(balance='equal') + dice(balance='sqrt_area')", "bce(weight=learned) + dice(weight=learned)",
                "bce + 0.5*mse(match='grad')"]


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_losses", dict(registry._losses))


def failures(expression):
    return {result.check: result.message for result in contract.run(expression) if not result.passed}


@pytest.mark.parametrize("expression", [variant for name in names() for variant in contract.variants(name)] + COMBINATIONS)
def test_registered_losses_keep_the_contract(expression):
    assert failures(expression) == {}


def test_variants_are_every_other_choice():
    assert contract.variants("dice") == ["dice", "dice(denominator='squares')"]
    assert contract.variants("boundary") == ["boundary", "boundary(constant=False)"]
    assert contract.variants("bce") == ["bce"]


def test_signed_for_some_parameters_only():
    assert not contract.is_signed(build_mask_loss("boundary + bce"))
    assert contract.is_signed(build_mask_loss("boundary(constant=False) + bce"))
    assert registry.get("boundary").signed is True
    with pytest.raises(ValueError, match="constnat in signed_when"):
        pixel_loss("wrong", "", signed=True, signed_when={"constnat": False})(lambda logits, target, *, constant=True: logits)


def squares(logits, target):
    return (logits.sigmoid() - target).square()


# What is wrong, how it is written, and the check that must say so.
BROKEN_PIXEL = {
    "other_dtype": (lambda logits, target: squares(logits, target).double(), "shape"),
    "negative": (lambda logits, target: -squares(logits, target), "sign"),
    "never_zero": (lambda logits, target: squares(logits, target) + 0.01, "zero at a perfect mask"),
    "logarithm_of_zero": (lambda logits, target: -torch.where(target > 0.5, logits.sigmoid().log(), (1 - logits.sigmoid()).log()),
                          "finite at extremes"),
    "infinite_gradient": (lambda logits, target: squares(logits, target).pow(0.25), "finite at extremes"),
    "detached": (lambda logits, target: squares(logits, target).detach() + 0 * logits, "gradient"),
    "shifted": (lambda logits, target: squares(logits, target) * torch.linspace(0.5, 1, logits.shape[-1], dtype=logits.dtype), "flips"),
    "batch_mean": (lambda logits, target: squares(logits, target) * target.mean(), "alone"),
    "first_of_batch": (lambda logits, target: squares(logits, target) * (1 + target[:1].mean()), "permutation"),
    "wrong_target": (lambda logits, target: (logits.sigmoid() - target.flip(1)).square(), "zero at a perfect mask"),
    "blind_on_objects": (lambda logits, target: (1 - target) * squares(logits, target), "descent"),
    "raises": (lambda logits, target: squares(logits, target[0, 0, 0, 0]), "shape"),
}
BROKEN_REGION = {
    "ignores_weight": (lambda logits, target, weight: squares(logits, target).mean((1, 2)), "weight zero"),
    "pooled": (lambda logits, target, weight: ((weight * squares(logits, target)).sum() / weight.sum().clamp(min=1)).expand(len(logits)),
               "alone"),
    "divides_by_area": (lambda logits, target, weight: (weight * squares(logits, target)).sum((1, 2)) / target.sum((1, 2)),
                        "finite at extremes"),
}


@pytest.mark.parametrize("name", BROKEN_PIXEL)
def test_a_broken_pixel_loss_is_found(name, own_registry):
    function, check = BROKEN_PIXEL[name]
    pixel_loss(name, "broken on purpose")(lambda logits, target: function(logits, target))
    assert failures(name).get(check)


@pytest.mark.parametrize("name", BROKEN_REGION)
def test_a_broken_region_loss_is_found(name, own_registry):
    function, check = BROKEN_REGION[name]
    region_loss(name, "broken on purpose")(lambda logits, target, weight: function(logits, target, weight))
    assert failures(name).get(check)


def test_an_extra_that_the_checks_cannot_make_is_named(own_registry):
    @pixel_loss("depth_loss", "needs a depth map", needs=("depth",))
    def depth_loss(logits, target, *, depth):
        return depth * squares(logits, target)

    assert "depth" in failures("depth_loss")["shape"]
