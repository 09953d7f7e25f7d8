"""Options of every mask term: sampling, balance, learned and matched weights, memory, and
the gradients' shares."""

import math

import pytest
import torch
import torch.nn.functional as F

from layers.losses.checks.compare import compare_losses, same_up_to_factor
from layers.losses.gradients import GradientMatch, shares
from layers.losses.mask import build_mask_loss
from tests.layers.losses.inputs import (
    MASK_SIZES,
    gradients,
    make_criterion,
    make_predictions,
    make_targets,
    select,
)
from tests.sync_counter import counted_syncs
from yolact.analysis.losses.cost import kept as kept_bytes

BOX = torch.tensor([[0.25, 0.25, 0.75, 0.75]])


def instances(n=6, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, size, size, generator=generator)
    target = (torch.rand(n, size, size, generator=generator) < 0.4).float()
    low = torch.rand(n, 2, generator=generator) * 0.5
    return (
        logits,
        target,
        torch.cat((low, low + 0.2 + 0.3 * torch.rand(n, 2, generator=generator)), 1),
    )


# ----------------------------------------------------------------------------------------- sampling


def test_hardest_is_the_mean_of_the_largest_values():
    logits, target, _ = instances(3)
    pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    wanted = pixels.sort(1, descending=True).values[:, : math.ceil(0.2 * 256)].mean(1)
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4)
    torch.testing.assert_close(
        build_mask_loss("bce(region='image', sampling=hardest(0.2))")(logits, target, whole), wanted
    )
    plain, all_of_it = (
        build_mask_loss(text)(logits, target, BOX.expand(3, 4))
        for text in ("bce", "bce(sampling=hardest(1))")
    )
    torch.testing.assert_close(all_of_it, plain)


def test_hardest_looks_into_the_box_only():
    logits, target = torch.zeros(1, 16, 16, requires_grad=True), torch.zeros(1, 16, 16)
    with torch.no_grad():
        logits[0, 0, 0], logits[0, 8, 8] = 9.0, 5.0
    value = build_mask_loss("bce(sampling=hardest(0.01))")(logits, target, BOX)
    value.sum().backward()
    assert logits.grad.nonzero().tolist() == [[0, 8, 8]]


def test_points_prefer_unsure_pixels_and_stay_in_the_box():
    logits = torch.full((1, 16, 16), 8.0)
    logits[0, :, :8] = 0.1  # the left half is unsure
    logits.requires_grad_()
    loss = build_mask_loss("bce(sampling=points(400))")
    loss(
        logits, torch.zeros(1, 16, 16), BOX, generator=torch.Generator().manual_seed(0)
    ).sum().backward()
    # the derivative of BCE is p
    chosen = logits.grad[0] / torch.where(logits.detach()[0] > 1, 1, 0.525)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[3:13, 3:13] = True
    assert not chosen[~inside].any() and (chosen[inside] > 0).float().mean() > 0.5
    left, right = chosen[:, :8].sum(), chosen[:, 8:].sum()
    assert 0.8 < left / (left + right) < 0.95  # 3/4 least sure, plus half of the uniform rest
    # the points stand for the 10 x 10 grown box
    assert (left + right).item() == pytest.approx(100 / 64, rel=1e-3)


