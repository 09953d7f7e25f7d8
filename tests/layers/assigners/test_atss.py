import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layers.assign import Assigner, build_assigner, gma_iou
from layers.assigners import base
from layers.assigners import mask_iou as assign_gmaiou
from layers.assigners.atss import MEASURES, nearest_anchors
from layers.boxes import pairwise_iou
from layers.targets import Targets
from tests.layers.losses.inputs import make_criterion
from tests.layers.test_assign import ANCHORS, LEVELS, NONE, SIDE, batch_of_images, random_boxes
from tests.sync_counter import counted_syncs
from yolact.testing import brute_force

MASKED = ("maiou", "gmaiou")


def ellipses(boxes, side=SIDE):
    """(M,side,side) bool: an ellipse in each box."""
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    low, high = boxes[:, :2, None, None], boxes[:, 2:, None, None]
    centre, radius = (low + high) / 2, (high - low) / 2
    return ((x - centre[:, 0]) / radius[:, 0]) ** 2 + ((y - centre[:, 1]) / radius[:, 1]) ** 2 <= 1


def overlaps(measure, boxes, masks):
    """(M,A), written out."""
    if measure in MASKED:
        return brute_force.gma_iou_by_pixels(
            ANCHORS, boxes, masks, polygon="box" if measure == "maiou" else "mask"
        )
    iou, table = pairwise_iou(boxes, ANCHORS), torch.zeros(len(boxes), len(ANCHORS))
    for m, box in enumerate(boxes):
        for a, anchor in enumerate(ANCHORS):
            low, high = torch.minimum(box[:2], anchor[:2]), torch.maximum(box[2:], anchor[2:])
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, anchor)]
            union, hull = sum(areas) / (1 + iou[m, a]), (high - low).prod()
            apart = ((box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2).square().sum()
            table[m, a] = (
                iou[m, a]
                - {
                    "iou": 0,
                    "giou": (hull - union) / hull,
                    "diou": apart / (high - low).square().sum(),
                }[measure]
            )
    return table


def assign(text, boxes, masks=None, crowds=NONE):
    return build_assigner(text)(ANCHORS, LEVELS, boxes, masks, crowds)


def test_threshold_by_hand():
    """Overlaps 0.8, 0.6, 0.2 and 0 have mean 0.4 and deviation 0.365; of the first alone, mean and
    threshold are itself; 0.8 and 0.2, the nearest of two levels, have mean 0.5 and deviation
    0.424."""
    anchors = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 6], [0, 0, 10, 2], [20, 0, 30, 10]])
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = build_assigner("atss")(anchors, (4,), box, None, NONE)
    assert found.gt_index.tolist() == [0, -1, -1, -1] and torch.allclose(
        found.overlap, torch.tensor([0.8, 0, 0, 0])
    )
    assert build_assigner("atss(k=1)")(anchors, (4,), box, None, NONE).gt_index.tolist() == [
        0,
        -1,
        -1,
        -1,
    ]
    assert build_assigner("atss(k=1)")(anchors, (2, 2), box, None, NONE).gt_index.tolist() == [
        -1,
        -1,
        -1,
        -1,
    ]


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 4), k=st.integers(1, 9))
def test_agrees_with_the_algorithm(measure, seed, m, k):
    """Boxes partly outside the image, which share anchors."""
    boxes = random_boxes(m, seed, low=0, high=40)
    masks = ellipses(boxes)
    expected = brute_force.atss(ANCHORS, LEVELS, boxes, overlaps(measure, boxes, masks), k)
    assert assign(f"atss(k={k}, iou='{measure}')", boxes, masks).gt_index.tolist() == expected


def test_candidates_are_the_nearest_of_each_level_and_ties_go_to_the_lower_anchor():
    anchors = torch.tensor(
        [[x - 1, y - 1, x + 1, y + 1] for x in range(3) for y in range(3)], dtype=torch.float32
    )
    middle = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])  # centre (1,1)
    found = nearest_anchors(torch.cat((anchors, anchors[:2])), (9, 2), middle, 4)
    assert found.tolist() == [[[4, 1, 3, 5, 10, 9]]]


