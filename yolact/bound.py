"""The bound of the mask representation: the mask AP of a network that learns its targets exactly.

Every ground truth is found, classified and boxed. What is lost is lost on the way to a map at
prototype size, and back.

S network input side, P side of the prototype map, h x w size of the image, N instances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from data.annotations import read_coco, sort_content
from data.rules import is_crowd, size_of
from data.schema import Config, prototype_size
from data.segmentation import encoded
from layers.names import unknown_name

LIMIT = 2000  # instances that are looked at, unless told
THRESHOLDS = tuple(range(50, 100, 5))  # IoU in percent
# COCO's areas in pixels; it counts both ends
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
TARGETS, STRIDES, MASKS = ("binary", "coverage", "input"), (4, 2, 1), ("published", "subpixel")
_MEAN_IOU = "mean_iou"


@runtime_checkable
class Annotated(Protocol):
    """A data set that names its annotation file, as CocoDataset does."""

    annotation_file: str | Path


@dataclass(frozen=True)
class Rule:
    """How masks come to a map, and the map to the image.

    target  'binary': bilinear to P x P without antialias, > 0.5, as published. 'coverage': the
            share of each of P x P cells that the mask covers. 'input': the mask of S x S itself,
            which shows what the input size alone costs
    stride  input pixels between those that the loss compares: 4 (the prototypes'), 2 or 1
    masks   'published': the map is enlarged bilinearly; 'subpixel': bicubically; then > 0.5
    size    S
    """

    target: str
    stride: int
    masks: str
    size: int

    def __post_init__(self) -> None:
        for name, choices in (("target", TARGETS), ("masks", MASKS)):
            if getattr(self, name) not in choices:
                raise ValueError(unknown_name(name, getattr(self, name), choices))
        if self.stride not in STRIDES:
            raise ValueError(f"stride={self.stride} is not one of {', '.join(map(str, STRIDES))}")

    @classmethod
    def of(
        cls,
        cfg: Config,
        *,
        target: str | None = None,
        stride: int | None = None,
        masks: str | None = None,
    ) -> Rule:
        """A config's rule, but for what is given. ValueError for an unknown name or stride."""
        return cls(
            cfg.loss.mask_target if target is None else target,
            cfg.loss.mask_stride if stride is None else stride,
            cfg.eval.masks if masks is None else masks,
            cfg.model.max_size,
        )

    @property
    def prototypes(self) -> int:
        """P"""
        return prototype_size(self.size)

    @property
    def by_coverage(self) -> bool:
        """Whether coverage is what the map holds, or stands for what it holds."""
        return self.target == "coverage" or (self.target == "binary" and self.stride != 4)

    @property
    def words(self) -> str:
        """What the rule is, in a few words."""
        side = {"input": self.size}.get(self.target, self.prototypes)
        stride = "" if self.stride == 4 else f" at stride {self.stride}"
        return f"{self.target} targets of {side} px{stride}, {self.masks} masks"

    def round_trip(self, mask: Part) -> Part:
        """A mask of h x w -> what the map of a network that learnt it becomes on the image, a mask
        of h x w again, not cropped.

        At stride 2 and 1 the loss compares an enlarged map with finer targets, binary or not. The
        map that fits them best has no closed form; coverage stands for it."""
        prototypes = (self.prototypes, self.prototypes)
        # one half counts as foreground, as where training renders its masks
        learnt = mask.resized((self.size, self.size), "bilinear").cut(np.greater_equal)
        if self.by_coverage:
            learnt = learnt.resized(prototypes, "area")
        elif self.target == "binary":
            learnt = learnt.resized(prototypes, "bilinear").cut(np.greater)
        enlarged = "bilinear" if self.masks == "published" else "bicubic"
        return learnt.resized(mask.size, enlarged).cut(np.greater)


@dataclass(frozen=True, eq=False)
class MaskBound(Mapping[str, float]):
    """The bound of some instances, as {"AP", "AP50", ..., "AP95", "mean_iou"}, fractions.

    AP50 is the share of instances whose IoU reaches .50, AP the mean of the ten shares. All classes
    count together. NaN without instances.

    rule   how the masks went
    ious   (N,) float32, IoU of each mask with what came back
    areas  (N,) pixels, as the annotations state them
    total  usable instances of the annotations, of which the first N were looked at
    """

    rule: Rule
    ious: np.ndarray
    areas: np.ndarray
    total: int

    @property
    def instances(self) -> int:
        """N"""
        return len(self.ious)

    @cached_property
    def _values(self) -> dict[str, float]:
        if not self.instances:
            return dict.fromkeys(("AP", *(f"AP{t}" for t in THRESHOLDS), _MEAN_IOU), math.nan)
        ious = self.ious.astype(np.float64)
        shares = {f"AP{t}": float((ious >= t / 100).mean()) for t in THRESHOLDS}
        return {
            "AP": float(np.mean(list(shares.values()))),
            **shares,
            _MEAN_IOU: float(ious.mean()),
        }

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of_size(self, name: str) -> MaskBound:
        """The bound of the small, medium or large instances alone, by COCO's areas."""
        if name not in SIZES:
            raise ValueError(unknown_name("size", name, SIZES))
        least, most = SIZES[name]
        chosen = (self.areas >= least) & (self.areas <= most)
        return MaskBound(self.rule, self.ious[chosen], self.areas[chosen], int(chosen.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what it maps, how many instances, the rule, and the same by size
        (None where there are none)."""
        sizes = {name: self.of_size(name) for name in SIZES}
        return {
            **self,
            "instances": self.instances,
            "total": self.total,
            "target": self.rule.target,
            "stride": self.rule.stride,
            "masks": self.rule.masks,
            "input": self.rule.size,
            "prototypes": self.rule.prototypes,
            "sizes": {
                name: {**part, "instances": part.instances} if part.instances else None
                for name, part in sizes.items()
            },
        }


def mask_bound(
    source: Annotated | str | Path | Mapping[str, Any],
    cfg: Config,
    *,
    target: str | None = None,
    stride: int | None = None,
    masks: str | None = None,
    limit: int | None = LIMIT,
) -> MaskBound:
    """The mask AP that a network reaches which learns its targets exactly.

        bound = yolact.mask_bound("instances_val.json", cfg)
        bound["AP"], bound["AP90"], bound.of_size("small")["AP"]

    source                 a data set with an annotation_file, a COCO-format file, or its content
    target, stride, masks  other than the config's: see Rule
    limit                  the first so many instances, ordered by their ids as text; None =
                           all. Ids that count image by image make these a part of the images

    Crowds, masks without a pixel and unusable annotations are left out. One mask is held at a time,
    and a rule takes 0.5 to 3 ms a mask on one core. ValueError for annotations that cannot be read,
    or without a mask.
    """
    rule = Rule.of(cfg, target=target, stride=stride, masks=masks)
    return mask_bounds(source, [rule], limit=limit)[0]


def mask_bounds(
    source: Annotated | str | Path | Mapping[str, Any],
    rules: Sequence[Rule],
    *,
    limit: int | None = LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> list[MaskBound]:
    """mask_bound() by several rules, reading the masks once. progress: called with (done, total).

    ValueError as there."""
    path = source.annotation_file if isinstance(source, Annotated) else source
    content = path if isinstance(path, Mapping) else read_coco(path)
    where = "the annotations" if isinstance(path, Mapping) else str(path)
    found = _usable(content)
    ious: list[list[np.float32]] = [[] for _ in rules]
    areas: list[float] = []
    most = len(found) if limit is None else min(limit, len(found))
    for annotation, size in found:
        if len(areas) == most:
            break
        mask = _rasterised(annotation["segmentation"], size)
        if mask is None:
            continue
        for values, rule in zip(ious, rules, strict=True):
            values.append(mask.iou(rule.round_trip(mask)))
        areas.append(float(annotation.get("area") or mask.pixels.sum()))
        if progress is not None:
            progress(len(areas), most)
    if not areas:
        raise ValueError(
            f"{where} has no instance with a mask, so masks have no bound: annotate outlines"
        )
    return [
        MaskBound(rule, np.array(values, np.float32), np.array(areas), len(found))
        for rule, values in zip(rules, ious, strict=True)
    ]


def _usable(content: Mapping[str, Any]) -> list[tuple[dict[str, Any], tuple[int, int]]]:
    """(annotation, (height, width) of its image) of what training can learn from, ordered by the
    ids as text: an order that needs no seed."""
    sound = sort_content(content)
    sizes = {key: size_of(image) for key, image in sound.images.items()}
    found = [
        (annotation, size)
        for annotation in sound.annotations
        if not is_crowd(annotation) and (size := sizes[annotation["image_id"]]) is not None
    ]
    return sorted(found, key=lambda one: str(one[0].get("id")))


def _rasterised(segmentation: Any, size: tuple[int, int]) -> Part | None:
    """A COCO segmentation of an image of size (h, w) as a mask; None without a pixel."""
    rle = encoded(segmentation, *size)
    x, y, width, height = (int(side) for side in coco_mask.toBbox(rle))
    if not coco_mask.area(rle):
        return None
    pixels = coco_mask.decode(rle)[y : y + height, x : x + width]
    return Part(pixels.astype(np.float32), y, x, size)


# ------------------------------------------------------------------------------------ parts of maps


@dataclass(frozen=True)
class Part:
    """A map of size (height, width) that is 0 but for `pixels` (a,b) float32 at row `top`, column
    `left`."""

    pixels: np.ndarray
    top: int
    left: int
    size: tuple[int, int]

    def resized(self, size: tuple[int, int], mode: str) -> Part:
        """Of the size (h, w), as F.interpolate does it."""
        (rows, top), (columns, left) = (
            _touched(_weights(source, target, mode), start, length)
            for source, target, start, length in zip(
                self.size, size, (self.top, self.left), self.pixels.shape, strict=True
            )
        )
        return Part(rows @ self.pixels @ columns.T, top, left, size)

    def cut(self, compare: Callable[[np.ndarray, float], np.ndarray]) -> Part:
        """1 where compare(pixel, 0.5) holds and 0 elsewhere."""
        return replace(self, pixels=compare(self.pixels, 0.5).astype(np.float32))

    def iou(self, other: Part) -> np.float32:
        """IoU of two masks of one size, of which one is not empty; divided in float32."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        mine, theirs = (part.pixels[top - part.top :, left - part.left :] for part in (self, other))
        height, width = (min(sides) for sides in zip(mine.shape, theirs.shape, strict=True))
        both = np.float32((mine[:height, :width] * theirs[:height, :width]).sum())
        return both / np.float32(self.pixels.sum() + other.pixels.sum() - both)


def _touched(weights: np.ndarray, start: int, length: int) -> tuple[np.ndarray, int]:
    """Weights (target,source) -> the rows that pixels start:start + length reach, with the columns
    of these, and the first row."""
    part = weights[:, start : start + length]
    rows = np.flatnonzero(part.any(1))
    first, stop = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    return part[first:stop], first


@lru_cache(64)
def _weights(source: int, target: int, mode: str) -> np.ndarray:
    """(target,source) float32: what each pixel counts in each pixel of a resized axis; torch's own,
    read off a map that is 1 on its diagonal."""
    options = {} if mode == "area" else {"align_corners": False}
    diagonal = torch.eye(source)[None, None]
    return F.interpolate(diagonal, (target, source), mode=mode, **options)[0, 0].numpy()
