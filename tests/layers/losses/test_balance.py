"""Rank & Sort as the criterion's class loss, and the weighting of box and mask losses that goes
with it."""

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from layers.boxes import decode
from layers.losses.balance import factor_to, top_probability
from layers.losses.box import build_box_loss
from layers.losses.classification import build_class_loss
from layers.losses.mask import build_mask_loss
from layers.losses.rank_sort import rank_sort_loss
from tests.layers.losses.inputs import (
    MASK_SIZES,
    SIZE,
    gradients,
    make_criterion,
    make_predictions,
    make_targets,
)


def gma_criterion(expression="dice", *, classes="rank_sort", **options):
    weights = {"box_weight": 1.0, "mask_weight": 1.0, "self_balance": True} | options
    return make_criterion(
        expression,
        mask_iou=False,
        classification=build_class_loss(classes),
        box=build_box_loss("giou"),
        **weights,
    )[0]


def sigmoid_predictions(batch, seed=0):
    predictions = make_predictions(batch, seed=seed)
    predictions.class_logits = predictions.class_logits.detach()[..., 1:].clone().requires_grad_()
    predictions.sigmoid = True
    return predictions


def in_loops(criterion, predictions, targets, mask="dice"):
    """The three losses from their definition, positive by positive, and how many positives there
    are."""
    p = predictions
    index = criterion.assign(p.anchors, p.level_sizes, targets).gt_index
    quality, logits = torch.zeros_like(p.class_logits), p.class_logits.clone()
    logits[index == -2] = -1e4
    box = mask_value = 0.0
    mask_loss = build_mask_loss(mask)
    for b, target in enumerate(targets):
        for a in (index[b] >= 0).nonzero()[:, 0].tolist():
            m = index[b, a]
            predicted, wanted = (
                decode(p.box_deltas[b, a], p.anchors[a])[None] * SIZE,
                target.boxes[m][None] * SIZE,
            )
            quality[b, a, target.labels[m]] = (
                box_iou(predicted, wanted)[0, 0].detach().clamp(min=1e-6)
            )
            weight = p.class_logits[b, a].detach().sigmoid().max()
            box = box + weight * (1 - generalized_box_iou(predicted, wanted)[0, 0])
            logit, truth = (
                p.prototypes[b] @ p.mask_coeffs[b, a],
                target.mask_at(*MASK_SIZES[0])[m].float(),
            )
            mask_value = (
                mask_value + weight * mask_loss(logit[None], truth[None], target.boxes[m][None])[0]
            )
    ranking, sorting = rank_sort_loss(logits, quality)
    positives = (index >= 0).sum()
    value = (ranking + sorting).detach()
    return {
        "class": ranking + sorting,
        "box": box * (value / box.detach()),
        "mask": mask_value * (value / mask_value.detach()),
    }, positives


@pytest.mark.parametrize("mask", ["dice", "bce + 0.5*mse(region='image')"])
def test_equals_the_definition_in_loops(mask):
    criterion, predictions = gma_criterion(mask), sigmoid_predictions(3)
    targets = [make_targets(3), make_targets(0), make_targets(5, seed=1, crowds=1)]
    losses = criterion(predictions, targets)
    expected, positives = in_loops(criterion, predictions, targets, mask)
    assert positives > 5
    del losses["semantic"]
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        gradients(losses, predictions)[:4], gradients(expected, predictions)[:4], strict=True
    ):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()) + 1e-9
        )


def test_ignored_anchors_and_other_classes():
    criterion, predictions, targets = (
        gma_criterion(),
        sigmoid_predictions(2),
        [make_targets(3), make_targets(4, seed=1, crowds=1)],
    )
    index = criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index
    (gradient,) = torch.autograd.grad(
        criterion(predictions, targets)["class"], predictions.class_logits
    )
    assert (index == -2).any() and not gradient[index == -2].any()
    rising = (gradient < 0).sum(-1)  # only the class of a positive is pushed up
    assert int(rising.max()) == 1 and not rising[index < 0].any()


def test_a_positive_whose_predicted_box_misses_stays_a_positive():
    criterion, predictions, targets = gma_criterion(), sigmoid_predictions(1), [make_targets(3)]
    with torch.no_grad():
        predictions.box_deltas[..., :2] += 1000  # ten anchor sides away
    index = criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index[0]
    (gradient,) = torch.autograd.grad(
        criterion(predictions, targets)["class"], predictions.class_logits
    )
    for a in (index >= 0).nonzero()[:, 0].tolist():
        assert gradient[0, a, targets[0].labels[index[a]]] < 0


