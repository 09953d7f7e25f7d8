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
from layers.boxes import corners, encode, pairwise_iou
from layers.losses.mask import build_mask_loss
from layers.masks import assemble
from layers.targets import Targets

LEAST_IOU = 0.5  # anchors whose losses are looked at
PER_IMAGE = 200  # of them, and of pairs in a scatter plot, taken from one image at most


@dataclass
class Pairs:
    """Anchors that touch a ground truth's box, one entry a pair (P,): IoU of the boxes, mask-aware
    IoU with P = box and P = mask, and the ground truth's mask-over-box ratio."""

    iou: np.ndarray
    box: np.ndarray
    mask: np.ndarray
    ratio: np.ndarray


@dataclass
class AnchorLosses:
    """Anchors of IoU >= LEAST_IOU with a ground truth, one entry each (P,): that IoU, the ground
    truth's mask-over-box ratio, losses."""

    iou: np.ndarray
    ratio: np.ndarray
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


def anchor_losses(model, cfg: Config, samples: Iterator[tuple[Tensor, Targets]]) -> AnchorLosses:
    """Losses of a trained model at anchors that overlap a ground truth well, whether or not its
    assigner chose them. They are the same three for every model: -log of the right class's
    probability, smooth L1 of the box offsets, BCE of the mask inside the box."""
    mask_loss, generator, rows = build_mask_loss("bce"), torch.Generator().manual_seed(0), []
    for image, targets in samples:
        with torch.no_grad():
            found = model(normalize(image[None], cfg.model.pixel_mean, cfg.model.pixel_std))
        overlap, best = pairwise_iou(targets.boxes, corners(found.anchors)).max(0)  # (A,)
        near = (overlap >= LEAST_IOU).nonzero()[:, 0]
        near = near[torch.randperm(len(near), generator=generator)[:PER_IMAGE]]
        if len(near) == 0:
            continue
        gt, boxes = best[near], targets.boxes[best[near]]
        h, w = found.prototypes.shape[1:3]
        masks = assemble(found.prototypes[0], found.mask_coeffs[0, near])
        score = found.class_scores()[0, near, targets.labels[gt]]
        offsets = F.smooth_l1_loss(
            found.box_deltas[0, near], encode(boxes, found.anchors[near]), reduction="none"
        ).sum(1)
        rows.append(
            torch.stack(
                (
                    overlap[near],
                    _ratio(targets, cfg.model.max_size)[gt],
                    -score.clamp(min=1e-12).log(),
                    offsets,
                    mask_loss(masks, targets.mask_at(h, w)[gt].float(), boxes),
                )
            )
        )
    iou, ratio, label, box, mask = torch.cat([torch.zeros(5, 0), *rows], 1).double().numpy()
    return AnchorLosses(iou, ratio, {"class": label, "box": box, "mask": mask})


def whole_masks(targets: Targets) -> Tensor:
    """(M,S,S) bool at network input size. ValueError for targets that carry reduced masks only."""
    if targets.masks is None:
        raise ValueError("the analysis needs masks at network input size, not reduced ones")
    return targets.masks


def _ratio(targets: Targets, size: int) -> Tensor:
    """(M,) mask pixels / box area at network input size."""
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]) * size
    return whole_masks(targets).sum((1, 2)) / sides.prod(1).clamp(min=1e-6)
