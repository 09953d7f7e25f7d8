"""Box losses; values and gradients against torchvision are in
tests/reference_cases/box_losses.py."""

import pytest
import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from layers.boxes import decode, encode
from layers.losses.box import BOX_LOSSES, build_box_loss
from tests.layers.losses.inputs import make_criterion, make_predictions, make_targets

TORCHVISION = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
EVERY = [info.name for info in BOX_LOSSES.records()]
ANCHORS = torch.tensor([[0.5, 0.5, 0.1, 0.2], [0.3, 0.6, 0.05, 0.05], [0.9, 0.1, 0.4, 0.3]])
BOXES = torch.tensor([[0.45, 0.42, 0.56, 0.60], [0.28, 0.59, 0.31, 0.64], [0.60, 0.05, 0.95, 0.40]])
DELTAS = torch.tensor([[0.5, -1.0, 0.3, -0.7], [2.0, 0.1, -1.5, 1.5], [-3.0, 2.0, 0.8, 0.2]])


def test_smooth_l1_per_positive():
    loss = build_box_loss("smooth_l1(beta=0.5)")
    error = (DELTAS - encode(BOXES, ANCHORS)).abs()
    expected = torch.where(error < 0.5, error**2 / (2 * 0.5), error - 0.25)
    torch.testing.assert_close(loss(DELTAS, BOXES, ANCHORS, 550), expected)
    l1 = build_box_loss("smooth_l1(beta=0)")
    torch.testing.assert_close(l1(DELTAS, BOXES, ANCHORS, 550), error)


@pytest.mark.parametrize("name", TORCHVISION)
def test_iou_losses_are_torchvisions_on_decoded_boxes_in_pixels(name):
    value = build_box_loss(name)(DELTAS, BOXES, ANCHORS, 400)
    assert value.shape == (3, 1)
    torch.testing.assert_close(
        value[:, 0], TORCHVISION[name](decode(DELTAS, ANCHORS) * 400, BOXES * 400)
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_boxes_of_a_few_pixels_cost_what_the_same_shapes_cost_when_large(name):
    """Relative boxes would not: 1e-7 is half a percent of a box of 3 x 3 of 700 pixels."""
    loss, small = build_box_loss(name), 0.01
    large = loss(DELTAS[1:2], BOXES[1:2], ANCHORS[1:2], 700)
    tiny = loss(DELTAS[1:2], BOXES[1:2] * small, ANCHORS[1:2] * small, 700)
    torch.testing.assert_close(tiny, large, rtol=0, atol=2e-6)
    relative = TORCHVISION[name](decode(DELTAS[1:2], ANCHORS[1:2] * small), BOXES[1:2] * small)
    assert (relative - large[:, 0]).abs() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_a_perfect_box_costs_nothing_and_every_other_something(name):
    loss = build_box_loss(name)
    perfect = encode(BOXES, ANCHORS)
    assert loss(perfect, BOXES, ANCHORS, 550).sum() < 1e-5
    worse = [
        loss(perfect + shift * torch.eye(4)[i], BOXES, ANCHORS, 550).sum(1)
        for i in range(4)
        for shift in (0.5, -0.5)
    ]
    assert all((value > 1e-3).all() for value in worse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_any_finite_offsets_give_finite_values_and_gradients(name, dtype):
    extremes = torch.tensor([0, 1e-6, 40, 500, 1e4, 1e20], dtype=dtype)
    # shift and stretch of one axis
    rows = torch.cartesian_prod(*[torch.cat((extremes, -extremes[1:]))] * 2)
    deltas = torch.cat(
        [
            torch.stack((rows[:, 0], other, rows[:, 1], other), 1)
            for other in (rows[:, 0] * 0, rows[:, 0], -rows[:, 1])
        ]
    )
    deltas = deltas.requires_grad_()
    anchors, boxes = (t[1].to(dtype).expand(len(deltas), 4) for t in (ANCHORS, BOXES))
    value = build_box_loss(name)(deltas, boxes, anchors, 550)
    (gradient,) = torch.autograd.grad(value.sum(), deltas)
    assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_box_beyond_the_limit_is_led_back(name):
    """exp(500 * 0.2) overflows; the gradient still says: smaller."""
    for sign in (1.0, -1.0):
        deltas = (
            encode(BOXES, ANCHORS) + sign * torch.tensor([0, 0, 500.0, 500.0])
        ).requires_grad_()
        (gradient,) = torch.autograd.grad(
            build_box_loss(name)(deltas, BOXES, ANCHORS, 550).sum(), deltas
        )
        assert (sign * gradient[:, 2:]).sum() > 0


def test_offsets_that_are_not_numbers_are_not_hidden():
    for wrong in (torch.nan, torch.inf):
        deltas = DELTAS.clone()
        deltas[0, 2] = wrong
        value = build_box_loss("ciou")(deltas, BOXES, ANCHORS, 550)
        assert value[0].isnan() and value[1:].isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_descent_reaches_the_box(name):
    loss, deltas = build_box_loss(name), DELTAS.clone().requires_grad_()
    optimizer = torch.optim.Adam([deltas], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(deltas, BOXES, ANCHORS, 550).sum().backward()
        optimizer.step()
    assert (decode(deltas, ANCHORS) - BOXES).abs().max() < 0.01


@pytest.mark.parametrize("name", EVERY)
def test_the_criterion_sums_it_over_the_positives(name):
    loss = build_box_loss(name)
    criterion, _ = make_criterion(box=loss)
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(4, seed=1)]
    assignment = criterion.assign(predictions.anchors, predictions.level_sizes, targets)
    expected, positives = 0.0, 0
    for b, target in enumerate(targets):
        for a, index in enumerate(assignment.gt_index[b].tolist()):
            if index >= 0:
                positives += 1
                expected += loss(
                    predictions.box_deltas[b, a][None],
                    target.boxes[index][None],
                    predictions.anchors[a][None],
                    64,
                ).sum()
    torch.testing.assert_close(criterion(predictions, targets)["box"], 1.5 * expected / positives)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("guio", r"no box loss is called 'guio'; did you mean giou\?"),
        ("smooth_l1(bta=1)", "box loss 'smooth_l1' has no parameter 'bta'; did you mean beta"),
        ("giou(eps=1)", "no parameter 'eps'; known: none"),
        ("smooth_l1(beta=-1)", r"beta=-1.0 is outside \[0, inf\)"),
        ("smooth_l1(beta='a')", "must be a number"),
        ("giou + diou", "expected"),
        ("2*giou", "expected"),
        ("", "empty"),
    ],
)
def test_mistakes_are_named(expression, message):
    with pytest.raises(ValueError, match=message):
        build_box_loss(expression)


def test_canonical_expressions():
    assert build_box_loss("smooth_l1( beta = 1 )").expression == "smooth_l1"
    assert build_box_loss("smooth_l1(beta=.5)").expression == "smooth_l1(beta=0.5)"
