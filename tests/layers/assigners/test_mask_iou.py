import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layers.assign import gma_iou
from layers.assigners.mask_iou import integral_images, tight_windows, whole, windows
from yolact.testing import brute_force

SIDES = (12, 17)


def random_masks(n, seed, size=SIDES):
    """Blobs of several sizes, among them an empty mask, a full one, one pixel in a corner and one
    at each border."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(n, *size, generator=generator) < torch.rand(n, 1, 1, generator=generator)
    window = (torch.rand(n, 4, generator=generator) * torch.tensor([size[0], size[1]] * 2)).long()
    for mask, (y1, x1, y2, x2) in zip(masks, window.tolist(), strict=True):
        mask[: min(y1, y2)], mask[max(y1, y2) :], mask[:, : min(x1, x2)], mask[:, max(x1, x2) :] = (
            False,
            False,
            False,
            False,
        )
    special = torch.zeros(4, *size, dtype=torch.bool)
    special[1], special[2, -1, -1], special[3, :, 0] = True, True, True
    return torch.cat((masks, special))


def random_rects(n, seed, step=0.25):
    """Partly and wholly outside the image; edges on quarters of pixels, so that halves occur."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 40 - 15
    rects = torch.cat(
        (low, low + torch.rand(n, 2, generator=generator, dtype=torch.float64) * 25), 1
    )
    return (rects / step).round() * step


