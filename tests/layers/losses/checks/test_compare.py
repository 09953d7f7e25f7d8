from itertools import combinations

import pytest

from layers.losses import registry
from layers.losses.checks import compare
from layers.losses.checks.compare import compare_losses, copies, same_up_to_factor
from layers.losses.registry import pixel_loss


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))


@pytest.mark.parametrize(
    "a, b, factor",
    [
        ("survey_huber", "mse", 0.5),
        ("mse", "survey_huber(delta=3)", 2),
        ("survey_huber(delta=1.3)", "survey_huber(delta=2)", 1),
        ("2*bce", "bce", 2),
        ("bce + 0.5*mse", "mse + 2*bce", 0.5),
        ("smooth_l1(beta=0.2)", "huber(delta=0.2)", 5),
        ("dice", "tversky(alpha=0.5, beta=0.5, smooth=0.5)", 1),
        ("weighted_bce(alpha=0.5)", "bce", 0.5),
        ("focal(gamma=0, alpha=None)", "bce", 1),
        ("bce(weight=ramp(0, 1, end=10))", "bce(weight=ramp(0, 4, end=10))", 0.25),
        ("lovasz", "3*lovasz", 1 / 3),
        ("hausdorff", "2*hausdorff", 0.5),
        ("bce(region='image')", "4*bce(region='image')", 0.25),
    ],
)
def test_one_loss_up_to_a_factor(a, b, factor):
    assert same_up_to_factor(a, b) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    "a, b",
    [
        ("survey_huber(delta=0.99)", "mse"),
        ("bce", "mse"),
        ("bce", "bce(region='image')"),
        ("bce", "bce(outside='charge')"),
        ("bce + 0.5*mse", "bce + 0.5*mse(region='image')"),
        ("dice", "jaccard"),
        ("dice(smooth=1)", "dice(smooth=1.001)"),
        ("dice", "dice(denominator='squares')"),
        ("survey_dice", "dice"),
        ("bce", "bce(weight=ramp(0, 1))"),
        ("bce(weight=ramp(0, 1))", "bce(weight=cosine(0, 1))"),
        ("bce(weight=ramp(0, 1, end=10))", "bce(weight=ramp(0, 1, end=20))"),
        ("focal(gamma=2)", "focal(gamma=2.01)"),
    ],
)
def test_different_losses(a, b):
    assert same_up_to_factor(a, b) is None
    assert same_up_to_factor(b, a) is None


def test_the_same_gradient_with_another_value_is_said():
    found = compare_losses("boundary", "boundary(constant=False)")
    assert found.shifted and not found.same and found.factor == pytest.approx(1)
    assert "train alike" in str(found)
    assert same_up_to_factor("boundary", "boundary(constant=False)") is None


@pytest.mark.parametrize(
    "a, b, factor",
    [
        ("bce(weight=learned) + mse", "bce + mse(weight=learned)", None),
        ("bce(match='grad') + mse", "bce + mse(match='grad')", None),
        ("bce(balance='equal') + mse", "bce + mse(balance='equal')", None),
        ("bce(rescale=False) + mse", "bce + mse(rescale=False)", None),
        # each group is proportional, the ratios are not equal
        ("bce + dice(rescale=False)", "2*bce + dice(rescale=False)", None),
        ("bce + dice(rescale=False)", "2*dice(rescale=False) + 2*bce", 0.5),
        (
            "bce(weight=learned) + dice(weight=learned)",
            "dice(weight=learned) + bce(weight=learned)",
            1,
        ),
        ("mse(weight=learned)", "survey_huber(weight=learned)", None),  # s makes up for the ratio
        # equal sums
        (
            "2*mse(weight=learned) + survey_huber(weight=learned)",
            "mse(weight=learned) + 3*survey_huber(weight=learned)",
            None,
        ),
        # the norms make up for the ratio
        ("bce + mse(match='grad')", "survey_huber(match='grad') + bce", 1),
        ("2*bce + mse(match='grad')", "bce + mse(match='grad')", 2),
        ("2*bce + 2*mse(match='grad')", "bce + mse(match='grad')", None),
        (
            "bce + mse(match='grad') + dice(match='grad')",
            "bce + dice(match='grad') + mse(match='grad')",
            1,
        ),
    ],
)
def test_options_belong_to_their_terms(a, b, factor):
    assert same_up_to_factor(a, b) == (None if factor is None else pytest.approx(factor))
    assert same_up_to_factor(b, a) == (None if factor is None else pytest.approx(1 / factor))