def test_k_beyond_a_level_takes_the_level():
    boxes = random_boxes(3, 1, 4, 40)
    assert torch.equal(
        assign("atss(k=192)", boxes).gt_index, assign("atss(k=1000)", boxes).gt_index
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_boxes_without_area_get_nothing_and_disturb_nothing(measure):
    boxes = random_boxes(2, 3, 8, 30)
    flat = torch.tensor([[20.0, 20.0, 20.0, 40.0], [30.0, 30.0, 30.0, 30.0]])
    masks = ellipses(boxes)
    alone = assign(f"atss(iou='{measure}')", boxes, masks)
    both = assign(
        f"atss(iou='{measure}')",
        torch.cat((boxes, flat)),
        torch.cat((masks, torch.zeros_like(masks))),
    )
    assert torch.equal(both.gt_index, alone.gt_index) and (alone.gt_index >= 0).any()


@pytest.mark.parametrize("measure", MEASURES)
def test_duplicates_go_to_the_first(measure):
    boxes = random_boxes(1, 2, 10, 20)
    one = assign(f"atss(iou='{measure}')", boxes, ellipses(boxes))
    two = assign(f"atss(iou='{measure}')", boxes.expand(3, 4), ellipses(boxes).expand(3, -1, -1))
    assert torch.equal(one.gt_index, two.gt_index) and (one.gt_index == 0).any()


@pytest.mark.parametrize("measure", MASKED)
def test_a_ground_truth_with_an_empty_mask_gets_nothing(measure):
    boxes = random_boxes(2, 2, 10, 20)
    masks = ellipses(boxes)
    masks[0] = False
    found = assign(f"atss(iou='{measure}')", boxes, masks)
    assert not (found.gt_index == 0).any() and torch.isfinite(found.overlap).all()
    assert torch.equal(
        found.gt_index,
        torch.cat((torch.tensor([1]), torch.tensor([-2, -1])))[
            assign(f"atss(iou='{measure}')", boxes[1:], masks[1:]).gt_index
        ],
    )


def test_every_box_needs_its_mask():
    with pytest.raises(ValueError, match="2 ground-truth boxes, but 1 masks"):
        build_assigner("atss(iou='gmaiou')")(
            ANCHORS, LEVELS, torch.rand(2, 4), torch.zeros(1, SIDE, SIDE, dtype=torch.bool), NONE
        )


def test_crowds_silence_background_but_not_positives():
    boxes, crowds = torch.tensor([[20.0, 20.0, 44.0, 44.0]]), torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    alone, crowded = assign("atss", boxes), assign("atss", boxes, crowds=crowds)
    assert torch.equal(crowded.gt_index >= 0, alone.gt_index >= 0)
    inside = ((ANCHORS >= 0) & (ANCHORS <= 64)).all(1)
    assert (crowded.gt_index == -2).any() and not (crowded.gt_index[inside] == -1).any()
    assert torch.equal(assign("atss(crowd=1)", boxes, crowds=crowds).gt_index, alone.gt_index)
    assert (
        assign("atss", NONE, crowds=torch.tensor([[-64.0, -64.0, 128.0, 128.0]])).gt_index == -2
    ).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_to_assign(measure):
    assigner = build_assigner(f"atss(iou='{measure}')")
    masks = torch.zeros(3, SIDE, SIDE, dtype=torch.bool)
    empty = assigner(ANCHORS, LEVELS, NONE, masks[:0], NONE)
    assert (
        (empty.gt_index == -1).all()
        and (empty.overlap == 0).all()
        and empty.gt_index.dtype == torch.int64
    )
    assert assigner(NONE, (0,), random_boxes(3, 0), masks, NONE).gt_index.shape == (0,)
    none = assigner.batch(
        ANCHORS, LEVELS, torch.zeros(0, 1, 4), *torch.zeros(2, 0, 1, dtype=torch.bool), []
    )
    assert none.gt_index.shape == none.overlap.shape == (0, len(ANCHORS))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_a_padded_batch_equals_single_images(monkeypatch, measure, chunk):
    monkeypatch.setattr(base, "CHUNK_ELEMENTS", chunk)
    boxes, valid, crowd = batch_of_images(30.0)
    masks = [ellipses(b[v]) for b, v in zip(boxes, valid, strict=True)]
    assigner = build_assigner(f"atss(iou='{measure}')")
    together = assigner.batch(ANCHORS, LEVELS, boxes, valid, crowd, masks)
    loop = Assigner.batch(assigner, ANCHORS, LEVELS, boxes, valid, crowd, masks)
    assert torch.equal(together.gt_index, loop.gt_index) and torch.equal(
        together.overlap, loop.overlap
    )
    assert (together.gt_index >= 0).any() and (together.gt_index == -2).any()


@pytest.mark.parametrize("measure", MEASURES)
def test_atss_never_waits_for_the_device(monkeypatch, measure):
    monkeypatch.setattr(assign_gmaiou, "integral_images", assign_gmaiou.whole)  # as on a device
    boxes, valid, crowd = batch_of_images(0.0)
    masks = [ellipses(b[v]) for b, v in zip(boxes, valid, strict=True)]
    with counted_syncs() as waits:
        build_assigner(f"atss(iou='{measure}')").batch(ANCHORS, LEVELS, boxes, valid, crowd, masks)
    assert waits == []


def test_negative_overlaps_are_ordered():
    """Distance IoU falls below 0 for boxes that hardly overlap: the anchor goes to the higher one
    all the same."""
    anchor = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    # overlaps 0.0015 and below 0
    boxes = torch.tensor([[31.0, 31.0, 33.5, 33.5], [29.0, 29.0, 200.0, 200.0]])
    found = build_assigner("atss(iou='diou')")(anchor, (1,), boxes[1:], None, NONE)
    assert found.gt_index.tolist() == [0] and found.overlap.item() < 0
    assert build_assigner("atss(iou='diou')")(
        anchor, (1,), boxes.flip(0), None, NONE
    ).gt_index.tolist() == [1]


def test_rounding_and_polygon_reach_the_measure():
    boxes = random_boxes(4, 9, 4, 30) + 0.37
    masks = ellipses(boxes)
    for measure, polygon in (("maiou", "box"), ("gmaiou", "mask")):
        for rounding in ("reference", "exact"):
            found = assign(f"atss(iou='{measure}', rounding='{rounding}')", boxes, masks)
            positive = found.gt_index >= 0
            table = gma_iou(ANCHORS, boxes, masks, polygon=polygon, rounding=rounding)
            assert torch.equal(found.overlap[positive], table[found.gt_index[positive], positive])


def test_targets_without_masks_are_refused_in_one_line():
    criterion, _ = make_criterion(assigner="atss(iou='gmaiou')")
    assert criterion.needs_full_masks
    anchors, levels = torch.rand(6, 4), (6,)
    targets = Targets(
        torch.tensor([[0.1, 0.1, 0.6, 0.6]]),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.bool),
    )
    with pytest.raises(
        ValueError, match=r"atss\(iou='gmaiou'\).*none.*use atss\(iou='iou'\)"
    ) as error:
        criterion.assign(anchors, levels, [targets])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="have none"):
        assign("atss(iou='maiou')", torch.rand(1, 4))


