import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layers.anchors import level_shapes, level_sizes, make_anchors


def test_order_is_row_column_scale_ratio():
    anchors = make_anchors([(1, 2)], [(10, 20)], (1, 4), image_size=100)
    assert torch.allclose(
        anchors,
        torch.tensor(
            [
                [0.25, 0.5, 0.1, 0.1],
                [0.25, 0.5, 0.2, 0.05],
                [0.25, 0.5, 0.2, 0.2],
                [0.25, 0.5, 0.4, 0.1],
                [0.75, 0.5, 0.1, 0.1],
                [0.75, 0.5, 0.2, 0.05],
                [0.75, 0.5, 0.2, 0.2],
                [0.75, 0.5, 0.4, 0.1],
            ]
        ),
    )


def test_square_anchors_keep_the_width():
    wide = make_anchors([(2, 2)], [(24,)], (1, 0.5, 2), image_size=550)
    square = make_anchors([(2, 2)], [(24,)], (1, 0.5, 2), image_size=550, square=True)
    assert torch.equal(square[:, 2], wide[:, 2]) and torch.equal(square[:, 3], wide[:, 2])
    assert torch.allclose(wide[:, 2] * wide[:, 3], torch.full((12,), (24 / 550) ** 2))


def test_offset_zero_puts_centres_on_cell_corners():
    anchors = make_anchors([(2, 4)], [(8,)], (1,), image_size=64, offset=0)
    assert anchors[:, 0].tolist() == [0, 0.25, 0.5, 0.75] * 2
    assert anchors[:, 1].tolist() == [0] * 4 + [0.5] * 4


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_level_sizes_count_the_anchors(shapes, scales, ratios):
    scales = [tuple(range(10, 10 + scales))] * len(shapes)
    ratios = (1, 0.5, 2)[:ratios]
    sizes = level_sizes(shapes, scales, ratios)
    anchors = make_anchors(shapes, scales, ratios, image_size=64)
    assert anchors.shape == (sum(sizes), 4) and anchors.dtype == torch.float32
    for shape, level, part in zip(shapes, scales, anchors.split(sizes), strict=True):
        assert torch.equal(part, make_anchors([shape], [level], ratios, image_size=64))


@pytest.mark.parametrize(
    "shapes, scales, ratios, message",
    [
        ([(2, 2)], [(8,), (16,)], (1,), "one list per level"),
        ([(2, 2)], [()], (1,), "at least one"),
        ([(2, 2)], [(8,)], (), "at least one"),
        ([(2, 2)], [(-8,)], (1,), "positive"),
    ],
)
def test_mistakes_are_named(shapes, scales, ratios, message):
    with pytest.raises(ValueError, match=message):
        make_anchors(shapes, scales, ratios, image_size=64)


@pytest.mark.parametrize("size", [64, 230, 248, 249, 550, 551, 700])
def test_maps_are_those_of_halvings_that_round_up(size):
    side, expected = size, []
    for halving in range(7):
        side = (side + 1) // 2
        expected += [(side, side)] if halving >= 2 else []
    assert level_shapes(size) == expected and level_shapes(size, 3) == expected[:3]


def test_maps_of_the_published_model():
    assert [h for h, _ in level_shapes(550)] == [69, 35, 18, 9, 5]