@pytest.mark.parametrize(
    "other, what",
    [
        ("bce(region='image', rescale=False)", "rescale"),
        ("bce(region='image', balance='equal')", "balance"),
        ("bce(region='image', weight=learned)", "weight=learned"),
    ],
)
def test_an_option_that_makes_the_difference_is_named(other, what):
    found = compare_losses("bce(region='image')", other)
    assert not found.same and str(found).endswith(
        f"are different losses: their terms differ in {what}"
    )
    assert copies(["bce(region='image')", other]) == []


def test_a_difference_at_sure_logits_only_is_said(own_registry):
    @pixel_loss("clamped_bce", "cross-entropy that no logit beyond 40 moves")
    def clamped_bce(logits, target):
        return registry.get("bce").function(logits.clamp(-40, 40), target)

    found = compare_losses("clamped_bce", "bce")
    assert found.factor == pytest.approx(1) and not found.same and not found.shifted
    assert "rounds to 0 or 1" in str(found)


def test_a_difference_at_soft_targets_only_is_said_where_they_are_asked_for():
    pair = "boundary(constant=False)", "boundary"
    assert "between 0 and 1" not in str(compare_losses(*pair))
    assert str(compare_losses(*pair, soft=True)).endswith("except at targets between 0 and 1")
    assert same_up_to_factor("focal(gamma=0, alpha=None)", "bce") == pytest.approx(1)
    assert same_up_to_factor("focal(gamma=0, alpha=None)", "bce", soft=True) is None
    assert same_up_to_factor("survey_huber", "mse", soft=True) == pytest.approx(0.5)
    (found,) = copies(["focal(gamma=0, alpha=None)"], among=["bce"], soft=True)
    assert found.except_at == ("targets between 0 and 1",)


def test_sentences():
    assert str(compare_losses("survey_huber", "mse")) == "survey_huber = 0.5 * mse"
    assert str(compare_losses("mse + bce", "bce + mse")) == "mse + bce = bce + mse"
    assert "different" in str(compare_losses("bce", "mse"))
    assert str(compare_losses("bce + mse", "2*bce + 2*mse")) == "bce + mse = 0.5 * (2*bce + 2*mse)"


def test_copies_finds_pairs_within_and_among_and_skips_what_raises(own_registry):
    @pixel_loss("raising", "raises")
    def raising(logits, target):
        raise RuntimeError("broken")

    found = copies(
        ["raising", "survey_huber", "bce", "2*survey_huber"], among=["mse", "dice", "bce"]
    )
    assert {(c.first, c.second) for c in found} == {
        ("survey_huber", "2*survey_huber"),
        ("survey_huber", "mse"),
        ("2*survey_huber", "mse"),
    }


def test_only_losses_of_one_direction_are_compared(monkeypatch):
    """The pairs of 200 arms would take a minute; those left out are those that differ."""
    given = ["mse", "survey_huber", "bce", "2*bce", "bce(weight=learned)", "bce(balance='equal')"]
    given += ["boundary(constant=False)", "boundary", "1e-200*bce", "bce + 0.01*dice"]
    given += [f"huber(delta=0.{tenth})" for tenth in range(1, 10)]
    every = [compare_losses(a, b, soft=True) for a, b in combinations(given, 2)]
    compared = []
    monkeypatch.setattr(
        compare,
        "_compare",
        lambda *pair, real=compare._compare: compared.append(pair) or real(*pair),
    )
    found = copies(given, soft=True)
    assert [str(c) for c in found] == [str(c) for c in every if c.factor is not None]
    assert 5 <= len(found) <= len(compared) <= len(found) + 8 < len(every) / 5


def test_mistakes_are_named(own_registry):
    with pytest.raises(ValueError, match="did you mean mse"):
        same_up_to_factor("bce", "msee")

    @pixel_loss("depth_loss", "needs a depth map", needs=("depth",))
    def depth_loss(logits, target, *, depth):
        return depth * (logits - target) ** 2

    with pytest.raises(ValueError, match="no extra is called .depth.*known: coverage, distance"):
        compare_losses("depth_loss", "bce")
