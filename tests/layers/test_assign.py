import inspect
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layers.anchors import level_sizes, make_anchors
from layers.assign import (
    Assigner,
    Assignment,
    MaxIoU,
    assigner_names,
    build_assigner,
    register_assigner,
)
from layers.assigners import base, claims
from layers.assigners.claims import HostOverlaps, claim_best_anchors
from layers.boxes import corners, pairwise_iou

SHAPES, SCALES, RATIOS, SIDE = [(8, 8), (4, 4)], [(24,), (48,)], (1, 0.5, 2), 64
ANCHORS = corners(make_anchors(SHAPES, SCALES, RATIOS, image_size=SIDE)) * SIDE
LEVELS = level_sizes(SHAPES, SCALES, RATIOS)
NONE = torch.zeros(0, 4)


def random_boxes(n, seed, low=-8.0, high=60.0):
    generator = torch.Generator().manual_seed(seed)
    corner = low + torch.rand(n, 2, generator=generator) * (high - low)
    return torch.cat((corner, corner + 2 + torch.rand(n, 2, generator=generator) * 40), 1)


def plain_max_iou(anchors, boxes, crowds, positive=0.5, negative=0.4, crowd=0.7):
    """The rule as its docstring says it, one step at a time."""
    overlap = pairwise_iou(boxes, anchors)
    remaining = overlap.clone()
    index = []
    for a in range(len(anchors)):
        best = overlap[:, a].argmax().item() if len(boxes) else None
        value = overlap[best, a] if len(boxes) else torch.tensor(0.0)
        index.append(best if len(boxes) and value >= positive else -1 if value < negative else -2)
    for _ in range(min(len(boxes), len(anchors))):
        best = remaining.max().item()
        gt, anchor = min((g, a) for g, a in (remaining == best).nonzero().tolist())
        index[anchor] = gt
        remaining[gt], remaining[:, anchor] = -1, -1
    for a, box in enumerate(anchors):
        for c in crowds:
            sides = (torch.minimum(box[2:], c[2:]) - torch.maximum(box[:2], c[:2])).clamp(min=0)
            if index[a] == -1 and sides.prod() / (box[2:] - box[:2]).prod() > crowd:
                index[a] = -2
    return torch.tensor(index)


def test_bands_by_hand():
    anchors = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 6.2], [0, 0, 10, 4.5], [0, 0, 10, 3]], dtype=torch.float32
    )
    found = build_assigner("max_iou")(
        anchors, (4,), torch.tensor([[0.0, 0.0, 10.0, 10.0]]), None, NONE
    )
    assert found.gt_index.tolist() == [0, 0, -2, -1]
    assert torch.allclose(found.overlap, torch.tensor([1, 0.62, 0.45, 0.3]))


def test_every_ground_truth_claims_an_anchor_best_first():
    anchors = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 3.0], [50.0, 50.0, 60.0, 60.0]]
    )
    boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 9.5], [80.0, 80.0, 81.0, 81.0]])
    found = build_assigner("max_iou")(anchors, (3,), boxes, None, NONE)
    # The second box is nearest to anchor 0, the first takes what is left; the third overlaps
    # nothing and takes the last one.
    assert found.gt_index.tolist() == [1, 0, 2]
    assert torch.allclose(found.overlap, torch.tensor([0.95, 3 / 9, 0.0]))


def test_more_ground_truths_than_anchors():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 8.0]])
    assert build_assigner("max_iou")(anchors, (1,), boxes, None, NONE).gt_index.tolist() == [1]


def test_duplicates_get_one_forced_anchor_each():
    box = torch.tensor([[10.0, 10.0, 34.0, 34.0]])
    found = build_assigner("max_iou")(ANCHORS, LEVELS, box.expand(2, 4), None, NONE).gt_index
    assert (found == 1).sum() == 1 and (found == 0).sum() >= 1