def boxes_of(masks, slack=0.0):
    """The pixel-edge boxes around masks, grown by `slack`; (0,0,0,0) for an empty one."""
    top, bottom, left, right = tight_windows(masks)
    boxes = torch.stack((left, top, right, bottom), 1).double()
    return boxes + slack * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def test_by_hand():
    """A 4x4 box, half of it mask; the anchor holds 6 of the 8 mask pixels and 9 of the 16 of the
    box, and reaches out by 3."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0:4, 0:2] = True
    box, anchor = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.0, 1.0, 3.0, 5.0]])
    assert gma_iou(anchor, box, mask, polygon="mask").item() == pytest.approx(6 / (12 + 8 - 6))
    assert gma_iou(anchor, box, mask, polygon="box").item() == pytest.approx(
        16 / 8 * 6 / (12 + 16 - 9)
    )


def test_half_a_pixel_rounds_alike_after_a_detour_through_relative_boxes():
    """Anchors reach the assigner as fractions of the input; at 400 px many of YOLACT's edges lie
    between two pixels."""
    size = 400
    low = torch.arange(0, 300).repeat(2)[:, None] + torch.tensor([0.5, 0.5])
    anchors = torch.cat((low, low + 17), 1)
    mask = torch.rand(1, size, size, generator=torch.Generator().manual_seed(0)) < 0.5
    boxes = boxes_of(mask).float()
    relative = (anchors / size).float() * size
    assert (relative != anchors).any()
    torch.testing.assert_close(
        gma_iou(relative, boxes, mask), gma_iou(anchors, boxes, mask), rtol=1e-5, atol=0
    )


def test_other_types_are_refused():
    box, mask = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.ones(1, 8, 8, dtype=torch.bool)
    for wrong in (
        (box, box, mask.float()),
        (box, box, mask.to(torch.uint8) * 255),
        (box.long(), box, mask),
    ):
        with pytest.raises(ValueError, match="floating-point and masks bool"):
            gma_iou(*wrong)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(["box", "mask"]), st.sampled_from(["reference", "exact"])
)
def test_agrees_with_the_definition(seed, polygon, rounding):
    masks = random_masks(2, seed)
    anchors, boxes = random_rects(12, seed), boxes_of(masks, 0.3)
    expected = brute_force.gma_iou_by_pixels(
        anchors, boxes, masks, polygon=polygon, rounding=rounding
    )
    # the definition divides where a rounded anchor holds more than its area, and where a box
    # without area lies in one
    torch.testing.assert_close(
        gma_iou(anchors, boxes, masks, polygon=polygon, rounding=rounding),
        expected,
        atol=1e-12,
        rtol=1e-12,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 2), st.sampled_from(["reference", "exact"]))
def test_the_box_is_never_below_the_mask(seed, slack, rounding):
    """The corollary of the generalised form: a mask inside its box. Where edges are rounded it
    holds for anchors on pixel edges."""
    masks = random_masks(4, seed)
    anchors, boxes = (
        random_rects(40, seed, step=1 if rounding == "reference" else 0.25),
        boxes_of(masks, slack),
    )
    by_box, by_mask = (
        gma_iou(anchors, boxes, masks, polygon=p, rounding=rounding) for p in ("box", "mask")
    )
    assert (
        (by_box >= by_mask - 1e-12).all() and (by_mask <= 1 + 1e-12).all() and (by_mask > 0).any()
    )


def test_a_mask_that_fills_its_box_gives_plain_iou():
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 3:11, 5:14] = True
    anchors, boxes = random_rects(60, 0, step=1), boxes_of(masks)
    sides = (
        torch.minimum(anchors[:, 2:], boxes[:, 2:]) - torch.maximum(anchors[:, :2], boxes[:, :2])
    ).clamp(min=0)
    inside = sides.prod(1)
    expected = inside / ((anchors[:, 2:] - anchors[:, :2]).prod(1) + 72 - inside)
    for polygon in ("box", "mask"):
        torch.testing.assert_close(gma_iou(anchors, boxes, masks, polygon=polygon)[0], expected)


@pytest.mark.parametrize("rounding", ["reference", "exact"])
@pytest.mark.parametrize("polygon", ["box", "mask"])
def test_nothing_to_overlap_gives_zero(polygon, rounding):
    def call(anchors, boxes, masks):
        return gma_iou(anchors, boxes, masks, polygon=polygon, rounding=rounding)

    full = torch.ones(1, 8, 8, dtype=torch.bool)
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    outside = torch.tensor([[-9.0, -9, -1, -1], [8, 0, 20, 8], [0, 9, 8, 20], [100, 100, 300, 300]])
    assert (call(outside, box, full) == 0).all()
    # a box that reaches out: the published code fails here
    assert (call(outside, torch.tensor([[6.0, 6.0, 30.0, 30.0]]), full) == 0).all()
    assert (call(box, box, torch.zeros_like(full)) == 0).all()
    assert (call(torch.zeros(1, 4), box, full) == 0).all()  # an anchor without area
    assert (call(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros_like(full)) == 0).all()
    assert call(box, box[:0], full[:0]).shape == (0, 1) and call(box[:0], box, full).shape == (1, 0)
    assert (call(box, box, torch.zeros(1, 0, 0, dtype=torch.bool)) == 0).all()


def test_masks_at_the_border_count_to_the_last_pixel():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 6:, 6:] = True
    anchors = torch.tensor(
        [[6.0, 6.0, 8.0, 8.0], [6.0, 6.0, 10.0, 10.0], [7.0, 7.0, 8.0, 8.0], [6.0, 6.0, 6.0, 8.0]]
    )
    found = gma_iou(anchors, torch.tensor([[6.0, 6.0, 8.0, 8.0]]), mask, polygon="mask")
    assert found[0].tolist() == [1, 0.25, 0.25, 0]


def test_integral_images_hold_tight_windows_in_int32():
    masks = random_masks(3, 5)
    table = integral_images(masks)
    top, bottom, left, right = tight_windows(masks)
    for mask, y1, y2, x1, x2 in zip(masks, top, bottom, left, right, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        expected = (
            [0, 0, 0, 0] if len(rows) == 0 else [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
        )
        assert [y1, y2, x1, x2] == expected
    assert (
        table.values.dtype == torch.int32
        and table.values.numel() == ((bottom - top + 1) * (right - left + 1)).sum()
    )
    assert table.total().tolist() == masks.sum((1, 2)).tolist()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_form_for_devices_counts_the_same(seed):
    masks, rects = random_masks(3, seed), random_rects(30, seed)
    every = rects.expand(len(masks), -1, -1)
    for a, b in (
        (windows(masks).count(every), whole(masks).count(every)),
        (windows(masks).coverage(every), whole(masks).coverage(every)),
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"polygon": "hull"}, "polygon='hull' must be 'box' or 'mask'"),
        ({"rounding": "up"}, "rounding='up'"),
    ],
)
def test_mistakes_are_named(options, message):
    boxes, masks = torch.zeros(2, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        gma_iou(boxes, boxes, masks, **options)
    with pytest.raises(ValueError, match="give one"):
        gma_iou(boxes, boxes[:1], masks)
