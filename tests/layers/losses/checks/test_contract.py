import pytest
import torch

from layers.losses import registry
from layers.losses.checks import contract
from layers.losses.mask import build_mask_loss
from layers.losses.registry import names, pixel_loss, region_loss

COMBINATIONS = [
    "bce + 0.5*mse(region='image')",
    "dice(region='image')",
    "focal + dice(denominator='squares')",
    "survey_dice(outside='charge')",
    "dice + boundary(weight=ramp(0.01, 1, end=100))",
    "tversky(alpha=0.7, beta=0.3, smooth=0)",
    "focal(alpha=None, gamma=0.5)",
    "focal_tversky(gamma=2)",
    "boundary_agreement(width=2)",
    "hausdorff(alpha=0.5)",
    "generalized_dice(region='image')",
    "lovasz(region='image')",
    "unified_focal(gamma=0, mix=1)",
    "bce(sampling=hardest(0.2))",
    "focal(sampling=points(40)) + dice",
    "mse(region='image', sampling=hardest(1))",
    "bce(balance='equal') + dice(balance='sqrt_area')",
    "bce(weight=learned) + dice(weight=learned)",
    "bce + 0.5*mse(match='grad')",
    "bce(weight=ramp(0, 1))",
    "dice + boundary(weight=ramp(0, 1, start=5))",
    "bce(weight=cosine(1, 0, end=9)) + dice(weight=ramp(0, 1, start=10))",
]


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))


def failures(expression):
    return {
        result.check: result.message for result in contract.outcomes(expression) if result.failed
    }


@pytest.mark.parametrize(
    "expression",
    [variant for name in names() for variant in contract.variants(name)] + COMBINATIONS,
)
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
        pixel_loss("wrong", "", signed=True, signed_when={"constnat": False})(
            lambda logits, target, *, constant=True: logits
        )


def squares(logits, target):
    return (logits.sigmoid() - target).square()


# What is wrong, how it is written, and the check that must say so.
BROKEN_PIXEL = {
    "other_dtype": (lambda logits, target: squares(logits, target).double(), "shape"),
    "negative": (lambda logits, target: -squares(logits, target), "sign"),
    "never_zero": (lambda logits, target: squares(logits, target) + 0.01, "zero at a perfect mask"),
    "logarithm_of_zero": (
        lambda logits, target: (
            -torch.where(target > 0.5, logits.sigmoid().log(), (1 - logits.sigmoid()).log())
        ),
        "finite at extremes",
    ),
    "infinite_gradient": (
        lambda logits, target: squares(logits, target).pow(0.25),
        "finite at extremes",
    ),
    "half": (lambda logits, target: squares(logits, target).half(), "shape"),
    "without_graph": (lambda logits, target: squares(logits, target).detach(), "shape"),
    "whole_target": (
        lambda logits, target: squares(logits, target) * target.mean((1, 2), keepdim=True),
        "weight zero",
    ),
    "detached": (lambda logits, target: squares(logits, target).detach() + 0 * logits, "gradient"),
    "shifted": (
        lambda logits, target: (
            squares(logits, target) * torch.linspace(0.5, 1, logits.shape[-1], dtype=logits.dtype)
        ),
        "flips",
    ),
    "batch_mean": (lambda logits, target: squares(logits, target) * target.mean(), "alone"),
    "first_of_batch": (
        lambda logits, target: squares(logits, target) * (1 + target[:1].mean()),
        "permutation",
    ),
    "wrong_target": (
        lambda logits, target: (logits.sigmoid() - target.flip(1)).square(),
        "zero at a perfect mask",
    ),
    "blind_on_objects": (lambda logits, target: (1 - target) * squares(logits, target), "descent"),
    "raises": (lambda logits, target: squares(logits, target[0, 0, 0, 0]), "shape"),
}
BROKEN_REGION = {
    "ignores_weight": (
        lambda logits, target, weight: squares(logits, target).mean((1, 2)),
        "weight zero",
    ),
    "pooled": (
        lambda logits, target, weight: (
            (weight * squares(logits, target)).sum() / weight.sum().clamp(min=1)
        ).expand(len(logits)),
        "alone",
    ),
    "divides_by_area": (
        lambda logits, target, weight: (
            (weight * squares(logits, target)).sum((1, 2)) / target.sum((1, 2))
        ),
        "finite at extremes",
    ),
}


