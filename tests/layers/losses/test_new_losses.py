"""Losses that were asked for beside the survey's: sub-pixel cross-entropy, boundary difference over
union, weights by ground truth, and quality focal loss on the IoU of masks. Numbers of public code
are described in tests/reference/README.md."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from layers.losses.classification import build_class_loss
from layers.losses.mask import build_mask_loss
from layers.losses.terms.boundary import boundary_dou, subpixel_bce
from layers.losses.terms.region import dice
from tests.layers.losses.inputs import MASK_SIZES, gradients, make_criterion, make_targets
from tests.layers.losses.test_balance import sigmoid_predictions

STORED = Path(__file__).parents[2] / "reference" / "assigners_losses" / "8_new_losses"


def stored(name):
    return json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------- sub-pixel


def soft_disc(size=12):
    """(1,S,S) share of each cell that a disc covers, and random logits."""
    place = (torch.arange(8 * size, dtype=torch.float64) + 0.5) / 8
    disc = (place[:, None] - 5.7) ** 2 + (place - 6.2) ** 2 <= 3.8**2
    target = disc.double().view(1, size, 8, size, 8).mean((2, 4))
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, size, size, generator=generator, dtype=torch.float64), target


def test_subpixel_bce_is_that_of_the_mean_over_sub_pixels():
    """Against scipy's linear interpolation, cell by cell."""
    logits, target = soft_disc()
    z, share, total = logits[0].numpy(), target[0].numpy(), 0.0
    steps = (np.arange(4) + 0.5) / 4 - 0.5
    for row, column in np.ndindex(z.shape):
        rows, columns = np.meshgrid(row + steps, column + steps, indexing="ij")
        fine = map_coordinates(z, [rows, columns], order=1, mode="nearest")
        at_rim = row in (0, 11) or column in (0, 11)
        inside = 0 < share[row, column] < 1
        assert not (inside and at_rim)
        p = 1 / (1 + np.exp(-(fine if inside else z[row, column])))
        total -= share[row, column] * np.log(p.mean())
        total -= (1 - share[row, column]) * np.log(1 - p.mean())
    value = subpixel_bce(logits, target, torch.ones_like(target))
    assert value.item() == pytest.approx(total / z.size, rel=1e-12)


def test_a_sharp_edge_through_a_cell_costs_less_than_under_bce():
    """Half-covered columns beside sure ones: the sub-pixel form is content with steep logits."""
    target = torch.zeros(1, 8, 8, dtype=torch.float64)
    target[..., :4], target[..., 4] = 1, 0.5
    ones = torch.ones_like(target)
    # +40, 0, -40 cross 0 in the middle of the cell
    steep = torch.tensor([40.0] * 4 + [0.0] + [-40.0] * 3, dtype=torch.float64).expand(1, 8, 8)
    off = steep + 4  # the edge a tenth of a cell to the right
    entropy = 8 * np.log(2) / 64
    assert subpixel_bce(steep, target, ones).item() == pytest.approx(entropy, rel=1e-3)
    moved, plain = subpixel_bce(off, target, ones), build_mask_loss("bce(region='image')")
    boxes = torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float64)
    assert (moved - entropy).item() < 0.2 * (plain(off, target, boxes).item() - entropy)


def test_what_lies_outside_the_region_does_not_matter_to_sub_pixels():
    logits, target = soft_disc()
    weight = torch.ones_like(target)
    weight[..., :3] = 0
    x = logits.clone().requires_grad_()
    value = subpixel_bce(x, target, weight)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert not gradient[..., :3].any()
    other = torch.where(weight > 0, logits, -logits)
    assert torch.equal(subpixel_bce(other, target, weight), value.detach())


# ------------------------------------------------------------------------------------- boundary DoU


def test_boundary_dou_agrees_with_the_authors_code():
    """Values and gradients, but for the 1e-5 that the code adds to the numerator too."""
    known = stored("boundary_dou")
    shape = (len(known["names"]), 12, 12)
    logits = torch.tensor(known["logits"], dtype=torch.float64).view(shape).requires_grad_()
    target = torch.tensor([list(map(int, t)) for t in known["target"]]).view(shape).double()
    value = boundary_dou(logits, target, torch.ones_like(target))
    assert value.tolist() == pytest.approx(known["boundary_dou"], abs=2e-6)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    p = logits.detach().sigmoid()
    theirs = torch.tensor(known["boundary_dou_gradients"]).view(shape) * p * (1 - p)
    torch.testing.assert_close(gradient, theirs.double(), rtol=1e-5, atol=1e-6)


