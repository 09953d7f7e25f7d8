"""Mask targets: coverages instead of binary maps, strides below the prototypes', points."""

import pytest
import torch
import torch.nn.functional as F

from layers.extras import COVERAGE, EXTRAS
from layers.losses import registry
from layers.losses.auxiliary import MaskIoULoss, soft_mask_iou
from layers.losses.mask import MaskLoss
from layers.masks import box_window, signed_distance_map
from layers.targets import Targets
from tests.layers.losses.inputs import (
    MASK_SIZES,
    gradients,
    make_criterion,
    make_predictions,
    make_targets,
)


def make_masks():
    """(2,8,8): a left part of 3 columns, and a disc."""
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    return torch.stack((x < 3, (x - 3.5) ** 2 + (y - 3.5) ** 2 < 9))


def test_coverage_is_the_mean_of_each_cell():
    found = EXTRAS.get(COVERAGE).of(make_masks(), (2, 4))
    assert found.dtype == torch.uint8
    assert found[0].tolist() == [[255, 128, 0, 0]] * 2
    by_hand = make_masks()[1].float().view(2, 4, 4, 2).mean((1, 3))
    assert (found[1] / 255 - by_hand).abs().max() <= 1 / 510


def test_coverage_of_sides_that_do_not_divide_is_area_interpolation():
    masks = torch.rand(6, 55, 55, generator=torch.Generator().manual_seed(0)) > 0.5
    expected = F.interpolate(masks[None].float(), (14, 14), mode="area")[0]
    assert (EXTRAS.get(COVERAGE).of(masks, (14, 14)) / 255 - expected).abs().max() <= 1 / 509


def test_subpixel_distance_is_the_binary_one_at_input_size_and_finer_below():
    made, masks = EXTRAS.get("subpixel_distance"), make_masks()
    assert torch.equal(made.of(masks, (8, 8)), signed_distance_map(masks))
    # the edge of the left part is at x = 3: of cells 2 wide, at 1.5 cells
    row = made.of(masks, (4, 4))[0, 0]
    assert row.tolist() == [-0.5, 0.5, 1.5, 2.5]
    whole = torch.ones(1, 8, 8, dtype=torch.bool)
    assert not made.of(whole, (4, 4)).any() and not made.of(~whole, (4, 4)).any()


def test_a_full_extra_needs_whole_masks():
    targets = Targets(torch.rand(2, 4), torch.zeros(2).long(), torch.zeros(2).bool(), make_masks())
    carried = targets.reduce([], keep_full=False, extras=[(COVERAGE, (4, 4))])
    assert torch.equal(
        carried.extra_at(COVERAGE, 4, 4), EXTRAS.get(COVERAGE).of(make_masks(), (4, 4))
    )
    with pytest.raises(ValueError, match="no full-size masks, which coverage is made of"):
        carried.extra_at(COVERAGE, 2, 2)


def mask_term(criterion, predictions, targets, **options):
    carried = [
        t.reduce(criterion.mask_sizes, keep_full=False, extras=criterion.extras) for t in targets
    ]
    return criterion(predictions, carried, **options)


@pytest.mark.parametrize("stride", [4, 2, 1])
@pytest.mark.parametrize("target", ["binary", "coverage"])
def test_the_mask_loss_by_hand(target, stride):
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=1)]
    criterion, net = make_criterion("bce", mask_target=target, mask_stride=stride)
    size = {4: 16, 2: 32, 1: 64}[stride]
    assert criterion.target_size == (size, size)
    losses = mask_term(criterion, predictions, targets)
    assert all(g.isfinite().all() for g in gradients(losses, predictions, net))
    assignment = criterion.assign(predictions.anchors, predictions.level_sizes, targets)
    total, count = 0.0, 0
    for b, (index, truth) in enumerate(zip(assignment.gt_index, targets, strict=True)):
        for a in (index >= 0).nonzero()[:, 0].tolist():
            whole = truth.masks[index[a]].float()[None, None]
            mode = {"binary": "bilinear", "coverage": "area"}[target]
            goal = F.interpolate(whole, (size, size), mode=mode)[0, 0]
            goal = (goal > 0.5).float() if target == "binary" else (goal * 255).round() / 255
            logits = predictions.prototypes[b] @ predictions.mask_coeffs[b, a]
            logits = F.interpolate(logits[None, None], (size, size), mode="bilinear")[0, 0]
            box = truth.boxes[index[a]]
            keep = box_window(box[None], (size, size), size // 16)[0]
            cost = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
            total += (cost * keep).sum() / ((box[2:] - box[:2]).prod() * size**2)
            count += 1
    assert losses["mask"].item() == pytest.approx(6.125 * total.item() / count, rel=1e-5)


def test_nothing_but_the_mask_term_sees_the_target():
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=1)]
    published = mask_term(make_criterion("bce")[0], predictions, targets)
    criterion, _ = make_criterion("bce", mask_target="coverage", mask_stride=2)
    losses = mask_term(criterion, predictions, targets)
    assert {n for n in losses if not torch.equal(losses[n], published[n])} == {"mask"}


