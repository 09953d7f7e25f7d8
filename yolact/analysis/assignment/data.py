"""What scripts/analyse_assignment.py measures: masks beside their boxes, anchors beside both, and
losses of a trained model's anchors.

M ground truths of an image, A anchors, S network input size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from data.coco import CocoDataset
from data.loader import split_paths
from data.schema import Config
from data.transforms import eval_transform, normalize
from layers.assign import gma_iou
from layers.assigners.mask_iou import integral_images
from layers.boxes import area, corners, encode, pairwise_iou
from layers.losses.criterion import Criterion
from layers.losses.mask import build_mask_loss
from layers.masks import assemble
from layers.targets import Targets
from yolact.model import Yolact

LEAST_IOU = 0.3  # with a ground truth, of the anchors that are looked at
PER_IMAGE = 200  # pairs in a scatter plot, taken from one image at most
LOSSES = ("class", "box", "mask", "class of negatives")


@dataclass
class Pairs:
    """Anchors that touch a ground truth's box, one entry a pair (P,): IoU of the boxes, mask-aware
    IoU with P = box and P = mask, and the ground truth's mask-over-box ratio."""

    iou: np.ndarray
    box: np.ndarray
    mask: np.ndarray
    ratio: np.ndarray


@dataclass
class AnchorRatios:
    """Anchors of IoU >= LEAST_IOU with a ground truth, one entry each (P,): that IoU; the
    mask-over-box ratio of the anchor, which is the share of its area that the ground truth's mask
    covers; whether the assigner made it positive. losses: of a trained model, NaN where an anchor
    has no such loss; empty without one."""

    iou: np.ndarray
    ratio: np.ndarray
    positive: np.ndarray
    losses: dict[str, np.ndarray]


def open_split(cfg: Config, split: str) -> CocoDataset:
    """The images of a split resized to the network's input, not augmented, with full masks.
    ValueError where it cannot be read."""
    images, annotations = split_paths(cfg.data, split)
    return CocoDataset(
        images,
        annotations,
        cfg.data.class_names,
        label_map=cfg.data.label_map,
        transform=eval_transform(cfg),
    )


def sample(dataset: CocoDataset, count: int) -> list[int]:
    """Indices of at most `count` images (0 = all), drawn with a fixed seed, in order."""
    everything = np.arange(len(dataset))
    if count and count < len(everything):
        everything = np.sort(np.random.default_rng(0).choice(everything, count, replace=False))
    return everything.tolist()


def mask_over_box(dataset: CocoDataset, indices: Sequence[int]) -> np.ndarray:
    """(M,) mask pixels / box area of the ground truths that are no crowds, at the images' own size.
    No image is read."""
    table, ratios = dataset.table, []
    for index in indices:
        height, width = (int(side) for side in table.sizes[index])
        for row in table.rows(index):
            if not table.crowd[row]:
                x1, y1, x2, y2 = table.boxes[row]
                ratios.append(
                    coco_mask.area(table.encoded_mask(row, height, width)) / ((x2 - x1) * (y2 - y1))
                )
    return np.array(ratios, np.float64)


def instances(dataset: CocoDataset, indices: Sequence[int]) -> Iterator[tuple[Tensor, Targets]]:
    """(image (3,S,S) float 0..255, Targets without crowds) of the images that have an instance."""
    for index in indices:
        found = dataset[index]
        kept = (~found.targets.crowd).nonzero()[:, 0]
        if len(kept):
            targets = found.targets
            yield (
                found.image,
                Targets(
                    targets.boxes[kept],
                    targets.labels[kept],
                    targets.crowd[kept],
                    whole_masks(targets)[kept],
                ),
            )


def pairs(anchors: Tensor, size: int, samples: Iterator[tuple[Tensor, Targets]]) -> Pairs:
    """anchors (A,4) cx,cy,w,h relative -> every measure at randomly chosen pairs, at most PER_IMAGE
    an image."""
    rects, generator, rows = corners(anchors) * size, torch.Generator().manual_seed(0), []
    for _, targets in samples:
        boxes = targets.boxes * size
        overlap = pairwise_iou(boxes, rects)  # (M,A)
        by_box, by_mask = (
            gma_iou(rects, boxes, whole_masks(targets), polygon=polygon, rounding="exact")
            for polygon in ("box", "mask")
        )
        touching = (overlap > 0).nonzero()
        # Most of the anchors that touch a box hardly do: drawing by IoU shows the whole range.
        weight = overlap[touching[:, 0], touching[:, 1]]
        chosen = (
            touching[torch.multinomial(weight, min(PER_IMAGE, len(weight)), generator=generator)]
            if len(weight)
            else touching
        )
        gt, anchor = chosen.unbind(1)
        rows.append(
            torch.stack(
                (
                    overlap[gt, anchor],
                    by_box[gt, anchor],
                    by_mask[gt, anchor],
                    _ratio(targets, size)[gt],
                )
            )
        )
    return Pairs(*torch.cat([torch.zeros(4, 0), *rows], 1).double().numpy())


