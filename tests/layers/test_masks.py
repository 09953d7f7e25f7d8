import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from layers import masks as masks_module
from layers.masks import assemble, box_window, crop, resize_to_image, signed_distance_map

edge = st.floats(-0.375, 1.375, width=32)
boxes_strategy = st.lists(st.tuples(edge, edge, edge, edge), min_size=1, max_size=5).map(
    torch.tensor
)


def random_boxes(n, generator):
    center, size = (
        torch.rand(n, 2, generator=generator) * 1.2 - 0.1,
        torch.rand(n, 2, generator=generator) * 0.6,
    )
    return torch.cat((center - size / 2, center + size / 2), 1)


def test_assemble_is_a_weighted_sum_of_prototypes():
    prototypes, coeffs = torch.randn(5, 7, 4), torch.randn(3, 4)
    logits = assemble(prototypes, coeffs)
    assert logits.shape == (3, 5, 7)
    assert torch.allclose(logits[2, 4, 1], prototypes[4, 1] @ coeffs[2], atol=1e-5)
    assert assemble(prototypes, coeffs[:0]).shape == (0, 5, 7)


def test_window_by_hand():
    # columns: edges 2.5 and 5.0 of 10 pixels, grown by 1: 1.5 <= c < 6.0; rows: edges 0 and 1 of 4
    # pixels: -1 <= r < 2
    window = box_window(torch.tensor([[0.25, 0.0, 0.5, 0.25]]), (4, 10))[0]
    assert window.any(0).nonzero()[:, 0].tolist() == [2, 3, 4, 5]
    assert window.any(1).nonzero()[:, 0].tolist() == [0, 1]
    assert window.sum() == 8


def test_crop_zeroes_outside_even_nan_and_passes_the_gradient_inside():
    masks = torch.full((1, 8, 8), float("nan"))
    masks[:, 2:6, 2:6] = 0.7
    boxes = torch.tensor([[0.375, 0.375, 0.625, 0.625]])  # 3..5, grown to 2..6
    masks.requires_grad_()
    cropped = crop(masks, boxes)
    assert cropped.sum().item() == pytest.approx(16 * 0.7)
    cropped.sum().backward()
    assert torch.equal(masks.grad, box_window(boxes, (8, 8)).float())


@given(boxes_strategy, st.integers(1, 9), st.integers(1, 9))
def test_window_grows_with_padding_and_ignores_the_order_of_corners(boxes, h, w):
    small, large = box_window(boxes, (h, w), 0), box_window(boxes, (h, w), 1)
    assert (small <= large).all()
    assert torch.equal(box_window(boxes[:, [2, 3, 0, 1]], (h, w), 1), large)


@pytest.mark.parametrize("size", [(480, 640), (187, 301), (69, 100), (138, 138), (1000, 3), (9, 7)])
@pytest.mark.parametrize("kind", ["soft", "binary", "filled"])
def test_windows_give_the_pixels_of_a_full_resize(size, kind):
    generator = torch.Generator().manual_seed(3)
    boxes = random_boxes(20, generator)
    masks = (
        torch.rand(20, 138, 100, generator=generator)
        if kind != "filled"
        else torch.ones(20, 138, 100)
    )
    masks = crop(masks.round() if kind == "binary" else masks, boxes)
    full = F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] > 0.5
    assert full.any()
    assert torch.equal(resize_to_image(masks, size, boxes=boxes), full)
    assert torch.equal(resize_to_image(masks, size), full)


@settings(deadline=None)
@given(
    boxes_strategy, st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)
)
def test_windows_agree_for_any_sizes_and_boxes(boxes, h, w, new_h, new_w):
    masks = crop(torch.ones(len(boxes), h, w), boxes)
    full = F.interpolate(masks[None], (new_h, new_w), mode="bilinear", align_corners=False)[0]
    clear = (full - 0.5).abs() > 1e-5  # at 0.5 itself, on which side a pixel falls is rounding
    assert torch.equal(
        resize_to_image(masks, (new_h, new_w), boxes=boxes)[clear], (full > 0.5)[clear]
    )


def test_resize_of_nothing():
    assert resize_to_image(torch.zeros(0, 8, 8), (20, 30)).shape == (0, 20, 30)
    assert resize_to_image(torch.zeros(0, 8, 8), (20, 30), boxes=torch.zeros(0, 4)).shape == (
        0,
        20,
        30,
    )


@pytest.mark.parametrize("with_boxes", [False, True])
def test_chunks_do_not_change_the_result(monkeypatch, with_boxes):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(9, generator)
    masks = crop(torch.rand(9, 20, 20, generator=generator), boxes)
    whole = resize_to_image(masks, (50, 60))
    monkeypatch.setattr(masks_module, "RESIZE_BYTES", 4 * 50 * 60 * 2)
    monkeypatch.setattr(masks_module, "BLOCK_BYTES", 4 * 60 * 3)
    assert torch.equal(resize_to_image(masks, (50, 60), boxes=boxes if with_boxes else None), whole)


@pytest.mark.parametrize("with_boxes", [False, True])
def test_float_pixels_are_bounded(monkeypatch, with_boxes):
    """20 masks of 480x640 are 25 MB as floats; the largest tensor made on the way stays within the
    budget."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                made.append(result.numel() * result.element_size())
            return result

    monkeypatch.setattr(masks_module, "RESIZE_BYTES", 4 << 20)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(20, 4)
    with Watch():
        resize_to_image(torch.rand(20, 34, 34), (480, 640), boxes=boxes if with_boxes else None)
    assert 480 * 640 * 4 <= max(made) <= 4 << 20


def square(size=9, low=3, high=6):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, low:high, low:high] = True
    return mask


def test_distances_by_hand():
    distance = signed_distance_map(square())[0]
    # the inner border is 0, the middle one further inside
    assert distance[4].tolist() == [3, 2, 1, 0, -1, 0, 1, 2, 3]
    assert distance[2, 2].item() == pytest.approx(math.sqrt(2))
    assert distance[0, 4].item() == 3


def test_distances_by_search():
    mask = torch.rand(3, 12, 10, generator=torch.Generator().manual_seed(0)) > 0.8
    found = signed_distance_map(mask)
    assert found.dtype == torch.float32
    points = torch.cartesian_prod(torch.arange(12), torch.arange(10)).double()
    for row, distance in zip(mask, found, strict=True):
        apart = torch.cdist(points, points)
        flat = row.flatten()
        to_on, to_off = apart[:, flat].amin(1), apart[:, ~flat].amin(1)
        torch.testing.assert_close(distance.flatten(), torch.where(flat, 1 - to_off, to_on).float())


def test_masks_without_boundary_have_no_distances():
    assert (
        signed_distance_map(torch.stack((torch.zeros(4, 5), torch.ones(4, 5))).bool()) == 0
    ).all()
    assert signed_distance_map(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4, 5)
