import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers.boxes import (
    center_size,
    corners,
    decode,
    encode,
    pairwise_intersection,
    pairwise_iou,
    to_pixels,
)

unit = st.floats(1 / 64, 63 / 64, width=32)
centered = st.lists(st.tuples(unit, unit, unit, unit), min_size=1, max_size=8).map(torch.tensor)


def test_overlaps_by_hand():
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 12.0, 11.0]])
    b = torch.tensor([[2.0, 2.0, 6.0, 6.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 8.0, 2.0]])
    assert pairwise_intersection(a, b).tolist() == [[4, 16, 8], [0, 0, 0]]
    assert torch.allclose(pairwise_iou(a, b), torch.tensor([[4 / 28, 1, 8 / 24], [0, 0, 0]]))


def test_empty_boxes_overlap_nothing():
    empty = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 2.0, 5.0]])
    assert pairwise_iou(empty, empty).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iou(torch.zeros(0, 4), empty).shape == (0, 2)


def test_overlaps_broadcast_over_leading_dimensions():
    a, b = torch.rand(3, 1, 5, 4), torch.rand(2, 7, 4)
    overlap = pairwise_iou(a, b)
    assert overlap.shape == (3, 2, 5, 7)
    assert torch.equal(overlap[1, 1], pairwise_iou(a[1, 0], b[1]))


def test_decode_by_hand():
    anchor = torch.tensor([0.5, 0.5, 0.2, 0.4])
    assert torch.allclose(decode(torch.zeros(4), anchor), torch.tensor([0.4, 0.3, 0.6, 0.7]))
    # one tenth of the width right, twice as wide
    moved = decode(torch.tensor([1.0, 0.0, 5 * torch.tensor(2.0).log(), 0.0]), anchor)
    assert torch.allclose(moved, torch.tensor([0.32, 0.3, 0.72, 0.7]))


@given(centered, st.tuples(unit, unit, unit, unit).map(torch.tensor))
def test_decode_undoes_encode(boxes, anchor):
    xyxy = corners(boxes)
    assert torch.allclose(decode(encode(xyxy, anchor), anchor), xyxy, atol=2e-6)


@given(centered)
def test_forms_undo_each_other(boxes):
    assert torch.allclose(center_size(corners(boxes)), boxes, atol=1e-6)


@given(centered, centered)
def test_iou_is_symmetric_bounded_and_one_only_for_itself(a, b):
    a, b = corners(a), corners(b)
    overlap = pairwise_iou(a, b)
    assert torch.equal(overlap, pairwise_iou(b, a).t())
    assert overlap.min() >= 0 and overlap.max() <= 1 + 1e-5
    assert torch.allclose(pairwise_iou(a, a).diagonal(), torch.ones(len(a)), atol=1e-5)


@pytest.mark.parametrize(
    "box, expected",
    [
        ((0.25, 0.5, 0.75, 1.0), (50, 50, 150, 100)),
        ((-0.5, 0.2, 1.5, 0.4), (0, 20, 200, 40)),  # clipped on both sides
        ((0.75, 1.0, 0.25, 0.5), (50, 50, 150, 100)),  # swapped corners
        ((1.2, 0.1, 1.4, 0.2), (200, 10, 200, 20)),  # beside the image: empty at its edge
    ],
)
def test_to_pixels(box, expected):
    assert torch.allclose(
        to_pixels(torch.tensor([box]), (100, 200)),
        torch.tensor([expected], dtype=torch.float32),
        atol=1e-4,
    )
