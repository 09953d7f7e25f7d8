import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from layers.losses import registry
from layers.losses.expr import ExpressionError, parse
from layers.losses.mask import build_mask_loss
from layers.losses.registry import pixel_loss, region_loss

BOX = torch.tensor([[0.25, 0.25, 0.75, 0.75]])  # on 8 x 8: 4 x 4 pixels, 6 x 6 when grown


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))


def instance(inside=True):
    """One 8x8 instance: ground truth is 2x2 pixels inside the box, or two pixels in a corner
    outside the grown box."""
    torch.manual_seed(0)
    target = torch.zeros(1, 8, 8)
    if inside:
        target[0, 3:5, 3:5] = 1
    else:
        target[0, 0, :2] = 1
    return torch.randn(1, 8, 8), target


def test_box_region_by_hand():
    # p = 0.5 everywhere: BCE log 2 and squared error 1/4 on each of the 36 pixels of the grown box,
    # over the 16 of the box.
    _, target = instance()
    logits = torch.zeros(1, 8, 8)
    assert build_mask_loss("bce")(logits, target, BOX).item() == pytest.approx(
        36 / 16 * math.log(2)
    )
    assert build_mask_loss("mse")(logits, target, BOX).item() == pytest.approx(36 / 16 / 4)
    assert build_mask_loss("huber(delta=0.25)")(logits, target, BOX).item() == pytest.approx(
        36 / 16 * 0.25 * (0.5 - 0.125)
    )
    assert build_mask_loss("bce + 0.5*mse")(logits, target, BOX).item() == pytest.approx(
        36 / 16 * (math.log(2) + 0.125)
    )


def test_image_region_divides_by_all_pixels():
    logits, target = instance()
    value = build_mask_loss("bce(region='image')")(logits, target, BOX)
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(logits, target)[None])


def test_the_divisor_is_the_box_neither_grown_nor_clipped():
    logits, target = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    # 64 square pixels, 5 x 5 pixels of the map with the margin
    beyond = torch.tensor([[0.5, 0.5, 1.5, 1.5]])
    assert build_mask_loss("mse")(logits, target, beyond).item() == pytest.approx(25 / 64 / 4)


@pytest.mark.parametrize(
    "name, per_pixel", [("bce", 100.0), ("mse", 1.0), ("huber(delta=0.5)", 0.375)]
)
def test_outside_is_ignored_or_charged(name, per_pixel):
    logits, target = instance(inside=False)
    call = name if "(" in name else f"{name}()"
    ignore = build_mask_loss(name)(logits, target, BOX)
    charge = build_mask_loss(call[:-1] + (", " if "(d" in call else "") + "outside='charge')")(
        logits, target, BOX
    )
    assert (charge - ignore).item() == pytest.approx(2 * per_pixel / 16, rel=1e-5)


def test_outside_makes_no_difference_where_masks_stay_in_their_boxes():
    logits, target = instance()
    for name in ("bce", "mse", "huber"):
        ignore, charge = (
            build_mask_loss(f"{name}(outside='{outside}')")(logits, target, BOX)
            for outside in ("ignore", "charge")
        )
        torch.testing.assert_close(ignore, charge, rtol=1e-6, atol=0)


def test_pixels_outside_the_grown_box_have_no_gradient():
    logits, target = instance(inside=False)
    for expression in ("bce + mse", "bce(outside='charge') + mse(outside='charge')"):
        x = logits.clone().requires_grad_()
        build_mask_loss(expression)(x, target, BOX).sum().backward()
        assert (x.grad[0, 1:7, 1:7] != 0).all()
        x.grad[0, 1:7, 1:7] = 0
        assert (x.grad == 0).all()


def test_bce_agrees_with_cross_entropy_of_probabilities():
    torch.manual_seed(1)
    logits = (4 * torch.randn(20, 8, 8, dtype=torch.float64)).requires_grad_()
    target = (torch.rand(20, 8, 8) > 0.5).double()
    ours = build_mask_loss("bce(region='image')")(logits, target, BOX.expand(20, 4))
    theirs = F.binary_cross_entropy(logits.sigmoid(), target, reduction="none").mean((1, 2))
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (
        torch.autograd.grad(v.sum(), logits, retain_graph=True)[0] for v in (ours, theirs)
    )
    torch.testing.assert_close(ours, theirs)