@pytest.mark.parametrize(
    "mask",
    [
        "bce",
        "boundary(constant=False, region='image')",
        "lovasz + tversky(alpha=0.3)",
        "bce(weight=learned)",
    ],
)
def test_any_mask_term_may_take_the_place_of_dice(mask):
    criterion, predictions, targets = (
        gma_criterion(mask),
        sigmoid_predictions(2),
        [make_targets(3), make_targets(2, seed=1)],
    )
    losses = criterion(predictions, targets)
    assert (
        losses["box"].item()
        == pytest.approx(losses["class"].item())
        == pytest.approx(abs(losses["mask"].item()))
    )
    assert all(gradient.isfinite().all() for gradient in gradients(losses, predictions))
    if "learned" not in mask:
        weighted = sum(
            value for label, value in criterion.last_terms.items() if label.endswith("/weighted")
        )
        torch.testing.assert_close(weighted, losses["mask"].detach())


def test_weights_multiply_what_is_balanced():
    predictions, targets = sigmoid_predictions(1), [make_targets(4)]
    plain = gma_criterion()(predictions, targets)
    heavy = gma_criterion(class_weight=3.0, box_weight=2.0, mask_weight=0.5)(predictions, targets)
    assert [
        (heavy[name] / plain[name]).item() for name in ("class", "box", "mask")
    ] == pytest.approx([3, 2, 0.5])


def test_a_subset_of_masks_keeps_its_own_certainties():
    """masks_to_train below the positives: the mask loss still equals the class loss, and only
    sampled anchors get a gradient."""
    criterion, predictions, targets = (
        gma_criterion(masks_to_train=2),
        sigmoid_predictions(1),
        [make_targets(4)],
    )
    losses = criterion(predictions, targets, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(losses["mask"], predictions.mask_coeffs)
    assert losses["mask"].item() == pytest.approx(losses["class"].item())
    assert int(gradient[0].any(1).sum()) == 2


def test_it_works_with_softmax_logits_too():
    criterion, predictions, targets = (
        gma_criterion("bce", classes="ohem"),
        make_predictions(2),
        [make_targets(3), make_targets(0)],
    )
    losses = criterion(predictions, targets)
    assert (
        losses["box"].item()
        == pytest.approx(losses["class"].item())
        == pytest.approx(losses["mask"].item())
    )


def test_without_positives_everything_is_zero_with_a_graph():
    criterion, predictions = gma_criterion(), sigmoid_predictions(2)
    losses = criterion(predictions, [make_targets(0), make_targets(0)])
    assert all(losses[name] == 0 for name in ("box", "class", "mask"))
    assert all(
        gradient is not None and gradient.isfinite().all()
        for gradient in gradients(losses, predictions)
    )


def test_the_two_factors():
    logits = torch.tensor([[[0.0, 2.0, -1.0], [3.0, 1.0, 1.0]]])
    torch.testing.assert_close(
        top_probability(logits, torch.tensor([1, 0]), sigmoid=True),
        torch.tensor([3.0, 2.0]).sigmoid(),
    )
    torch.testing.assert_close(
        top_probability(logits, torch.tensor([1]), sigmoid=False), logits[0, 1].softmax(0)[1:2]
    )
    assert (
        factor_to(torch.tensor(3.0), torch.tensor(2.0)) == 1.5
        and factor_to(torch.tensor(3.0), torch.tensor(-2.0)) == 1.5
    )
    assert torch.isfinite(factor_to(torch.tensor(3.0), torch.tensor(0.0)))


def test_logged_gradients_are_those_of_the_balanced_loss():
    """Norms are squared, so a factor of the loss enters them squared."""
    criterion, predictions = gma_criterion(gradients_every=1), sigmoid_predictions(2)
    targets = [make_targets(3), make_targets(4, seed=1)]
    losses = criterion(predictions, targets)
    (gradient,) = torch.autograd.grad(losses["mask"], predictions.prototypes)
    index = criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index
    of_the_sum = gradient * (index >= 0).sum()  # norms are of the sum over positives
    logged = criterion.last_gradients["dice"][0]
    torch.testing.assert_close(logged, of_the_sum.square().sum(), rtol=1e-4, atol=0)