def test_the_semantic_map_is_compared_with_the_share_of_each_cell():
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=1)]
    targets[0].crowd[1] = True
    criterion, _ = make_criterion("bce", semantic_target="coverage")
    size = MASK_SIZES[1]
    assert (COVERAGE, size) in criterion.extras
    logits = predictions.semantic_logits
    truth = torch.zeros_like(logits)
    for b, target in enumerate(targets):
        for mask, label, crowd in zip(target.masks, target.labels, target.crowd, strict=True):
            if not crowd:  # the union of instances, as their sum
                truth[b, label] += F.interpolate(mask[None, None].float(), size, mode="area")[0, 0]
    by_hand = F.binary_cross_entropy_with_logits(logits, truth.clamp(max=1), reduction="none")
    found = mask_term(criterion, predictions, targets)["semantic"]
    torch.testing.assert_close(found, by_hand.mean((2, 3)).sum() / 2, rtol=2e-3, atol=0)
    published = mask_term(make_criterion("bce")[0], predictions, targets)["semantic"]
    assert abs(found - published) > 1e-3


def test_the_mask_iou_network_learns_the_iou_of_shares():
    prediction = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    truth = torch.tensor([[[0.0, 0.75], [0.5, 0.0]]])
    assert soft_mask_iou(prediction, truth).item() == pytest.approx(0.75 / 2.25)
    assert soft_mask_iou(truth, truth).item() == pytest.approx(1)
    assert soft_mask_iou(0 * truth, 0 * truth).item() == 0
    loss = MaskIoULoss(lambda masks: masks.new_zeros(1, 1), min_area=0)
    whole, first = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0])
    shares = torch.tensor([[[51, 204]]], dtype=torch.uint8)  # of 1/5 and 4/5
    value = loss(torch.zeros(1, 1, 2), shares, whole, first)  # probabilities of 1/2
    assert value.item() == pytest.approx(0.5 * ((0.2 + 0.5) / (0.5 + 0.8)) ** 2)

    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=1)]
    values = {}
    for target in ("binary", "coverage"):
        criterion, _ = make_criterion("bce", mask_iou_target=target)
        assert criterion.extras == ([(COVERAGE, MASK_SIZES[0])] if target == "coverage" else [])
        values[target] = mask_term(criterion, predictions, targets)
    assert values["binary"]["mask_iou"] != values["coverage"]["mask_iou"]
    assert all(values["binary"][k] == values["coverage"][k] for k in ("mask", "semantic", "box"))


def test_distances_are_carried_as_their_subpixel_form():
    criterion, _ = make_criterion("bce + boundary", mask_target="coverage", mask_stride=2)
    assert criterion.extras == [("subpixel_distance", (32, 32)), (COVERAGE, (32, 32))]
    assert make_criterion("boundary + bce")[0].extras == [("distance", MASK_SIZES[0])]
    targets = [make_targets(3), make_targets(2, seed=1)]
    assert mask_term(criterion, make_predictions(2), targets)["mask"].isfinite()