def test_points_follow_the_generator_and_average_to_the_mean_where_all_is_equal():
    logits, target, boxes = instances()
    loss = build_mask_loss("mse(sampling=points(20))")
    one, same, other = (
        loss(logits, target, boxes, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    flat = torch.full_like(logits, 0.3)
    torch.testing.assert_close(
        loss(flat, torch.zeros_like(target), boxes),
        build_mask_loss("mse")(flat, torch.zeros_like(target), boxes),
    )


@pytest.mark.parametrize("text", ["bce(sampling=hardest(0.2))", "bce(sampling=points(9))"])
def test_a_box_without_pixels_costs_nothing(text):
    logits, target, _ = instances(1)
    logits.requires_grad_()
    value = build_mask_loss(text)(logits, target, BOX + 3)
    value.sum().backward()
    assert value.item() == 0 and not logits.grad.any()


# ------------------------------------------------------------------------------------------ balance


def test_balance_shares_out_the_weight_of_an_image():
    logits, target, boxes = instances(5)
    target[:3] = target[0]
    extras = {"image": torch.tensor([0, 0, 0, 0, 1]), "ground_truth": torch.tensor([0, 0, 0, 1, 2])}
    plain = build_mask_loss("bce")(logits, target, boxes)
    equal = build_mask_loss("bce(balance='equal')")(logits, target, boxes, extras=extras) / plain
    # 3 of one ground truth weigh as 1 of another
    torch.testing.assert_close(equal, torch.tensor([2 / 3, 2 / 3, 2 / 3, 2, 1]))
    root = build_mask_loss("bce(balance='sqrt_area')")(logits, target, boxes, extras=extras) / plain
    assert root[:4].sum().item() == pytest.approx(4) and root[4].item() == pytest.approx(1)
    sides = target.sum((1, 2)).sqrt()
    assert (3 * root[0] / root[3]).item() == pytest.approx((sides[0] / sides[3]).item(), rel=1e-5)


def test_balance_in_the_criterion_knows_whose_positives_they_are():
    plain, balanced = (
        make_criterion(text, assigner="max_iou(positive=0.3, negative=0.2)")[0]
        for text in ("bce", "bce(balance='equal')")
    )
    predictions = make_predictions(1)
    one = [make_targets(1)]
    assert balanced(predictions, one)["mask"].item() == pytest.approx(
        plain(predictions, one)["mask"].item(), rel=1e-6
    )
    several = [make_targets(4, seed=3)]
    counts = balanced.assign(predictions.anchors, predictions.level_sizes, several).gt_index
    # or there would be nothing to balance
    assert len({int((counts == g).sum()) for g in range(4)}) > 1
    assert balanced(predictions, several)["mask"].item() != pytest.approx(
        plain(predictions, several)["mask"].item(), rel=1e-4
    )


# ---------------------------------------------------------------------------------- learned weights


def test_learned_weights_settle_where_each_term_weighs_its_inverse():
    logits, target, boxes = instances()
    loss = build_mask_loss("bce(weight=learned) + 3*dice(weight=learned)")
    terms = loss.terms(logits, target, boxes)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.3)
    assert loss(logits, target, boxes).sum().item() == pytest.approx(
        (terms["bce"] + 3 * terms["dice"]).sum().item()
    )  # s = 0: as with constant weights
    for _ in range(200):
        optimizer.zero_grad()
        loss(logits, target, boxes).mean().backward()
        optimizer.step()
    # exp(-s) L + s is lowest at s = log L
    wanted = torch.stack((terms["bce"].mean(), 3 * terms["dice"].mean())).log()
    torch.testing.assert_close(loss.log_variance.detach(), wanted, rtol=1e-3, atol=1e-3)
    assert loss.changing_weights(0)["bce"] == pytest.approx(
        1 / terms["bce"].mean().item(), rel=1e-2
    )


def test_learned_weights_train_in_the_criterion_even_without_positives():
    criterion, _ = make_criterion("bce(weight=learned) + mse")
    criterion(make_predictions(1), [make_targets(3)])["mask"].backward()
    assert criterion.mask_loss.log_variance.grad.abs().item() > 0
    criterion.zero_grad()
    criterion(make_predictions(1), [make_targets(0)])["mask"].backward()
    assert criterion.mask_loss.log_variance.grad.item() == 0


# ---------------------------------------------------------------------------------- matched weights


def prototype_gradient(criterion, predictions, targets, step):
    loss = criterion(predictions, targets, step=step)["mask"]
    return torch.autograd.grad(loss, predictions.prototypes)[0].norm().item()


def test_matched_terms_get_the_reference_terms_gradient():
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=4)]
    alone = {
        text: prototype_gradient(make_criterion(text)[0], predictions, targets, 0)
        for text in ("2*bce", "mse")
    }
    criterion, _ = make_criterion("2*bce + 0.5*mse(match='grad')")
    criterion.mask_loss.match.steps = 3
    seen = []
    for step in range(6):
        criterion(predictions, targets, step=step)
        seen.append(criterion.mask_loss.changing_weights(step)["mse"])
    wanted = 0.5 * alone["2*bce"] / alone["mse"]
    assert seen == pytest.approx([0.5] + [wanted] * 5, rel=1e-5)
    other = make_predictions(2, seed=9)
    for step in range(6, 8):  # frozen: other gradients change nothing
        criterion(other, targets, step=step)
    assert criterion.mask_loss.changing_weights(8)["mse"] == pytest.approx(wanted, rel=1e-5)


def test_matching_counts_all_micro_batches_of_a_step_and_survives_a_checkpoint():
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=4)]
    whole, _ = make_criterion("bce + mse(match='grad')")
    whole(predictions, targets, step=0)
    parts, _ = make_criterion("bce + mse(match='grad')")
    for i in range(2):
        parts(select(predictions, slice(i, i + 1)), targets[i : i + 1], step=0)
    resumed, _ = make_criterion("bce + mse(match='grad')")
    resumed.load_state_dict(parts.state_dict())
    found = [c.mask_loss.changing_weights(1)["mse"] for c in (whole, parts, resumed)]
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == found[1] and found[0] != 1


def test_matching_ignores_steps_without_a_gradient():
    match = GradientMatch([False, True], 0, 1.0, 10)
    for step, row in enumerate([[0.0, 0.0], [4.0, 1.0], [float("nan"), 1.0], [0.0, 1.0]]):
        match.observe(torch.tensor(row), step)
        match.factors(step + 1)
    assert match.factors(5).tolist() == pytest.approx([1, 2])


# ------------------------------------------------------------------------------ shares of gradients