def test_crowds_silence_background_but_not_positives():
    boxes, crowds = torch.tensor([[20.0, 20.0, 44.0, 44.0]]), torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    alone = build_assigner("max_iou")(ANCHORS, LEVELS, boxes, None, NONE)
    crowded = build_assigner("max_iou")(ANCHORS, LEVELS, boxes, None, crowds)
    assert torch.equal(crowded.gt_index >= 0, alone.gt_index >= 0)
    assert (crowded.gt_index == -2).sum() > (alone.gt_index == -2).sum()
    inside = ((ANCHORS >= 0) & (ANCHORS <= 64)).all(1)
    assert not (crowded.gt_index[inside] == -1).any()
    assert torch.equal(
        build_assigner("max_iou(crowd=1)")(ANCHORS, LEVELS, boxes, None, crowds).gt_index,
        alone.gt_index,
    )


def test_nothing_to_assign():
    empty = build_assigner("max_iou")(ANCHORS, LEVELS, NONE, None, NONE)
    assert (
        (empty.gt_index == -1).all()
        and (empty.overlap == 0).all()
        and empty.gt_index.dtype == torch.int64
    )
    assert build_assigner("max_iou")(NONE, (0,), random_boxes(3, 0), None, NONE).gt_index.shape == (
        0,
    )
    crowd_only = build_assigner("max_iou")(
        ANCHORS, LEVELS, NONE, None, torch.tensor([[-64.0, -64.0, 128.0, 128.0]])
    )
    assert (crowd_only.gt_index == -2).all()


@pytest.mark.parametrize("hosts", [("cpu",), ()], ids=["host", "device"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 2), st.booleans())
def test_agrees_with_the_plain_rule(hosts, seed, m, crowds, on_grid):
    """Boxes partly outside the image; on a grid many overlaps are equal, and ties go to the lowest
    anchor."""
    boxes, crowd_boxes = random_boxes(m, seed), random_boxes(crowds, seed + 1) * 2
    if on_grid:
        boxes = (boxes / 8).round() * 8
    with mock.patch.object(base, "HOSTS", hosts):
        found = build_assigner("max_iou")(ANCHORS, LEVELS, boxes, None, crowd_boxes)
    assert torch.equal(found.gt_index, plain_max_iou(ANCHORS, boxes, crowd_boxes))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_permuting_ground_truths_permutes_the_assignment(seed, m):
    boxes = random_boxes(m, seed, 4, 40)
    best = pairwise_iou(boxes, ANCHORS).topk(m, dim=1).values
    assume((best > 0).all())
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    assigner = build_assigner("max_iou")
    original, permuted = (assigner(ANCHORS, LEVELS, b, None, NONE) for b in (boxes, boxes[order]))
    back = torch.cat((order, torch.tensor([-2, -1])))[permuted.gt_index]
    assert torch.equal(back, original.gt_index) and torch.equal(permuted.overlap, original.overlap)


def batch_of_images(padding):
    """Five images of 0 to 9 ground truths, the last of them crowds, padded with boxes that must not
    matter."""
    counts, crowds = [3, 0, 9, 1, 5], [0, 0, 2, 1, 1]
    m = max(counts)
    boxes = torch.full((5, m, 4), padding)
    valid, crowd = torch.zeros(5, m, dtype=torch.bool), torch.zeros(5, m, dtype=torch.bool)
    for b, (n, c) in enumerate(zip(counts, crowds, strict=True)):
        boxes[b, :n], valid[b, :n], crowd[b, n - c : n] = random_boxes(n, b), True, True
    return boxes, valid, crowd


@pytest.mark.parametrize("padding", [0.0, 30.0, -1.0])
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_a_padded_batch_equals_single_images(monkeypatch, padding, chunk):
    monkeypatch.setattr(base, "HOSTS", ())  # as on a device
    for module in (base, claims):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    boxes, valid, crowd = batch_of_images(padding)
    assigner = build_assigner("max_iou")
    together = assigner.batch(ANCHORS, LEVELS, boxes, valid, crowd)
    # the default, one image at a time
    loop = Assigner.batch(assigner, ANCHORS, LEVELS, boxes, valid, crowd)
    assert together.gt_index.shape == (5, len(ANCHORS))
    assert torch.equal(together.gt_index, loop.gt_index) and torch.equal(
        together.overlap, loop.overlap
    )


