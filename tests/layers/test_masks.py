import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from layers import masks as masks_module
from layers.masks import (
    assemble,
    box_window,
    crop,
    resize_logits,
    resize_to_image,
    signed_distance_map,
)

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


@pytest.mark.parametrize(
    "resize, least", [(resize_to_image, 480 * 640 * 4), (resize_logits, 34 * 640 * 4)]
)
@pytest.mark.parametrize("with_boxes", [False, True])
def test_float_pixels_are_bounded(monkeypatch, with_boxes, resize, least):
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
        resize(torch.rand(20, 34, 34), (480, 640), boxes=boxes if with_boxes else None)
    assert least <= max(made) <= 4 << 20


# ---------------------------------------------------------------- logits


def whole_map(logits, size, boxes=None):
    """(bicubic logits of the full map, what is mask of them)."""
    full = F.interpolate(logits[None], size, mode="bicubic", align_corners=False)[0]
    return full, (full > 0) & (True if boxes is None else box_window(boxes, size, 1))


@pytest.fixture(params=["windows", "whole"])
def resize(request, monkeypatch):
    """resize_logits, by windows as on a CPU and by whole masks as on a GPU."""
    if request.param == "whole":
        monkeypatch.setattr(masks_module, "_cubic_windows", masks_module._cubic_whole)
    return resize_logits


@pytest.mark.parametrize(
    "size", [(480, 640), (187, 301), (69, 100), (138, 138), (1000, 3), (9, 7), (1, 1)]
)
def test_logits_are_the_bicubic_full_map_cut_at_the_box(size, resize):
    generator = torch.Generator().manual_seed(4)
    boxes, logits = random_boxes(20, generator), 5 * torch.randn(20, 138, 100, generator=generator)
    full, expected = whole_map(logits, size, boxes)
    clear = full.abs() > 1e-4
    assert clear.float().mean() > 0.999 and expected.any() and not expected.all()
    assert torch.equal(resize(logits, size, boxes=boxes)[clear], expected[clear])
    assert torch.equal(resize(logits, size)[clear], (full > 0)[clear])


@settings(deadline=None)
@given(
    boxes_strategy, st.integers(1, 12), st.integers(1, 40), st.integers(1, 90), st.integers(1, 40)
)
def test_logits_agree_for_any_sizes_and_boxes(boxes, h, w, new_h, new_w):
    logits = torch.randn(len(boxes), h, w, generator=torch.Generator().manual_seed(h * w))
    full, expected = whole_map(logits, (new_h, new_w), boxes)
    clear = full.abs() > 1e-5
    found = resize_logits(logits, (new_h, new_w), boxes=boxes)
    assert torch.equal(found[clear], expected[clear])


def test_a_logit_edge_lies_between_prototype_pixels(resize):
    """Logits -1 and 3 of neighbours whose centres lie 8 pixels apart cross 0 a quarter of the way;
    the probability crosses 0.5 later. Straight lines, as far from the ends."""
    logits = torch.arange(-9.0, 26, 4).expand(1, 3, 9)  # -1 at column 2, 3 at column 3
    row = resize(logits, (3, 72))[0, 1]
    # pixel c lies at (c + 0.5) / 8 - 0.5 in the map, so 2.25 is at 21.5: on the edge, and not mask
    assert row.nonzero()[0].item() == 22
    assert resize_to_image(logits.sigmoid(), (3, 72))[0, 1].nonzero()[0].item() == 22 + 1


@pytest.mark.parametrize(
    "box, rows, columns",
    [
        ([0.5, 0.5, 0.5, 0.5], (9, 10), (19, 20)),  # no area: one pixel on either side
        ([0.501, 0.501, 0.502, 0.502], (10, 11), (20, 21)),
        ([-0.2, -0.2, 0.1, 0.1], (0, 2), (0, 4)),  # over the border
        ([0.9, 0.9, 1.4, 1.4], (17, 19), (35, 39)),
    ],
)
def test_tiny_boxes_and_those_over_the_border(box, rows, columns, resize):
    found = resize(torch.ones(1, 6, 6), (20, 40), boxes=torch.tensor([box]))[0].nonzero()
    assert tuple(found.amin(0)) == (rows[0], columns[0])
    assert tuple(found.amax(0)) == (rows[1], columns[1])


def test_no_pixel_is_found_outside_the_image_or_without_masks(resize):
    outside = torch.tensor([[1.2, 0.1, 1.5, 0.9], [0.1, -0.9, 0.9, -0.5]])
    assert not resize(torch.ones(2, 8, 8), (20, 30), boxes=outside).any()
    for boxes in (None, torch.zeros(0, 4)):
        assert resize(torch.zeros(0, 8, 8), (20, 30), boxes=boxes).shape == (0, 20, 30)


def test_half_precision_logits_are_resized_in_float32(resize):
    logits = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(resize(logits, (90, 70)), resize(logits.float(), (90, 70)))


@pytest.mark.parametrize("block", [4 * 60 * 3, 1])
def test_blocks_of_logits_do_not_change_the_result(monkeypatch, block, resize):
    generator = torch.Generator().manual_seed(0)
    boxes, logits = random_boxes(9, generator), torch.randn(9, 20, 20, generator=generator)
    whole = resize(logits, (50, 60), boxes=boxes)
    monkeypatch.setattr(masks_module, "RESIZE_BYTES", 4 * 50 * 60 * 2)
    monkeypatch.setattr(masks_module, "BLOCK_BYTES", block)
    monkeypatch.setattr(masks_module, "BAND", 3)
    assert torch.equal(resize(logits, (50, 60), boxes=boxes), whole)


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