def test_huge_logits_keep_a_gradient():
    logits = torch.full((1, 8, 8), 60.0, requires_grad=True)  # sigmoid rounds to exactly 1
    build_mask_loss("bce")(logits, torch.zeros(1, 8, 8), BOX).sum().backward()
    assert logits.grad[0, 4, 4].item() == pytest.approx(1 / 16)


def test_terms_are_unweighted_and_the_sum_is_weighted():
    logits, target = instance()
    loss = build_mask_loss("2*bce + 0.5*mse(region='image', weight=3)")
    terms = loss.terms(logits, target, BOX)
    assert list(terms) == ["bce", "mse(region='image')"]
    torch.testing.assert_close(terms["bce"], build_mask_loss("bce")(logits, target, BOX))
    torch.testing.assert_close(
        loss(logits, target, BOX), 2 * terms["bce"] + 1.5 * terms["mse(region='image')"]
    )


@pytest.mark.parametrize(
    "written, canonical",
    [
        ("bce", "bce"),
        ("1*bce(region='box', weight=1, rescale=True, outside='ignore')", "bce"),
        ("huber(delta=0.5) + 1.0*mse", "huber + mse"),
        (
            "mse(rescale=False, region='image') + 0.50*huber(delta=0.250)",
            "mse(rescale=False, region='image') + 0.5*huber(delta=0.25)",
        ),
        ("bce(weight=ramp(1.0, 0.1, start=0))", "bce(weight=ramp(1, 0.1))"),
        (
            "bce(weight=cosine(0, 1, end=90, start=10))",
            "bce(weight=cosine(0, 1, start=10, end=90))",
        ),
    ],
)
def test_canonical_expression(written, canonical):
    loss = build_mask_loss(written)
    assert loss.expression == canonical
    assert build_mask_loss(canonical).expression == canonical


def test_equality_ignores_order():
    assert (
        build_mask_loss("bce + 0.5*mse").key == build_mask_loss("0.5*mse(region='box') + 1*bce").key
    )
    assert build_mask_loss("bce + 0.5*mse").key != build_mask_loss("0.5*bce + mse").key


@pytest.mark.parametrize(
    "text, message, position",
    [
        ("bce + hubber", "did you mean huber", 6),
        ("bce + mse(regoin='image')", "did you mean region", 10),
        ("mse(region='imag')", "did you mean image", 4),
        ("mse(outside='drop')", "ignore, charge", 4),
        ("mse(rescale=1)", "True or False", 4),
        ("mse(weight=0)", "above 0", 4),
        ("mse(weight=-1)", "above 0", 4),
        ("mse(weight='big')", "ramp", 4),
        ("mse(weight=rampp(0, 1))", "did you mean ramp", 4),
        ("mse(weight=ramp(0, 0))", "not both 0", 4),
        ("mse(weight=ramp(-1, 1))", ">= 0", 4),
        ("mse(weight=ramp(1))", "two weights", 4),
        ("mse(weight=ramp(0, 1, strat=5))", "did you mean start", 4),
        ("mse(weight=ramp(0, 1, start=5, end=5))", "end after its start", 4),
        ("mse(weight=ramp(0, 1, end=0.5))", "whole number", 4),
        ("huber(delta=1)", "exactly MSE/2", 6),
        ("bce + mse(match='greedy')", "grad", 10),
        ("mse(match='grad')", "another term", 0),
        ("bce + mse(match='grad', weight=learned)", "matched or learned", 10),
        ("mse(weight=lerned)", "did you mean learned", 4),
        ("mse(weight=learned(2))", "learned takes no arguments", 4),
        ("mse(weight=nan)", "must be a finite number above 0", 4),
        ("mse(weight=inf)", "must be a finite number above 0", 4),
        ("mse(weight=ramp(0, 1, 5, 10))", "start and end go by name", 4),
        ("focal(gamma=nan)", "gamma=nan must be finite", 6),
        ("focal(gamma=two)", "gamma=two must be a number", 6),
        ("hausdorff(alpha=400)", r"alpha=400.0 is outside \(0, 10\]", 10),
        ("bce(outside='charge', region='image')", "leave one of them out", 4),
        ("mse(sampling=0.5)", "hardest", 4),
        ("mse(sampling=hardest(0))", "above 0", 4),
        ("mse(sampling=hardest(1.5))", "at most 1", 4),
        ("mse(sampling=points(0.5))", "whole number", 4),
        ("mse(sampling=hardst(0.5))", "did you mean hardest", 4),
        ("mse(sampling=points(5), outside='charge')", "outside", 4),
        ("dice(sampling=points(5))", "one value per instance", 5),
        ("mse(balance=True)", "must be", 4),
        ("mse(balance='area')", "sqrt_area", 4),
        ("mse(region=image)", "region=image must be a 'word' in quotes: region='image'", 4),
        ("bce + 2*bce", "twice", 8),
    ],
)
def test_mistakes_show_their_place(text, message, position):
    with pytest.raises(ExpressionError, match=message) as caught:
        build_mask_loss(text)
    assert caught.value.position == position