def anchor_ratios(
    cfg: Config,
    criterion: Criterion,
    anchors: Tensor,
    level_sizes: Sequence[int],
    samples: Iterator[tuple[Tensor, Targets]],
    model: Yolact | None = None,
) -> AnchorRatios:
    """The anchors that overlap a ground truth, positives and negatives as the criterion assigns
    them (ignored ones take no part), and the losses of a trained model at them. A positive is seen
    with its own ground truth, a negative with the one of highest IoU."""
    rows, size = [], cfg.model.max_size
    rects, names = corners(anchors) * size, LOSSES if model is not None else ()
    for image, targets in samples:
        overlap = pairwise_iou(targets.boxes * size, rects)  # (M,A)
        index = criterion.assign(anchors, level_sizes, [targets]).gt_index[0]
        gt = torch.where(index >= 0, index, overlap.argmax(0))
        iou = overlap.gather(0, gt[None])[0]
        near = ((iou >= LEAST_IOU) & (index >= -1)).nonzero()[:, 0]
        if len(near) == 0:
            continue
        gt, positive = gt[near], index[near] >= 0
        found = [iou[near], anchor_ratio(rects[near], gt, targets), positive.float()]
        if model is not None:
            found += _losses(model, cfg, image, targets, near, gt, positive)
        rows.append(torch.stack(found))
    table = torch.cat([torch.zeros(3 + len(names), 0), *rows], 1).double().numpy()
    return AnchorRatios(table[0], table[1], table[2] > 0, dict(zip(names, table[3:], strict=True)))


def anchor_ratio(rects: Tensor, gt: Tensor, targets: Targets) -> Tensor:
    """(P,) share of each anchor (P,4), corners in pixels of the input, that the mask of its ground
    truth gt (P,) covers."""
    covered = torch.zeros(len(rects))
    masks = whole_masks(targets)
    for number in gt.unique():
        own = gt == number
        covered[own] = integral_images(masks[number : number + 1]).coverage(rects[own][None])[0]
    return covered / area(rects).clamp(min=1e-6)


def _losses(
    model: Yolact,
    cfg: Config,
    image: Tensor,
    targets: Targets,
    near: Tensor,
    gt: Tensor,
    positive: Tensor,
) -> list[Tensor]:
    """LOSSES of the anchors `near` (P,), the same for every model: of positives -log of the right
    class's probability, smooth L1 of the box offsets, BCE of the mask inside the box; of negatives
    -log of the probability of no class."""
    with torch.no_grad():
        found = model(normalize(image[None], cfg.model.pixel_mean, cfg.model.pixel_std))
    boxes, nothing = targets.boxes[gt], torch.full((len(near),), torch.nan)
    h, w = found.prototypes.shape[1:3]
    masks = assemble(found.prototypes[0], found.mask_coeffs[0, near])
    scores = found.class_scores()[0, near].clamp(max=1 - 1e-6)  # (P,C)
    right = -scores.gather(1, targets.labels[gt][:, None])[:, 0].clamp(min=1e-12).log()
    softmax = found.class_logits.shape[2] > scores.shape[1]
    none = (
        -torch.log1p(-scores.sum(1).clamp(max=1 - 1e-6))
        if softmax
        else -torch.log1p(-scores).sum(1)
    )
    offsets = F.smooth_l1_loss(
        found.box_deltas[0, near], encode(boxes, found.anchors[near]), reduction="none"
    ).sum(1)
    pixels = build_mask_loss("bce")(masks, targets.mask_at(h, w)[gt].float(), boxes)
    ours = [torch.where(positive, values, nothing) for values in (right, offsets, pixels)]
    return [*ours, torch.where(positive, nothing, none)]


def whole_masks(targets: Targets) -> Tensor:
    """(M,S,S) bool at network input size. ValueError for targets that carry reduced masks only."""
    if targets.masks is None:
        raise ValueError("the analysis needs masks at network input size, not reduced ones")
    return targets.masks


def _ratio(targets: Targets, size: int) -> Tensor:
    """(M,) mask pixels / box area at network input size."""
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]) * size
    return whole_masks(targets).sum((1, 2)) / sides.prod(1).clamp(min=1e-6)