def test_gradient_norms_are_those_at_the_prototypes():
    criterion, _ = make_criterion("bce + 0.5*mse", gradients_every=2)
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(4, seed=1)]
    loss = criterion(predictions, targets, step=4)["mask"]
    assert loss.requires_grad and list(criterion.last_gradients) == ["bce", "mse"]
    norms = {label: row[0].sqrt().item() for label, row in criterion.last_gradients.items()}
    alone = {
        text: prototype_gradient(make_criterion(text)[0], predictions, targets, 0)
        for text in ("bce", "0.5*mse")
    }
    assert norms["mse"] / norms["bce"] == pytest.approx(alone["0.5*mse"] / alone["bce"], rel=1e-5)
    found = shares({label: row.tolist() for label, row in criterion.last_gradients.items()})
    assert found["bce/share"] + found["mse/share"] == pytest.approx(1)
    assert sum(value for name, value in found.items() if name.count("/") == 2) == pytest.approx(1)
    assert found["bce/share"] == pytest.approx(
        alone["bce"] / (alone["bce"] + alone["0.5*mse"]), rel=1e-5
    )
    criterion(predictions, targets, step=5)
    assert criterion.last_gradients == {}


def test_gradient_norms_tell_sizes_apart_and_do_not_change_the_gradients():
    predictions = make_predictions(1)
    small = make_targets(3)  # at most 0.4 * 64 px a side: below 32 x 32
    measured, net = make_criterion("bce", gradients_every=1)
    plain, plain_net = make_criterion("bce")
    losses, wanted = measured(predictions, [small]), plain(predictions, [small])
    row = measured.last_gradients["bce"]
    assert row[0].item() == pytest.approx(row[1].item(), rel=1e-5) and not row[2:].any()
    for ours, theirs in zip(
        gradients(losses, predictions, net), gradients(wanted, predictions, plain_net), strict=True
    ):
        assert torch.equal(ours, theirs)
    measured.image_size = 2 * 64
    measured(
        predictions,
        [small],
        assignment=plain.assign(predictions.anchors, predictions.level_sizes, [small]),
    )
    assert measured.last_gradients["bce"][2] > 0  # the same masks in an input of twice the side


def test_shares_of_nothing():
    assert shares({"bce": [0.0, 0, 0, 0]}) == {} and shares({"bce": [float("nan")] * 4}) == {}


# ------------------------------------------------------------------------------------------- memory


# Numbers per pixel that may be kept for the backward pass, logits and target included. The network
# of yolact_resnet50 keeps 96 an image, in the same unit, where 100 instances have a mask loss.
@pytest.mark.parametrize(
    "text, most",
    [
        ("bce", 3),
        ("unified_focal", 11),
        ("lovasz", 7),
        ("boundary_agreement", 9),
        ("hausdorff", 7),
        ("bce(sampling=points(112)) + dice", 7),
        ("bce + dice + unified_focal + lovasz", 21),
    ],
)
def test_300_instances_of_700_pixel_images_fit(text, most):
    shape = (300, 175, 175)
    logits = torch.randn(1, *shape[1:]).repeat(300, 1, 1).requires_grad_()
    target = torch.zeros(shape)
    target[:, 60:110, 70:100] = 1
    boxes = torch.tensor([[0.4, 0.34, 0.58, 0.63]]).expand(300, 4)
    extras = {"distance": torch.rand(1, *shape[1:]).expand(shape)}
    maps = kept_bytes(build_mask_loss(text), logits, target, boxes, extras) / (4 * logits.numel())
    assert round(maps) <= most


# ---------------------------------------------------------------------------------- synchronisation


@pytest.mark.parametrize(
    "text",
    [
        "bce(sampling=hardest(0.2)) + mse(sampling=points(9))",
        "bce(balance='equal') + dice(balance='sqrt_area')",
        "bce(weight=learned) + dice(weight=learned)",
        "bce + mse(match='grad') + dice(match='grad')",
        "bce + boundary(weight=ramp(0, 1, end=9)) + lovasz(rescale=False)",
    ],
)
def test_options_do_not_wait_for_the_device(text):
    criterion, _ = make_criterion(text, gradients_every=1, masks_to_train=4)
    predictions = make_predictions(3)
    targets = [
        t.reduce(MASK_SIZES, keep_full=False, extras=criterion.extras)
        for t in (make_targets(3), make_targets(0), make_targets(5, crowds=2))
    ]
    for step in range(2):  # the second one uses what the first one measured
        with counted_syncs() as calls:
            sum(criterion(predictions, targets, step=step).values()).backward()
        assert calls == ["tolist"]  # the numbers of positives, once a batch
        assert criterion.last_gradients


# ------------------------------------------------------------------------------------------ compare


def test_what_only_training_shows_is_not_taken_for_a_copy():
    assert same_up_to_factor("bce", "bce(balance='equal')") is None
    assert same_up_to_factor("bce + mse", "bce + mse(match='grad')") is None
    assert same_up_to_factor("bce", "bce(weight=learned)") is None
    assert same_up_to_factor(
        "mse(balance='equal')", "survey_huber(balance='equal')"
    ) == pytest.approx(2)
    assert same_up_to_factor("bce", "bce(sampling=hardest(1))") == pytest.approx(1)
    assert compare_losses("bce", "bce(sampling=hardest(0.5))").factor is None
