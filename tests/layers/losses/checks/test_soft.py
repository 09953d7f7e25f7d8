import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from layers.losses import registry
from layers.losses.checks import contract
from layers.losses.checks.soft import SHARES, measure_soft, soft_notes, soft_targets
from layers.losses.mask import MaskLoss, build_mask_loss
from layers.losses.registry import names, pixel_loss, region_loss


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))


def measured(expression):
    (part,) = MaskLoss(expression).parts
    return measure_soft(part)


def linear(logits, target, *, alpha=0.5):
    """-alpha t log p - (1-alpha) (1-t) log(1-p), written for any t."""
    return alpha * target * F.softplus(-logits) + (1 - alpha) * (1 - target) * F.softplus(logits)


def squares(logits, target):
    return (logits.sigmoid() - target).square()


@pytest.mark.parametrize("name", names())
def test_every_built_in_loss_states_what_it_does(name):
    assert registry.get(name).soft is not None


@pytest.mark.parametrize(
    "expression",
    ["bce", "mse", "l1", "huber", "weighted_bce(alpha=0.2)", "dice(denominator='squares')"],
)
def test_an_exact_loss_is_least_at_the_target(expression):
    found = measured(expression)
    assert found.does == "proper" and found.least == tuple((t, t) for t in SHARES)


def test_products_of_areas_are_least_at_a_full_region():
    """Wang et al., NeurIPS 2023, section 2: for a target of 0.5 soft Jaccard is least at p = 1."""
    for expression in ("jaccard", "dice", "tversky"):
        assert measured(expression).least == tuple((t, 1.0) for t in SHARES)


@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_the_least_p_is_that_of_the_derivative(alpha, own_registry):
    pixel_loss("linear", "cross-entropy", soft="not proper")(linear)
    for t, p in measured(f"linear(alpha={alpha})").least:
        assert p == pytest.approx(alpha * t / (alpha * t + (1 - alpha) * (1 - t)), abs=0.0051)


def test_a_bias_within_masks_alone_is_found():
    """The border of a mask moves; uniform regions are right."""
    found = measured("generalized_dice")
    assert found.does == "not proper" and all(t == p for t, p in found.least)
    assert "border" in soft_notes("generalized_dice")[0]


def test_a_small_bias_is_found(own_registry):
    pixel_loss("linear", "cross-entropy", soft="not proper")(linear)
    assert measured("linear(alpha=0.501)").does == "not proper"
    assert measured("linear(alpha=0.5)").does == "proper"