def test_schedules():
    ramp = build_mask_loss("mse(weight=ramp(0.2, 1, start=100, end=200))").parts[0]
    assert [ramp.weight(step) for step in (0, 100, 150, 200, 10**9)] == pytest.approx(
        [0.2, 0.2, 0.6, 1, 1]
    )
    cosine = build_mask_loss("0.5*mse(weight=cosine(1, 0, end=100))").parts[0]
    quarter = (1 + math.cos(math.pi / 4)) / 4
    assert [cosine.weight(step) for step in (0, 25, 50, 100, 101)] == pytest.approx(
        [0.5, quarter, 0.25, 0, 0]
    )
    logits, target = instance()
    loss = build_mask_loss("mse(weight=ramp(0, 2, end=100))")
    torch.testing.assert_close(
        loss(logits, target, BOX, step=50), loss.terms(logits, target, BOX)["mse"]
    )
    assert loss(logits, target, BOX, step=0).item() == 0


def test_a_schedule_without_end_runs_over_the_training():
    logits, target = instance()
    loss = build_mask_loss("mse(weight=ramp(0, 1))", total_steps=1000)
    assert loss.parts[0].weight(250, loss.total_steps) == pytest.approx(0.25)
    unknown = build_mask_loss("mse(weight=ramp(0, 1))")
    unknown(logits, target, BOX, step=0)
    with pytest.raises(ValueError, match="end=..."):
        unknown(logits, target, BOX, step=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype):
    logits, target = instance()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build_mask_loss("bce + mse")(logits.to(dtype), target.bool(), BOX)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value, build_mask_loss("bce + mse")(logits.to(dtype).float(), target, BOX)
    )


def test_double_precision_is_left_alone():
    logits, target = instance()
    loss = build_mask_loss("bce + huber(outside='charge') + mse(region='image')")
    x = logits.double().requires_grad_()
    assert loss(x, target, BOX).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: loss(x, target, BOX), x)


def entropy(t):
    return -(t * t.log() + (1 - t) * (1 - t).log()).nan_to_num()


def test_floors_are_what_terms_cost_where_p_is_the_target():
    target = torch.zeros(1, 8, 8, dtype=torch.float64)
    target[0, 3:5, 2:5] = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    loss = build_mask_loss(
        "bce + log_cosh_bce(region='image') + mse + dice + dice(denominator='squares') + focal "
        "+ bce(sampling=hardest(0.25)) + mse(sampling=points(9))"
    )
    floors = loss.floors(target, BOX.double())
    costs = entropy(target)
    assert floors["bce"].item() == pytest.approx(costs.sum().item() / 16)
    assert floors["log_cosh_bce(region='image')"].item() == pytest.approx(
        costs.cosh().log().mean().item()
    )
    assert floors["mse"].item() == pytest.approx(0, abs=1e-15)
    assert floors["dice(denominator='squares')"].item() == pytest.approx(0, abs=1e-15)
    # 9 of 36 pixels stand for all; 4 of them have an entropy
    assert floors["bce(sampling=hardest(0.25))"].item() == pytest.approx(
        4 * costs.sum().item() / 16
    )
    assert list(floors) == [
        "bce",
        "log_cosh_bce(region='image')",
        "mse",
        "dice(denominator='squares')",
        "bce(sampling=hardest(0.25))",
    ]


