"""From Predictions to Detections: decode, suppress, assemble masks, re-score them, and bring
everything to the original image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from layers import masks as mask_ops
from layers.boxes import decode, to_pixels
from layers.nms import cross_class_fast_nms, fast_nms, traditional_nms
from yolact.finite import DIVERGED, Diverged, not_finite
from yolact.outputs import Detections, Predictions
from yolact.rle import MaskRuns

NMS = {"fast": fast_nms, "cross_class": cross_class_fast_nms, "traditional": traditional_nms}
# how masks are brought to the image: from (D,H,W) probabilities, or from logits
WINDOWS = {"published": mask_ops.image_windows, "subpixel": mask_ops.logit_windows}
PROTOTYPE_STRIDE = 4
RESCORED_AT_ONCE = 64  # masks in one pass of the mask-IoU net


@dataclass
class Instances:
    """What NMS keeps of one image, by falling score: boxes (D,4) XYXY relative, not clipped;
    labels, scores (D,); coefficients (D,K)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    coefficients: Tensor


@torch.no_grad()
def detect(
    predictions: Predictions,
    image_sizes: Sequence[tuple[int, int]],
    *,
    mask_iou_net: nn.Module | None = None,
    nms: str = "fast",
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    top_k: int = 200,
    max_detections: int = 100,
    crop: bool = True,
    masks: str = "published",
    input_size: int | None = None,
) -> list[Detections]:
    """Detections of each image of a batch, by falling class score, in pixels of the original
    images.

    image_sizes   (h,w) of each original image
    mask_iou_net  soft cropped masks (n,1,H,W) -> (n,C): mask_scores become score x predicted IoU of
                  the detection's class
    nms           'fast', 'cross_class' or 'traditional'; thresholds and limits as in layers.nms
    crop          masks are cut at the predicted box
    masks         'published': probabilities, cut at the box grown by one prototype pixel, are
                  resized bilinearly and are mask where > 0.5. 'subpixel': logits are resized by
                  bicubic interpolation, mask where > 0, and are cut there at the box grown by one
                  pixel of the image
    input_size    side of the network input, in whose pixels traditional NMS measures; None = 4 x
                  the prototypes' height, which exceeds the side by at most 7 pixels

    All arithmetic is in float32, whatever the type of the predictions and under autocast. Raises
    ValueError for an unknown `nms` or `masks`, and for another number of sizes than images.
    """
    if masks not in WINDOWS:
        raise ValueError(f"masks={masks!r} is not one of {', '.join(WINDOWS)}")
    if len(image_sizes) != predictions.box_deltas.shape[0]:
        raise ValueError(
            f"{len(image_sizes)} image sizes for a batch of {predictions.box_deltas.shape[0]} "
            "images"
        )
    found = []
    with torch.autocast(predictions.box_deltas.device.type, enabled=False):
        for image, (height, width) in enumerate(image_sizes):
            kept = suppress(
                predictions,
                image,
                nms=nms,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                top_k=top_k,
                max_detections=max_detections,
                input_size=input_size,
            )
            maps, mask_scores = instance_masks(
                kept,
                predictions.prototypes[image],
                mask_iou_net=mask_iou_net,
                crop=crop,
                masks=masks,
            )
            size = int(height), int(width)
            found.append(paste(kept, maps, mask_scores, size, crop=crop, masks=masks))
    return found


@torch.no_grad()
def suppress(
    predictions: Predictions,
    image: int,
    *,
    nms: str,
    score_threshold: float,
    iou_threshold: float,
    top_k: int,
    max_detections: int,
    input_size: int | None = None,
) -> Instances:
    """First stage of detect(): the instances of one image of the batch, decoded and suppressed.
    Diverged, a ValueError, where their boxes are not finite."""
    if nms not in NMS:
        raise ValueError(f"nms={nms!r} is not one of {', '.join(NMS)}")
    if input_size is None:
        input_size = PROTOTYPE_STRIDE * predictions.prototypes.shape[1]
    # (A,4) relative
    boxes = decode(predictions.box_deltas[image].float(), predictions.anchors.float())
    rows, labels, scores = NMS[nms](
        boxes,
        _class_scores(predictions, image),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        top_k=top_k,
        max_detections=max_detections,
        image_size=input_size,
    )
    kept = boxes[rows]
    if not bool(torch.isfinite(kept).all()):
        wrong = not_finite([("the boxes", kept)])
        raise Diverged(f"{DIVERGED}: the box head's offsets are so large that {wrong}")
    return Instances(kept, labels, scores, predictions.mask_coeffs[image, rows].float())


@torch.no_grad()
def instance_masks(
    kept: Instances,
    prototypes: Tensor,
    *,
    mask_iou_net: nn.Module | None,
    crop: bool,
    masks: str = "published",
) -> tuple[Tensor, Tensor]:
    """Second stage: prototypes (H,W,K) of the image -> maps (D,H,W), and mask scores (D,). The maps
    are soft masks, or logits with masks='subpixel'; re-scoring sees soft masks either way."""
    logits = mask_ops.assemble(prototypes.float(), kept.coefficients)
    subpixel = masks == "subpixel"
    if subpixel and mask_iou_net is None:
        return logits, kept.scores
    soft = logits.sigmoid() if subpixel else logits.sigmoid_()
    if crop:
        soft = mask_ops.crop(soft, kept.boxes)  # unclipped boxes
    scores = kept.scores
    if mask_iou_net is not None:
        scores = scores * predicted_mask_iou(mask_iou_net, soft, kept.labels)
    return logits if subpixel else soft, scores


@torch.no_grad()
def paste(
    kept: Instances,
    maps: Tensor,
    mask_scores: Tensor,
    size: tuple[int, int],
    *,
    crop: bool,
    masks: str = "published",
) -> Detections:
    """Third stage: everything in pixels of the original image of size (h,w). crop and masks: as the
    maps (D,H,W) were made."""
    windows = WINDOWS[masks](maps, size, boxes=kept.boxes if crop else None)
    runs = MaskRuns.collect(windows, size)
    return Detections(to_pixels(kept.boxes, size), kept.labels, kept.scores, mask_scores, runs)


def predicted_mask_iou(mask_iou_net: nn.Module, masks: Tensor, labels: Tensor) -> Tensor:
    """Soft masks (D,H,W) and labels (D,) -> (D,) float32: the net's IoU for each detection's own
    class."""
    parameter = next(mask_iou_net.parameters(), masks)
    chunks = [
        mask_iou_net(chunk[:, None].to(parameter.dtype)).float()
        for chunk in masks.split(RESCORED_AT_ONCE)
        if len(chunk)
    ]
    if not chunks:
        return masks.new_zeros(0)
    return torch.cat(chunks).gather(1, labels[:, None])[:, 0]


def _class_scores(predictions: Predictions, image: int) -> Tensor:
    """(A,C) float32 of one image; one at a time, as the scores are the largest tensor here."""
    logits = predictions.class_logits[image : image + 1].float()
    return replace(predictions, class_logits=logits).class_scores()[0]