@pytest.mark.parametrize("name", BROKEN_PIXEL)
def test_a_broken_pixel_loss_is_found(name, own_registry):
    function, check = BROKEN_PIXEL[name]
    pixel_loss(name, "broken on purpose")(lambda logits, target: function(logits, target))
    assert failures(name).get(check)


@pytest.mark.parametrize("name", BROKEN_REGION)
def test_a_broken_region_loss_is_found(name, own_registry):
    function, check = BROKEN_REGION[name]
    region_loss(name, "broken on purpose")(
        lambda logits, target, weight: function(logits, target, weight)
    )
    assert failures(name).get(check)


def test_a_term_is_checked_at_its_full_weight(own_registry):
    pixel_loss("negative", "broken on purpose")(lambda logits, target: -squares(logits, target))
    assert set(failures("0.01*bce + negative(weight=ramp(0, 3, start=10))")) >= {"sign", "descent"}


def test_what_does_not_apply_is_told_from_what_passed():
    left_out = {
        result.check
        for result in contract.outcomes("bce(sampling=points(40))")
        if not result.applies
    }
    assert left_out == {"permutation", "alone", "flips"}
    assert {
        result.check
        for result in contract.outcomes("boundary(constant=False)")
        if not result.applies
    } == {"sign", "zero at a perfect mask"}
    assert all(result.applies and not result.failed for result in contract.outcomes("dice"))


def test_a_loss_that_reads_the_whole_target_says_so():
    assert "pixels outside the box" in contract.notes("bce + weighted_bce")[0]
    assert contract.notes("weighted_bce(alpha=0.3) + weighted_bce(region='image')") == []


@pytest.mark.parametrize(
    "function, message",
    [
        (
            lambda logits, target: squares(logits, target).mean(),
            r"the term own must return a tensor of shape \(4, 16, 16\), got \(\): mend",
        ),
        (
            lambda logits, target: squares(logits, target).half(),
            "the term own must return floating-point numbers in the dtype",
        ),
        (
            lambda logits, target: squares(logits, target).detach(),
            "the term own has no gradient with respect to the logits: mend the loss",
        ),
        (
            lambda logits, target, *, k=1.0: squares(logits, target) * torch.tensor(10.0) ** k,
            "own.k=400. has a value that is not finite.*: choose another k; own alone is",
        ),
    ],
)
def test_what_a_training_refuses(function, message, own_registry):
    pixel_loss("own", "broken on purpose")(function)
    with pytest.raises(ValueError, match=message):
        contract.refuse_broken("bce + own(k=400)" if "k=400" in message else "bce + own")


def test_a_schedule_that_is_0_all_the_time_is_refused():
    contract.refuse_broken("bce + dice(weight=ramp(0, 1, start=100000))")
    contract.refuse_broken(
        "bce + dice(weight=ramp(0, 1, start=1000)) + mse(weight=cosine(1, 0, end=3))",
        total_steps=1100,
    )
    with pytest.raises(
        ValueError,
        match="the term dice has weight=ramp.0, 1, start=100000., which is 0 in all 1100 steps",
    ):
        contract.refuse_broken("bce + dice(weight=ramp(0, 1, start=100000))", total_steps=1100)


def test_an_extra_that_the_checks_cannot_make_is_named(own_registry):
    @pixel_loss("depth_loss", "needs a depth map", needs=("depth",))
    def depth_loss(logits, target, *, depth):
        return depth * squares(logits, target)

    assert "needs depth, but no function" in failures("depth_loss")["shape"]