def test_prototype_masks_are_read_at_their_size():
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.6], [0.3, 0.2, 0.9, 0.95]])
    targets = Targets(
        boxes,
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.bool),
        ellipses(boxes * SIDE),
    )
    anchors = (
        torch.cat(((ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2, ANCHORS[:, 2:] - ANCHORS[:, :2]), 1)
        / SIDE
    )
    full, _ = make_criterion(assigner="atss(iou='gmaiou')")
    small, _ = make_criterion(assigner="atss(iou='gmaiou', masks='prototype')")
    assert full.needs_full_masks and not small.needs_full_masks
    side = small.mask_sizes[0][0]
    carried = targets.reduce(small.mask_sizes, keep_full=False)
    expected = build_assigner("atss(iou='gmaiou')")(
        ANCHORS / SIDE * side, LEVELS, boxes * side, targets.mask_at(side, side), NONE
    )
    found = small.assign(anchors, LEVELS, [carried])
    assert torch.equal(found.gt_index[0], expected.gt_index)
    torch.testing.assert_close(found.overlap[0], expected.overlap)
    assert (full.assign(anchors, LEVELS, [targets]).overlap - found.overlap).abs().max() > 0.01


@pytest.mark.parametrize(
    "text, expression",
    [
        ("atss(k=9, iou='iou')", "atss"),
        ("atss(iou='gmaiou')", "atss(iou='gmaiou')"),
        ("atss(rounding='exact', iou='maiou', k=12)", "atss(k=12, iou='maiou', rounding='exact')"),
    ],
)
def test_canonical_expression(text, expression):
    assert build_assigner(text).expression == expression
    assert build_assigner(text).needs_masks == ("maiou" in text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("atss(k=0)", r"k=0 is outside \[1, inf\)"),
        ("atss(k=2.5)", "k=2.5 must be a whole number"),
        ("atss(iou='gma_iou')", "did you mean gmaiou"),
        ("atss(iou='gmaiou', masks='small')", "masks='small' is unknown"),
        ("atss(iou='gmaiou', rounding='up')", "rounding='up' is unknown"),
        ("atss(crowd=2)", "crowd=2.0 is outside"),
        ("atss(masks='prototype')", "iou='iou' reads no masks"),
        ("atss(topk=9)", "no parameter 'topk'"),
        ("ats", "did you mean atss"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        build_assigner(text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("measure", MEASURES)
def test_cuda_assigns_as_the_cpu_does(measure):
    boxes, valid, crowd = batch_of_images(0.0)
    masks = [ellipses(b[v]) for b, v in zip(boxes, valid, strict=True)]
    assigner = build_assigner(f"atss(iou='{measure}')")
    here = assigner.batch(ANCHORS, LEVELS, boxes, valid, crowd, masks)
    there = assigner.batch(
        *(ANCHORS.cuda(), LEVELS, boxes.cuda(), valid.cuda(), crowd.cuda()),
        [m.cuda() for m in masks],
    )
    assert torch.equal(here.gt_index, there.gt_index.cpu())
    torch.testing.assert_close(here.overlap, there.overlap.cpu())