BY_ALPHA = {True: "proper", False: "not proper"}
WRONG = {
    "said_proper": (linear, lambda params: "proper", "but is least at p = 0.25, 0.43, 0.56"),
    "said_not": (squares, "not proper", "but is least at the target itself: state soft='proper'"),
    "not_finite": (
        lambda logits, target: (
            squares(logits, target) + (target * (1 - target)).log().clamp(min=0)
            if bool(((target == 0) | (target == 1)).all())
            else squares(logits, target) / 0
        ),
        "proper",
        "has a value that is not finite for targets between 0 and 1",
    ),
    "raising": (
        lambda logits, target: squares(logits, {0.0: target}[float(target.max() % 1)]),
        "not proper",
        "raises KeyError",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_statement_fails_the_check(name, own_registry):
    function, soft, message = WRONG[name]
    pixel_loss(name, "wrong on purpose", soft=soft)(function)
    expression = f"{name}(alpha=0.75)" if name == "said_proper" else name
    (failed,) = [result for result in contract.outcomes(expression) if result.failed]
    assert failed.check == "soft targets" and message in failed.message


def test_a_statement_may_depend_on_parameters(own_registry):
    pixel_loss("linear", "", soft=lambda params: BY_ALPHA[params["alpha"] == 0.5])(linear)
    assert soft_targets(MaskLoss("linear")) == soft_targets(MaskLoss("linear(alpha=0.4)")) == ""
    assert registry.get("linear").softness == "proper*"
    assert registry.get("dice").softness == "not proper*"
    assert registry.get("bce").softness == "proper"


def test_what_is_cut_or_not_stated_is_not_checked(own_registry):
    pixel_loss("own", "")(squares)
    assert soft_targets(MaskLoss("own")) is None
    assert soft_targets(MaskLoss("focal")) is None
    assert soft_targets(MaskLoss("focal + bce")) == ""
    assert registry.get("own").softness == "unstated"


def test_who_does_not_state_it_is_told_what_would_be_true(own_registry):
    pixel_loss("own", "")(squares)
    pixel_loss("cases", "of 0 and 1")(
        lambda logits, target: squares(logits, target) / ((target == 0) | (target == 1))
    )
    (note,) = soft_notes("own + bce")
    assert "own is given targets cut at 0.5" in note and "soft='proper' (as measured)" in note
    assert soft_notes("cases")[0].endswith("soft='binary only'")
    contract.refuse_broken("bce + own")
    with pytest.raises(ValueError, match="the term own does not state .* decorator soft='proper'"):
        contract.refuse_broken("bce + own", soft=True)
    contract.refuse_broken("bce + focal + dice", soft=True)


@pytest.mark.parametrize(
    "soft, message",
    [
        ("properly", "mask loss 'own': no soft is called 'properly'; did you mean proper"),
        (lambda params: params["k"], "mask loss 'own' reads 'k' in soft, but has no such param"),
        (lambda params: "never", "mask loss 'own': no soft is called 'never'"),
    ],
)
def test_a_statement_that_cannot_be_read_is_refused(soft, message, own_registry):
    with pytest.raises(ValueError, match=re.escape(message)):
        pixel_loss("own", "", soft=soft)(squares)
    assert "own" not in names()


WHOLE = torch.tensor([[0.0, 0, 1, 1]])


def test_targets_are_cut_for_losses_of_0_and_1_only(own_registry):
    pixel_loss("own", "")(squares)
    region_loss("exact_area", "", soft="proper")(
        lambda logits, target, weight: (weight * squares(logits, target)).sum((1, 2))
    )
    logits = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    soft = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))
    hard = (soft > 0.5).float()

    def value(expression, target):
        return build_mask_loss(expression)(logits, target, WHOLE)

    for cut in ("own", "focal", "lovasz", "unified_focal", "survey_dice"):
        assert torch.equal(value(cut, soft), value(cut, hard))
    for whole in ("bce", "exact_area", "dice", "lovasz(kind='softmax')"):
        assert not torch.isclose(value(whole, soft), value(whole, hard), rtol=1e-3)
    both = build_mask_loss("focal + bce").terms(logits, soft, WHOLE)
    torch.testing.assert_close(both["bce"], value("bce", soft))


def test_points_are_cut_too(own_registry):
    seen = {}

    @pixel_loss(
        "spy", "what it was given", soft=lambda params: "proper" if params["k"] else "binary only"
    )
    def spy(logits, target, *, k: bool = False):
        seen[k] = target
        return squares(logits, target)

    target = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1))
    for whole in (False, True):
        MaskLoss(f"spy(k={whole}, sampling=points(200))", stride=2)(
            torch.zeros(1, 16, 16), target, WHOLE, generator=torch.Generator().manual_seed(0)
        )
    assert torch.equal(seen[False], (seen[True] > 0.5).float())
    assert not torch.equal(seen[False], seen[True])


DOCS = Path(__file__).parents[4] / "docs" / "reference" / "losses.md"


def test_the_documented_table_has_every_loss_as_it_is():
    text = DOCS.read_text(encoding="utf-8").partition("## Targets between 0 and 1")[2]
    rows = re.findall(
        r"^\| (.+?) \| (proper|not proper|binary only) \|", text.partition("\n## ")[0], re.M
    )
    stated = {loss: soft for losses, soft in rows for loss in re.findall(r"`(.+?)`", losses)}
    found = {
        variant: part.info.soft_of(part.params)
        for name in names()
        for variant in contract.variants(name)
        for part in MaskLoss(variant).parts
        if "unsummed" not in variant
    }
    assert (
        found.items()
        <= {
            variant: stated.get(variant, stated.get(variant.partition("(")[0])) for variant in found
        }.items()
    )
    assert {loss.partition("(")[0] for loss in stated} == set(names())
