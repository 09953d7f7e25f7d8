"""Detection on hand-made predictions; agreement with the original is in
tests/reference_cases/net.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layers.boxes import center_size, decode, encode
from layers.masks import box_window
from yolact.outputs import Predictions
from yolact.postprocess import RESCORED_AT_ONCE, detect

BOXES = torch.tensor(
    [
        [0.10, 0.20, 0.50, 0.60],
        [0.60, 0.10, 0.90, 0.40],
        [0.11, 0.20, 0.50, 0.60],
        [-0.20, 0.70, 0.30, 1.30],
    ]
)


def predictions(scores, *, boxes=BOXES, batch=1, size=32, dtype=torch.float32):
    """One anchor per box; `scores` {anchor: {label: probability}} of 3 classes. Prototype 0 is 1
    everywhere, prototype 1 the left half."""
    anchors = center_size(torch.tensor([[0.4, 0.4, 0.6, 0.6]]).expand(len(boxes), 4))
    probabilities = torch.full((len(boxes), 4), 1e-4)
    for anchor, by_label in scores.items():
        for label, value in by_label.items():
            probabilities[anchor, 1 + label] = value
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
    prototypes = torch.ones(size, size, 2)
    prototypes[:, size // 2 :, 1] = 0
    coefficients = torch.tensor([[8.0, 0.0], [8.0, 0.0], [8.0, 0.0], [-8.0, 16.0]])[: len(boxes)]
    one = (encode(boxes, anchors), probabilities.log(), coefficients, prototypes)
    deltas, logits, coefficients, prototypes = (
        t[None].expand(batch, *t.shape).to(dtype) for t in one
    )
    return Predictions(deltas, logits, coefficients, prototypes, anchors, None, (len(boxes),))


TWO = {0: {2: 0.9}, 1: {0: 0.8}}


def test_boxes_labels_scores_and_masks_in_pixels():
    [found] = detect(predictions(TWO), [(100, 200)])
    found = found.select(found.scores > 0.05)
    assert found.labels.tolist() == [2, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    assert torch.equal(found.mask_scores, found.scores)
    torch.testing.assert_close(
        found.boxes, torch.tensor([[20.0, 20, 100, 60], [120, 10, 180, 40]]), atol=1e-3, rtol=0
    )
    assert found.masks.shape == (2, 100, 200) and found.masks.dtype == torch.bool
    inside = found.masks[0, 20:60, 20:100]
    # the crop is at most a prototype pixel (3 x 6 here) wider
    assert inside.all() and found.masks[0].sum() < inside.numel() * 1.4
    assert not found.masks[0, :, 120:].any()


def test_boxes_are_clipped_and_masks_cut_at_the_unclipped_box():
    [found] = detect(predictions({3: {1: 0.7}}), [(100, 200)], score_threshold=0.3)
    torch.testing.assert_close(found.boxes[0], torch.tensor([0.0, 70, 60, 100]), atol=1e-3, rtol=0)
    assert found.masks[0, 72:, :58].all() and not found.masks[0, :60].any()


def test_without_crop_the_mask_is_the_prototypes_alone():
    [found] = detect(predictions({3: {1: 0.7}}), [(64, 64)], crop=False, score_threshold=0.3)
    assert found.masks[0, :, :31].all() and not found.masks[0, :, 33:].any()


# ---------------------------------------------------------------- masks: subpixel


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("size", [(100, 200), (31, 17), (400, 64)])
def test_subpixel_masks_are_bicubic_logits_cut_at_the_unclipped_box(crop, size):
    """Against the formula on whole maps: the half mask of a box over the border, and two more."""
    out = predictions({3: {1: 0.9}, 0: {2: 0.8}, 1: {0: 0.7}})
    [found] = detect(out, [size], crop=crop, masks="subpixel", max_detections=3)
    order = [3, 0, 1]
    logits = torch.einsum("hwk,nk->nhw", out.prototypes[0], out.mask_coeffs[0, order])
    expected = F.interpolate(logits[None], size, mode="bicubic")[0] > 0
    if crop:
        expected &= box_window(decode(out.box_deltas[0], out.anchors)[order], size, 1)
    assert found.labels.tolist() == [1, 2, 0] and found.masks.dtype == torch.bool
    assert torch.equal(found.masks, expected) and found.masks.any((1, 2)).all()
    [published] = detect(out, [size], crop=crop, max_detections=3)
    assert torch.equal(found.boxes, published.boxes) and torch.equal(found.scores, published.scores)


def test_a_subpixel_mask_ends_a_pixel_of_the_image_past_its_box():
    """Rows 20.6 to 61.8 and columns 20.5 to 102.5; published masks reach a prototype pixel on."""
    subpixel, published = (
        detect(predictions(TWO), [(103, 205)], masks=masks)[0].masks[0].nonzero()
        for masks in ("subpixel", "published")
    )
    assert subpixel.amin(0).tolist() == [20, 20] and subpixel.amax(0).tolist() == [62, 103]
    assert published.amax(0).tolist() == [67, 108]


def test_rescoring_of_subpixel_masks_sees_what_the_published_form_shows_it():
    nets = ConstantIoU(), ConstantIoU()
    out = predictions({3: {1: 0.9}})
    one, two = (
        detect(out, [(100, 200)], mask_iou_net=net, masks=masks)[0]
        for net, masks in zip(nets, ("subpixel", "published"))
    )
    assert torch.equal(nets[0].batches[0], nets[1].batches[0])
    assert torch.equal(one.mask_scores, two.mask_scores) and not torch.equal(one.masks, two.masks)
    halves = [
        detect(out, [(100, 200)], mask_iou_net=net, masks="subpixel", crop=False)[0].masks
        for net in (None, nets[0])
    ]
    assert torch.equal(*halves) and not halves[0].all()


@pytest.mark.parametrize("rescored", [True, False])
def test_no_detection_has_no_subpixel_mask(rescored):
    net = ConstantIoU() if rescored else None
    [found] = detect(predictions({}), [(50, 60)], masks="subpixel", mask_iou_net=net)
    assert found.masks.shape == (0, 50, 60) and found.masks.dtype == torch.bool


def test_subpixel_masks_of_half_precision_predictions_are_computed_in_float32():
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            out = predictions(TWO, dtype=dtype)
            found += detect(out, [(100, 200)], masks="subpixel", max_detections=2)
    # half the figures of a box move its edge by a pixel at most
    assert (found[0].masks != found[1].masks).float().mean() < 0.02
    assert found[1].scores.dtype == torch.float32


@pytest.mark.parametrize("nms", ["fast", "cross_class", "traditional"])
def test_overlapping_box_of_one_class_is_suppressed(nms):
    [found] = detect(predictions({0: {2: 0.9}, 2: {2: 0.7}, 1: {0: 0.8}}), [(50, 50)], nms=nms)
    found = found.select(found.scores > 0.05)
    assert found.labels.tolist() == [2, 0]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("nms", ["fast", "cross_class", "traditional"])
def test_no_detection_is_an_empty_result(nms):
    [found] = detect(predictions({}), [(50, 60)], nms=nms, mask_iou_net=ConstantIoU())
    assert len(found) == 0
    assert (
        found.boxes.shape == (0, 4)
        and found.labels.dtype == torch.int64
        and found.masks.shape == (0, 50, 60)
    )
    assert found.scores.shape == found.mask_scores.shape == (0,)


def test_images_of_a_batch_have_their_own_sizes():
    first, second = detect(predictions(TWO, batch=2), [(100, 200), (30, 20)])
    assert first.masks.shape[1:] == (100, 200) and second.masks.shape[1:] == (30, 20)
    torch.testing.assert_close(
        first.boxes / torch.tensor([200.0, 100, 200, 100]),
        second.boxes / torch.tensor([20.0, 30, 20, 30]),
    )


class ConstantIoU(nn.Module):
    """IoU 0.1, 0.2, 0.3 for labels 0, 1, 2; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))
        self.batches = []

    def forward(self, masks):
        self.batches.append(masks)
        return self.weight.expand(len(masks), 3)