def test_default_batch_counts_along_the_padded_axis_and_passes_masks():
    seen = []

    class TakesFirst(Assigner):
        def __call__(self, anchors, level_sizes, gt_boxes, gt_masks, crowd_boxes):
            seen.append((len(gt_boxes), gt_masks.shape, len(crowd_boxes)))
            index = torch.full((len(anchors),), -1)
            index[0], index[1] = 0, -2
            return Assignment(index, torch.zeros(len(anchors)))

    valid = torch.tensor([[True, True, True, False]])
    crowd = torch.tensor([[True, False, False, False]])
    found = TakesFirst().batch(
        ANCHORS,
        LEVELS,
        torch.zeros(1, 4, 4),
        valid,
        crowd,
        [torch.zeros(3, 5, 6, dtype=torch.bool)],
    )
    assert seen == [(2, (2, 5, 6), 1)]
    assert found.gt_index[0, :3].tolist() == [1, -2, -1]


class ForbidSync(TorchDispatchMode):
    NAMES = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        boolean_index = name == "index" and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        assert name not in self.NAMES and not boolean_index, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_max_iou_never_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(base, "HOSTS", ())
    boxes, valid, crowd = batch_of_images(0.0)
    with ForbidSync():
        build_assigner("max_iou").batch(ANCHORS, LEVELS, boxes, valid, crowd)
    with pytest.raises(AssertionError, match="waits"), ForbidSync():
        valid.any().item()


def test_many_ground_truths():
    """272 on one image, as in nuclei: each ends with at least one anchor of its own. The plain rule
    takes too long for as many."""
    anchors = corners(make_anchors([(18, 18)], [(24,)], RATIOS, image_size=280)) * 280
    boxes = random_boxes(272, 0, 0, 240)
    all_of_them, some = (
        build_assigner("max_iou")(anchors, (len(anchors),), b, None, NONE).gt_index
        for b in (boxes, boxes[:70])
    )
    assert set(range(272)) <= set(all_of_them.tolist())
    assert torch.equal(some, plain_max_iou(anchors, boxes[:70], NONE))


@pytest.mark.parametrize("rows", [1, 10**9])
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(1, 40),
    a=st.integers(1, 60),
    choices=st.integers(1, 5),
    levels=st.integers(1, 9),
)
def test_proposals_lead_to_what_turns_lead_to(rows, seed, m, a, choices, levels):
    """Few distinct IoUs, more ground truths than anchors, and lists that run out."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(1, levels + 1, (m, 1), generator=generator).float()
    boxes = torch.cat((torch.zeros(m, 2), side, torch.ones(m, 1)), 1)
    side = torch.randint(1, levels + 1, (a, 1), generator=generator).float()
    anchors = torch.cat((torch.zeros(a, 2), side, torch.ones(a, 1)), 1)
    iou = pairwise_iou(boxes, anchors)
    with (
        mock.patch.object(claims, "FIRST_CHOICES", choices),
        mock.patch.object(claims, "HOST_ELEMENTS", rows),
    ):
        host = HostOverlaps(anchors, boxes)
        forced, overlap = host.claim_best_anchors()
    highest, best = iou.max(0)
    assert torch.equal(host.highest, highest) and torch.equal(host.best, best)
    assert torch.equal(forced, claim_best_anchors(iou[None])[0])
    claimed = forced >= 0
    assert torch.equal(overlap[claimed], iou[forced[claimed], claimed.nonzero()[:, 0]])


@pytest.mark.parametrize("name", ["max_iou", "atss", "atss(iou='giou')"])
def test_a_host_assigns_as_a_device_does(name):
    """700 on an image: many anchors are the best of several, and 60 of them are crowds."""
    anchors = make_anchors([(34, 34), (17, 17)], [(24,), (48,)], RATIOS, image_size=280)
    anchors = corners(anchors) * 280
    boxes = random_boxes(700, 0, 0, 270)[None]
    crowd = (torch.arange(700) >= 640)[None]
    assigner = build_assigner(name)
    levels = (34 * 34 * 3, 17 * 17 * 3)
    host = assigner.batch(anchors, levels, boxes, torch.ones_like(crowd), crowd)
    with mock.patch.object(base, "HOSTS", ()):
        device = assigner.batch(anchors, levels, boxes, torch.ones_like(crowd), crowd)
    assert torch.equal(host.gt_index, device.gt_index)
    assert torch.equal(host.overlap, device.overlap)


def test_memory_of_a_host_does_not_grow_as_the_square():
    """Of 3,000 on an image: tables of (M,A) overlaps would be 230 MB each."""
    anchors = corners(make_anchors([(80, 80)], [(24,)], RATIOS, image_size=550)) * 550
    with ProfileMemory() as largest:
        build_assigner("max_iou")(
            anchors, (len(anchors),), random_boxes(3000, 0, 0, 500), None, NONE
        )
    assert len(anchors) == 19200 and largest.elements < 20 * len(anchors)


class ProfileMemory(TorchDispatchMode):
    """elements: of the largest tensor that an operator made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