@pytest.mark.parametrize("expression", ["bce", "bce(sampling=hardest(0.25))", "log_cosh_bce"])
def test_nothing_costs_less_than_its_floor(expression):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 8, 8, generator=generator, dtype=torch.float64)
    loss = build_mask_loss(expression)
    floor = loss.floors(target, BOX.double())[expression]
    for spread in (1e-3, 0.1, 3.0):
        noise = spread * torch.randn(target.shape, generator=generator, dtype=torch.float64)
        assert loss(target.logit() + noise, target, BOX.double()) > floor


def test_targets_of_0_and_1_have_no_floor():
    _, target = instance()
    loss = build_mask_loss("bce + mse + log_cosh_bce + smooth_l1(region='image')")
    assert all(value.item() < 1e-30 for value in loss.floors(target, BOX).values())
    assert loss.floors(target[:0], BOX[:0])["bce"].shape == (0,)


def test_no_instances():
    logits = torch.zeros(0, 8, 8, requires_grad=True)
    value = build_mask_loss("bce + mse")(logits, torch.zeros(0, 8, 8), torch.zeros(0, 4))
    assert value.shape == (0,)
    value.sum().backward()


def test_a_box_without_area_is_finite():
    logits, target = instance()
    line = torch.tensor([[0.5, 0.2, 0.5, 0.8]])
    assert torch.isfinite(build_mask_loss("bce")(logits, target, line)).all()


def test_wrong_shapes_are_refused():
    logits, target = instance()
    for arguments in (
        (logits, target[:, :4], BOX),
        (logits, target, BOX[0]),
        (logits[0], target[0], BOX),
    ):
        with pytest.raises(ValueError, match="N,H,W"):
            build_mask_loss("bce")(*arguments)


def test_region_losses_get_a_weight_and_no_division(own_registry):
    @region_loss("covered", "weighted share of the target")
    def covered(logits, target, weight, *, factor=1.0):
        return factor * (weight * target).sum((1, 2))

    logits, target = instance(inside=False)
    target[0, 3:5, 3:5] = 1
    for options, expected in (
        ("", 4),
        ("region='image'", 6),
        ("outside='charge'", 6),
        ("factor=2.0", 8),
    ):
        assert build_mask_loss(f"covered({options})")(logits, target, BOX).item() == expected


def test_extras_reach_the_loss_that_needs_them(own_registry):
    @pixel_loss("far", "distance times probability", needs=("distance",), signed=True)
    def far(logits, target, *, distance, constant=True):
        return logits.sigmoid() * distance

    loss = build_mask_loss("bce + far(region='image')")
    assert loss.needs == ("distance",)
    logits, target = instance()
    distance = torch.randn(1, 8, 8)
    terms = loss.terms(logits, target, BOX, extras={"distance": distance})
    torch.testing.assert_close(
        terms["far(region='image')"], (logits.sigmoid() * distance).mean((1, 2))
    )
    torch.testing.assert_close(
        loss(logits, target, BOX, extras={"distance": distance.double()}),
        loss(logits, target, BOX, extras={"distance": distance}),
    )
    with pytest.raises(ValueError, match="distance"):
        loss(logits, target, BOX)
    with pytest.raises(ValueError, match="1 rows"):
        loss(logits, target, BOX, extras={"distance": distance.expand(2, 8, 8)})


def test_a_loss_that_returns_a_wrong_shape_is_named(own_registry):
    @pixel_loss("reduced", "forgets to stay per pixel")
    def reduced(logits, target):
        return (logits - target).mean()

    with pytest.raises(ValueError, match="reduced.*shape"):
        build_mask_loss("reduced")(*instance(), BOX)


def test_a_loss_that_returns_another_dtype_is_named(own_registry):
    pixel_loss("halved", "forgets the dtype")(lambda logits, target: (logits - target).half())
    with pytest.raises(
        ValueError, match="halved.*dtype of its logits, torch.float32, got torch.float16"
    ):
        build_mask_loss("halved")(*instance(), BOX)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_weights_are_linear(a, b):
    logits, target = instance()
    value = build_mask_loss(f"{a!r}*bce + {b!r}*mse")(logits, target, BOX)
    expected = a * build_mask_loss("bce")(logits, target, BOX) + b * build_mask_loss("mse")(
        logits, target, BOX
    )
    torch.testing.assert_close(value, expected)
    assert parse(f"{a!r}*bce")[0].coefficient == a