def test_mask_scores_are_rescored_and_box_scores_are_not():
    net = ConstantIoU()
    [found] = detect(predictions(TWO), [(100, 200)], mask_iou_net=net)
    found = found.select(found.scores > 0.05)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    torch.testing.assert_close(found.mask_scores, torch.tensor([0.9 * 0.3, 0.8 * 0.1]))
    soft = net.batches[0]
    # soft, cropped, prototype size
    assert soft.shape[1:] == (1, 32, 32) and 0.99 < soft[0].max() < 1 and soft[0, 0, :5].eq(0).all()


def test_rescoring_is_bounded_in_memory():
    count = RESCORED_AT_ONCE + 36  # 100 detections, in two passes
    boxes = torch.stack(
        [torch.tensor([x, x, x + 0.004, x + 0.004]) for x in torch.linspace(0, 0.99, count)]
    )
    out = predictions({i: {1: 0.5 + i / 1000} for i in range(count)}, boxes=boxes)
    out.mask_coeffs = torch.ones(1, count, 2)
    net = ConstantIoU()
    [found] = detect(out, [(64, 64)], mask_iou_net=net, score_threshold=0.3)
    assert [len(batch) for batch in net.batches] == [RESCORED_AT_ONCE, 36] and len(found) == 100
    torch.testing.assert_close(found.mask_scores, found.scores * 0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_and_autocast_compute_in_float32(dtype):
    [expected] = detect(predictions(TWO), [(100, 200)], score_threshold=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        [found] = detect(
            predictions(TWO, dtype=dtype),
            [(100, 200)],
            mask_iou_net=ConstantIoU().to(dtype),
            score_threshold=0.3,
        )
    kept, expected = found.select(found.scores > 0.05), expected.select(expected.scores > 0.05)
    assert found.boxes.dtype == found.scores.dtype == found.mask_scores.dtype == torch.float32
    assert kept.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(kept.boxes, expected.boxes, atol=1.0, rtol=0)
    assert (kept.masks != expected.masks).float().mean() < 0.02


@pytest.mark.parametrize("nms", ["fast", "cross_class", "traditional"])
def test_sigmoid_logits_with_the_same_scores_give_the_same_detections(nms):
    softmax = predictions(TWO | {2: {1: 0.7}})
    sigmoid = predictions(TWO | {2: {1: 0.7}})
    sigmoid.class_logits, sigmoid.sigmoid = softmax.class_scores().logit(), True
    torch.testing.assert_close(sigmoid.class_scores(), softmax.class_scores())
    [expected], [found] = (
        detect(p, [(100, 200)], nms=nms, score_threshold=0.3) for p in (softmax, sigmoid)
    )
    assert len(found) >= 2 and found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.masks, expected.masks)


def test_limits_reach_suppression():
    [found] = detect(predictions(TWO), [(10, 10)], max_detections=1)
    assert len(found) == 1
    [found] = detect(
        predictions({0: {2: 0.9}, 2: {2: 0.7}}), [(10, 10)], iou_threshold=0.99, score_threshold=0.3
    )
    assert (found.scores > 0.5).sum() == 2


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="nms='soft' is not one of fast, cross_class, traditional"):
        detect(predictions(TWO), [(10, 10)], nms="soft")
    with pytest.raises(ValueError, match="masks='fine' is not one of published, subpixel"):
        detect(predictions(TWO), [(10, 10)], masks="fine")
    with pytest.raises(ValueError, match="2 image sizes for a batch of 1 images"):
        detect(predictions(TWO), [(10, 10), (10, 10)])


def test_no_graph_is_kept():
    out = predictions(TWO)
    out.mask_coeffs = out.mask_coeffs.clone().requires_grad_()
    [found] = detect(out, [(10, 10)], mask_iou_net=ConstantIoU())
    assert not found.mask_scores.requires_grad
