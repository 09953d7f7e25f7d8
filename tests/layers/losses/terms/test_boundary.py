import pytest
import torch

from layers.extras import COVERAGE, COVERED, EXTRAS
from layers.losses.terms.boundary import (
    boundary,
    boundary_agreement,
    hausdorff,
)
from layers.masks import signed_distance_map


def square(size=9, low=3, high=6):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, low:high, low:high] = True
    return mask


def test_the_constant_does_not_change_the_gradient():
    target = square().double()
    distance = signed_distance_map(square())
    logits = torch.randn(1, 9, 9, dtype=torch.float64, requires_grad=True)
    plain, shifted = (
        boundary(logits, target, distance=distance, constant=constant) for constant in (False, True)
    )
    torch.testing.assert_close(plain, distance * logits.sigmoid())
    torch.testing.assert_close(shifted - plain, -distance * target)
    plain, shifted = (
        torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (plain, shifted)
    )
    torch.testing.assert_close(plain, shifted)


def test_hausdorff_by_hand():
    # One sure false positive 3 pixels away, and one sure false negative in the middle, 2 pixels
    # from the outside.
    target = square().double()
    distance, ones = signed_distance_map(square()), torch.ones(1, 9, 9, dtype=torch.float64)
    logits = 50 * (2 * target - 1)
    assert hausdorff(logits, target, ones, distance=distance).item() == pytest.approx(0, abs=1e-12)
    logits[0, 4, 0], logits[0, 4, 4] = 50, -50
    assert hausdorff(logits, target, ones, distance=distance).item() == pytest.approx((9 + 4) / 81)
    assert hausdorff(logits, target, ones, distance=distance, alpha=1.0).item() == pytest.approx(
        (3 + 2) / 81
    )
    # Single pixels vanish in the first erosion: one more each.
    assert hausdorff(
        logits, target, ones, distance=distance, two_sided=True
    ).item() == pytest.approx((9 + 4 + 2) / 81)


def test_coverages_leave_no_depth_at_or_below_0():
    """A fractional power of it would have no value: blobs of all sizes, stripes and a
    chequerboard."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    masks = [(x + y) % 2 == 0, x % 4 < 2, x % 4 < 3, x % 8 < 5]
    for cells in (4, 8, 16, 32, 64):
        noise = torch.randn(1, 1, cells, cells, generator=generator)
        field = torch.nn.functional.interpolate(noise, (64, 64), mode="bicubic")[0, 0]
        masks += [field > field.quantile(share) for share in (0.5, 0.9, 0.99)]
    whole = torch.stack(masks)
    distance = EXTRAS.get("subpixel_distance").of(whole, (16, 16))
    target = EXTRAS.get(COVERAGE).of(whole, (16, 16)).float() / COVERED
    assert torch.where(target > 0.5, 1 - distance, distance).min() > 0.4
    logits = torch.zeros_like(target, requires_grad=True)
    value = hausdorff(logits, target, torch.ones_like(target), distance=distance, alpha=0.5)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all() and gradient.isfinite().all()


def test_erosion_counts_deep_errors_more_than_scattered_ones():
    # without boundary: the distances say nothing
    target = torch.zeros(2, 9, 9, dtype=torch.float64)
    distance, ones = torch.zeros(2, 9, 9), torch.ones_like(target)
    logits = torch.full_like(target, -50)
    # nine pixels in one patch: 9 + 1 * 2^2, as its middle survives one erosion
    logits[0, 3:6, 3:6] = 50
    logits[1, ::3, ::3] = 50  # nine pixels apart
    value = hausdorff(logits, target, ones, distance=distance, two_sided=True)
    torch.testing.assert_close(value, torch.tensor([13, 9], dtype=torch.float64) / 81)
    assert (hausdorff(logits, target, ones, distance=distance) == 0).all()


def test_boundary_agreement_by_hand():
    # A 3x3 square against one a pixel further right, p sure. To the right each takes 3 steps up and
    # 3 down, all in other places: 12 errors of 12. Downwards each takes 3 up and 3 down, of which 2
    # and 2 are common: 4 errors of 12.
    target = square().double()
    ones = torch.ones_like(target)
    value = boundary_agreement(50 * (2 * target.roll(1, 2) - 1), target, ones, smooth=0.0)
    assert value.item() == pytest.approx((12 + 4) / 24)
    assert boundary_agreement(50 * (2 * target - 1), target, ones).item() == pytest.approx(
        0, abs=1e-9
    )


def test_boundary_agreement_tells_an_object_from_its_hole():
    target = square().double()
    hole = boundary_agreement(50 * (1 - 2 * target), target, torch.ones_like(target), smooth=0.0)
    assert hole.item() == pytest.approx(2)  # every step has the other sign


def test_a_wider_contour_forgives_a_shift():
    target = square(32, 10, 22).float()
    logits, ones = 50 * (2 * target.roll(1, 2) - 1), torch.ones_like(target)
    narrow, wide = (
        boundary_agreement(logits, target, ones, width=width).item() for width in (1, 3)
    )
    assert 0 < wide < narrow


def test_map_edges_and_excluded_pixels_are_no_contours():
    ones = torch.ones(1, 8, 8)
    assert boundary_agreement(
        torch.full((1, 8, 8), 50.0), torch.zeros(1, 8, 8), ones
    ).item() == pytest.approx(0, abs=1e-9)
    weight = torch.zeros(1, 8, 8)
    weight[:, 2:6, 2:6] = 1
    # the step lies on the edge of what counts
    logits = torch.full((1, 8, 8), -50.0).masked_fill(weight > 0, 50)
    assert boundary_agreement(logits, torch.zeros(1, 8, 8), weight).item() == pytest.approx(
        0, abs=1e-9
    )
