import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layers.boxes import pairwise_iou
from layers.nms import FIRST_RANKS, cross_class_fast_nms, fast_nms, traditional_nms

ALL = [fast_nms, cross_class_fast_nms, traditional_nms]
USUAL = dict(iou_threshold=0.5, score_threshold=0.05, top_k=200, max_detections=100, image_size=100)

# Three boxes in a row: neighbours overlap by 7.5 / 12.5 = 0.6, the outer two by 5 / 15 = 0.33.
CHAIN = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.025, 0.0, 0.125, 0.1], [0.05, 0.0, 0.15, 0.1]])


def scene(n, classes, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * spread
    boxes = torch.cat((corner, corner + 0.05 + torch.rand(n, 2, generator=generator) * 0.2), 1)
    return boxes, torch.rand(n, classes, generator=generator) ** 3


def survivors(result):
    return list(zip(result[0].tolist(), result[1].tolist(), strict=True))


def test_a_suppressed_box_suppresses_in_fast_nms_only():
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert survivors(fast_nms(CHAIN, scores, **USUAL)) == [(0, 0)]
    assert survivors(traditional_nms(CHAIN, scores, **USUAL)) == [(0, 0), (2, 0)]


def test_classes_do_not_suppress_each_other_but_cross_class_does():
    # the third anchor is below the threshold in every class
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.01, 0.02]])
    boxes = CHAIN[[0, 0, 0]]
    assert survivors(fast_nms(boxes, scores, **USUAL)) == [(0, 0), (1, 1)]
    assert survivors(cross_class_fast_nms(boxes, scores, **USUAL)) == [(0, 0)]
    assert survivors(traditional_nms(boxes, scores, **USUAL)) == [(0, 0), (1, 1)]


def test_low_scores_of_a_kept_anchor_come_through_fast_nms():
    scores = torch.tensor([[0.9, 0.001]])
    assert survivors(fast_nms(CHAIN[:1], scores, **USUAL)) == [(0, 0), (0, 1)]
    assert survivors(traditional_nms(CHAIN[:1], scores, **USUAL)) == [(0, 0)]


def test_overlap_equal_to_the_threshold():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])  # IoU 0.5
    scores = torch.tensor([[0.9], [0.8]])
    assert len(fast_nms(boxes, scores, **USUAL)[0]) == 2  # falls only above it
    # with +1 sides 10x10 and 10x5: 0.5
    on_pixels = torch.tensor([[0.0, 0.0, 0.09, 0.09], [0.0, 0.0, 0.09, 0.04]])
    assert len(traditional_nms(on_pixels, scores, **USUAL)[0]) == 1  # falls at it


def test_top_k_counts_per_class_and_max_detections_over_all():
    boxes = torch.arange(6)[:, None] * torch.tensor([0.1, 0.0, 0.1, 0.0]) + torch.tensor(
        [0.0, 0.0, 0.05, 0.1]
    )
    scores = torch.stack((torch.linspace(0.9, 0.4, 6), torch.linspace(0.35, 0.85, 6)), 1)
    assert survivors(fast_nms(boxes, scores, **{**USUAL, "top_k": 2})) == [
        (0, 0),
        (5, 1),
        (1, 0),
        (4, 1),
    ]
    assert survivors(fast_nms(boxes, scores, **{**USUAL, "max_detections": 3})) == [
        (0, 0),
        (5, 1),
        (1, 0),
    ]
    assert survivors(traditional_nms(boxes, scores, **{**USUAL, "max_detections": 3})) == [
        (0, 0),
        (5, 1),
        (1, 0),
    ]
    assert survivors(cross_class_fast_nms(boxes, scores, **{**USUAL, "max_detections": 2})) == [
        (0, 0),
        (5, 1),
    ]


@pytest.mark.parametrize("nms", ALL)
@pytest.mark.parametrize("anchors", [0, 4])
def test_no_candidates(nms, anchors):
    rows, labels, scores = nms(torch.rand(anchors, 4), torch.zeros(anchors, 3), **USUAL)
    assert rows.shape == labels.shape == scores.shape == (0,)
    assert rows.dtype == labels.dtype == torch.int64 and scores.dtype == torch.float32