def test_boundary_dou_of_objects_that_are_all_boundary_and_of_large_ones():
    """alpha = -1 where every pixel is of the boundary: E / (E + 2 I), Dice with squares. A square
    of 100 pixels a side has 4 % of them: alpha is cut at 0.8."""
    generator = torch.Generator().manual_seed(0)
    thin = torch.zeros(1, 9, 9, dtype=torch.float64)
    thin[:, 4] = 1
    logits = torch.randn(1, 9, 9, generator=generator, dtype=torch.float64)
    ones = torch.ones_like(thin)
    squares = dice(logits, thin, ones, denominator="squares", smooth=0.0)
    torch.testing.assert_close(boundary_dou(logits, thin, ones, smooth=0.0), squares)
    large = torch.ones(1, 100, 100, dtype=torch.float64)
    p = torch.full_like(large, 0.5)
    expected = 0.25 / (0.25 + 0.2 * 0.5)
    value = boundary_dou(p.logit(), large, torch.ones_like(large), smooth=0.0)
    assert value.item() == pytest.approx(expected)


# ------------------------------------------------------------------------------ weight of instances


def test_balance_equal_is_inverse_weighting_of_positives():
    """The authors' weights of connected components, with a ground truth's positives as pixels."""
    known = stored("inverse_weights")
    assert len(known) == 4
    for row in known:
        index = torch.tensor(row["ground_truth"])
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(len(index), 6, 6, generator=generator)
        target = (torch.rand(len(index), 6, 6, generator=generator) > 0.5).float()
        boxes = torch.tensor([[0.0, 0, 1, 1]]).expand(len(index), 4)
        extras = {"image": torch.zeros_like(index), "ground_truth": index}
        plain, weighted = (
            build_mask_loss(text)(logits, target, boxes, extras=extras)
            for text in ("bce", "bce(balance='equal')")
        )
        torch.testing.assert_close(weighted / plain, torch.tensor(row["weight"]))


# ------------------------------------------------------------------------------------ quality focal


@pytest.mark.parametrize("row", [0, 1])
def test_quality_focal_agrees_with_the_authors_code(row):
    known = stored("quality_focal")
    beta = known["rows"][row]["beta"]
    logits = torch.tensor([known["logits"]], dtype=torch.float64, requires_grad=True)  # (1,A,C)
    labels, quality = (
        torch.tensor(known["labels"]),
        torch.tensor(known["quality"], dtype=torch.float64),
    )
    rows = (labels < 4).nonzero()[:, 0]
    background = (labels == 4)[None]
    for of, other in (("mask", "box"), ("box", "mask")):
        loss = build_class_loss(f"quality_focal(beta={beta:g}, of='{of}')")
        given = {"mask": quality[rows], "box": quality[rows]} | {other: torch.zeros(len(rows))}
        value = loss(
            *(logits, rows, labels[rows], background),
            quality=given["box"],
            mask_quality=given["mask"],
        )
        assert value.item() == pytest.approx(sum(known["rows"][row]["per_anchor"]), rel=1e-12)
        (gradient,) = torch.autograd.grad(value, logits)
        theirs = torch.tensor([known["rows"][row]["gradient"]], dtype=torch.float64)
        torch.testing.assert_close(gradient, theirs, rtol=1e-9, atol=1e-12)


def test_the_quality_is_the_iou_of_every_positives_mask():
    """Counted pixel by pixel in loops; also of positives that train no mask."""
    criterion = make_criterion(
        mask_iou=False,
        masks_to_train=2,
        classification=build_class_loss("quality_focal"),
    )[0]
    predictions = sigmoid_predictions(2)
    targets = [make_targets(3), make_targets(4, seed=1)]
    seen = {}
    chosen = criterion.class_loss.chosen
    criterion.class_loss.chosen = lambda *given, **own: seen.update(own) or chosen(*given, **own)
    losses = criterion(predictions, targets)
    index = criterion.assign(predictions.anchors, predictions.level_sizes, targets).gt_index
    expected = []
    height, width = MASK_SIZES[0]
    for b, a in (index >= 0).nonzero().tolist():
        p = predictions.prototypes[b] @ predictions.mask_coeffs[b, a] > 0
        truth = targets[b].mask_at(height, width)[index[b, a]]
        x1, y1, x2, y2 = (targets[b].boxes[index[b, a]] * width).tolist()
        both = either = 0
        for y in range(height):
            for x in range(width):
                kept = x1 - 1 <= x < x2 + 1 and y1 - 1 <= y < y2 + 1
                mine, theirs = bool(p[y, x]) and kept, bool(truth[y, x])
                both, either = both + (mine and theirs), either + (mine or theirs)
        expected.append(both / max(either, 1))
    assert len(expected) > 4 and 0.1 < max(expected) < 1
    assert seen["mask_quality"].tolist() == pytest.approx(expected)
    assert not seen["mask_quality"].requires_grad
    assert all(g.isfinite().all() for g in gradients(losses, predictions))