def test_claims_of_padding_go_nowhere():
    iou = torch.tensor([[[0.3, 0.2], [-1.0, -1.0]], [[-1.0, -1.0], [0.0, 0.0]]])
    assert claim_best_anchors(iou).tolist() == [[0, -1], [1, -1]]


@pytest.mark.parametrize(
    "text, expression",
    [
        ("max_iou", "max_iou"),
        ("max_iou()", "max_iou"),
        ("max_iou(positive=0.5)", "max_iou"),
        ("max_iou( crowd=1, positive = 0.60 )", "max_iou(positive=0.6, crowd=1)"),
    ],
)
def test_canonical_expression(text, expression):
    assigner = build_assigner(text)
    assert (
        assigner.expression == expression
        and build_assigner(assigner.expression).expression == expression
    )
    assert not assigner.needs_masks


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_iuo", "did you mean max_iou"),
        ("max_iou(postive=0.5)", "did you mean positive"),
        ("max_iou(positive='high')", "positive='high' must be a number"),
        ("max_iou(positive=True)", "positive=True must be a number"),
        ("atss(iou=gmaiou)", "a 'word' in quotes: iou='gmaiou'"),
        ("max_iou(positive=1.5)", r"positive=1.5 is outside \(0, 1\]"),
        ("max_iou(negative=0.6)", "negative=0.6 must be at most positive=0.5"),
        ("max_iou(crowd=-1)", "crowd=-1.0 is outside"),
        ("max_iou(0.5)", "by name"),
        ("max_iou + max_iou", "expected a name"),
        ("", "empty"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        build_assigner(text)


@pytest.mark.parametrize("name", assigner_names())
def test_every_registered_assigner(name):
    """Builds with its defaults, assigns every clear case, and takes an empty image."""
    assigner = build_assigner(name)
    assert assigner.expression == name and type(assigner).__doc__
    assert all(
        p.kind is p.KEYWORD_ONLY for p in inspect.signature(type(assigner)).parameters.values()
    )
    box = torch.tensor([[16.0, 16.0, 40.0, 40.0]])
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 16:40, 16:40] = True
    found = assigner(ANCHORS, LEVELS, box, mask, NONE)
    assert found.gt_index.shape == found.overlap.shape == (len(ANCHORS),)
    assert found.gt_index.max() == 0 and found.gt_index.min() >= -2
    assert found.gt_index[pairwise_iou(box, ANCHORS)[0].argmin()] == -1
    assert (assigner(ANCHORS, LEVELS, NONE, mask[:0], NONE).gt_index == -1).all()


def test_registration_is_checked():
    class Positional(MaxIoU):
        def __init__(self, k=9):
            super().__init__()

    with pytest.raises(ValueError, match=r"'positional' must .* def __init__\(self, \*, par"):
        register_assigner("positional")(Positional)

    class Other(MaxIoU):
        """Another rule of the same name."""

    with pytest.raises(ValueError, match=r"taken by layers.assigners.max_iou.MaxIoU"):
        register_assigner("max_iou")(Other)
    assert "positional" not in assigner_names()