def test_traditional_takes_boxes_in_pixels_without_an_image_size():
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    relative = traditional_nms(CHAIN, scores, **USUAL)
    pixels = traditional_nms(CHAIN * USUAL["image_size"], scores, **{**USUAL, "image_size": None})
    for ours, theirs in zip(relative, pixels, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("nms", ALL)
def test_scores_fall_and_belong_to_rows_and_labels(nms):
    boxes, scores = scene(300, 5)
    rows, labels, found = nms(boxes, scores, **USUAL)
    assert len(rows) > 20
    assert torch.equal(scores[rows, labels], found)
    assert (found.diff() <= 0).all()


@pytest.mark.parametrize("nms", ALL)
def test_the_order_of_the_anchors_does_not_matter(nms):
    boxes, scores = scene(200, 3)
    shuffle = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    rows, labels, _ = nms(boxes[shuffle], scores[shuffle], **USUAL)
    assert survivors((shuffle[rows], labels)) == survivors(nms(boxes, scores, **USUAL))


def plain_fast_nms(boxes, scores, iou_threshold, score_threshold, top_k, max_detections):
    """The definition, one class at a time and comparing everything."""
    kept = [a for a in range(len(boxes)) if scores[a].max() > score_threshold]
    overlap, found = pairwise_iou(boxes, boxes), []
    for label in range(scores.shape[1]):
        ranked = sorted(kept, key=lambda a: -scores[a, label].item())[:top_k]
        found += [
            (scores[a, label].item(), a, label)
            for i, a in enumerate(ranked)
            if all(overlap[b, a] <= iou_threshold for b in ranked[:i])
        ]
    return [(a, label) for _, a, label in sorted(found, key=lambda f: -f[0])[:max_detections]]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3 * FIRST_RANKS),
    st.integers(1, 6),
    st.integers(1, 3 * FIRST_RANKS),
    st.integers(1, 120),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0.05, 1.0]),
)
def test_fast_nms_is_its_definition(seed, n, classes, top_k, max_detections, iou_threshold, spread):
    """Fast NMS skips comparisons that cannot matter; a small spread makes crowds in which they
    do."""
    boxes, scores = scene(n, classes, seed, spread)
    limits = dict(
        iou_threshold=iou_threshold,
        score_threshold=0.05,
        top_k=top_k,
        max_detections=max_detections,
    )
    assert survivors(fast_nms(boxes, scores, **limits)) == plain_fast_nms(boxes, scores, **limits)


def test_candidates_beyond_the_first_ranks_are_found():
    """100 boxes apart from each other, all of one class: every one survives, though the first pass
    sees only some."""
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)) / 10
    boxes = torch.cat((grid, grid + 0.05), 1)
    scores = torch.stack((torch.linspace(0.9, 0.5, 100), torch.linspace(0.3, 0.2, 100)), 1)
    rows, labels, _ = fast_nms(boxes, scores, **USUAL)
    assert rows.tolist() == list(range(100)) and not labels.any()


def test_equal_scores_beyond_the_first_ranks_keep_their_order():
    """80 candidates of one score in two classes: those of the first class come first, all 40."""
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(5.0)) / 10
    boxes = torch.cat((grid, grid + 0.05), 1)
    limits = dict(iou_threshold=0.5, score_threshold=0.05, top_k=200, max_detections=50)
    found = survivors(fast_nms(boxes, torch.full((40, 2), 0.5), **limits))
    assert [label for _, label in found] == [0] * 40 + [1] * 10


@pytest.mark.parametrize("nms", ALL)
def test_a_score_at_the_threshold_does_not_take_part(nms):
    scores = torch.tensor([[0.05], [0.05000001], [0.0]])
    far_apart = CHAIN * 0.1 + torch.tensor([0.0, 0.3, 0.6])[:, None]
    assert survivors(nms(far_apart, scores, **USUAL)) == [(1, 0)]


def test_traditional_agrees_with_a_plain_loop():
    boxes, scores = scene(150, 4, seed=5, spread=0.4)
    pixels, expected = (boxes * 100).numpy(), []
    areas = (pixels[:, 2] - pixels[:, 0] + 1) * (pixels[:, 3] - pixels[:, 1] + 1)
    for label in range(4):
        kept = []
        for a in np.argsort(-scores[:, label].numpy(), kind="stable"):
            sides = [
                np.minimum(pixels[a, 2:], pixels[b, 2:])
                - np.maximum(pixels[a, :2], pixels[b, :2])
                + 1
                for b in kept
            ]
            shared = [side.clip(0).prod() for side in sides]
            if scores[a, label] > 0.05 and all(
                s / (areas[a] + areas[b] - s) < 0.5 for s, b in zip(shared, kept, strict=True)
            ):
                kept.append(a)
        expected += [(scores[a, label].item(), int(a), label) for a in kept]
    assert survivors(traditional_nms(boxes, scores, **USUAL)) == [
        (a, label) for _, a, label in sorted(expected, reverse=True)[:100]
    ]