def test_what_is_logged_of_coverages_is_0_at_a_perfect_mask():
    """Losses and gradients keep the entropy; `terms` of the log do not."""
    predictions, targets = make_predictions(2), [make_targets(3), make_targets(2, seed=1)]
    criterion, _ = make_criterion("bce + 2*mse + dice", mask_target="coverage")
    loss = mask_term(criterion, predictions, targets)["mask"]
    terms = dict(criterion.last_terms)
    assert not any(value.requires_grad for value in terms.values())
    mask_loss = criterion.mask_loss
    mask_loss.floors = lambda *arguments, **options: {}
    assert torch.equal(mask_term(criterion, predictions, targets)["mask"], loss)
    raw = criterion.last_terms
    taken = raw["bce"] - terms["bce"]
    assert taken > 0.01 and abs(raw["mse"] - terms["mse"]) < 1e-8 and raw["dice"] == terms["dice"]
    torch.testing.assert_close(
        raw["bce/weighted"] - terms["bce/weighted"], criterion.weights["mask"] * taken
    )
    torch.testing.assert_close(
        sum(value for label, value in raw.items() if "weighted" in label), loss.detach()
    )
    # logits of the coverages themselves, in place of what prototypes and coefficients give
    del mask_loss.floors
    exact = mask_loss.terms
    mask_loss.terms = lambda logits, target, *rest, **options: exact(
        (target / 255).logit().clamp(-100, 100), target, *rest, **options
    )
    mask_term(criterion, predictions, targets)
    assert criterion.last_terms["bce"] == criterion.last_terms["mse"] == 0


def test_points_read_the_upsampled_map():
    """With the same value everywhere, a sample is the whole; and on average it is as well."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 16, 16, generator=generator, dtype=torch.float64)
    target = torch.rand(3, 64, 64, generator=generator, dtype=torch.float64)
    boxes = torch.tensor(
        [[0.1, 0.1, 0.6, 0.5], [0.0, 0.2, 1.0, 0.9], [0.3, 0.3, 0.4, 0.45]]
    ).double()
    whole = MaskLoss("mse", stride=1)(logits, target, boxes)
    # all points are uniform draws where every logit is as sure as any other
    flat = torch.full_like(logits, 0.7)
    drawn = MaskLoss("mse(sampling=points(60000))", stride=1)(
        flat, target, boxes, generator=generator
    )
    assert drawn.tolist() == pytest.approx(
        MaskLoss("mse", stride=1)(flat, target, boxes).tolist(), rel=0.02
    )
    big = F.interpolate(logits[:, None], (64, 64), mode="bilinear")[:, 0]
    assert whole.tolist() == pytest.approx(
        [
            (((big[i].sigmoid() - target[i]) ** 2) * box_window(boxes[i : i + 1], (64, 64), 4)[0])
            .sum()
            .item()
            / ((boxes[i, 2:] - boxes[i, :2]).prod().item() * 64**2)
            for i in range(3)
        ]
    )


def test_points_take_logits_targets_and_distances_of_the_same_pixels(monkeypatch):
    """A loss that returns its inputs: each point's logit is the bilinear map's at its pixel."""
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    seen = {}

    @registry.pixel_loss("spy", "what it was given", needs=("distance",), soft="proper")
    def spy(logits, target, *, distance):
        seen.update(logits=logits, target=target, distance=distance)
        return logits.sigmoid()

    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    index = torch.arange(64 * 64).view(1, 64, 64).expand(2, -1, -1).float()
    boxes = torch.tensor([[0.2, 0.2, 0.7, 0.6], [0.0, 0.0, 1.0, 1.0]])
    loss = MaskLoss("spy(sampling=points(500))", stride=1)
    loss(logits, index, boxes, extras={"distance": -index})
    big = F.interpolate(logits[:, None], (64, 64), mode="bilinear")[:, 0].flatten(1)
    place = seen["target"][:, 0].long()
    assert torch.equal(seen["distance"], -seen["target"])
    assert (big.gather(1, place) - seen["logits"][:, 0]).abs().max() < 1e-5
    inside = box_window(boxes, (64, 64), 4).flatten(1)
    assert inside.gather(1, place).all()


def test_what_cannot_be_asked_for():
    with pytest.raises(ValueError, match="weighted_bce.*reads a mask as a whole.*mask_stride=4"):
        MaskLoss("weighted_bce(sampling=points(10))", stride=1)
    with pytest.raises(ValueError, match="expected logits"):
        MaskLoss("bce")(torch.zeros(1, 16, 16), torch.zeros(1, 32, 32), torch.zeros(1, 4))
