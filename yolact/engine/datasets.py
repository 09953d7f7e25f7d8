"""What training and validation read: a data set of the user's own, or the config's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from data.coco import CocoDataset, Sample
from data.loader import build_dataset, check_repeats
from data.schema import Config
from layers.targets import ExtraKey, Targets

Size = tuple[int, int]


@runtime_checkable
class DataSet(Protocol):
    """A data set is anything with len() and items: a list of Samples is one.

    dataset[i] is a Sample, for i from 0 to len - 1. With S = cfg.model.max_size it holds

        image          (3,S,S) uint8 RGB, augmented as you like
        targets        Targets of M instances: boxes (M,4) XYXY in 0..1, labels (M,) int64 from 0,
                       crowd (M,) bool, masks (M,S,S) bool
        image_id       what messages and results call the image
        original_size  (height, width) before it was resized
        index          i

    Labels are places in cfg.data.class_names. Reading an item raises ValueError or OSError, with
    the fix, where something is wrong with it. Two additions are optional:

        at(epoch, i)   the item i of an epoch, where augmentation draws anew each time; an item that
                       depends on its arguments alone makes runs repeatable
        annotation_file, category_of_label
                       a COCO annotation file, and {label: its category id}: what validation needs
                       to find AP. Without them a run has losses, pictures and weights, but no AP.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class OwnItems:
    """A user's data set as the loader reads it: keys (epoch, index), masks and extras as
    the criterion needs them. ValueError says what is wrong with an item."""

    def __init__(
        self,
        source: DataSet,
        side: int,
        *,
        mask_sizes: Sequence[Size],
        needs_full_masks: bool,
        extras: Sequence[ExtraKey],
    ) -> None:
        self.source, self.side = source, side
        self.mask_sizes, self.extras = list(mask_sizes), list(extras)
        self.needs_full_masks = needs_full_masks
        self.annotation_file = getattr(source, "annotation_file", None)
        self.category_of_label = getattr(source, "category_of_label", {})
        self.has_truth = self.annotation_file is not None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        at = getattr(self.source, "at", None)
        sample = self.source[index] if at is None else at(epoch, index)
        self._check(sample, index)
        targets = sample.targets.reduce(
            self.mask_sizes, keep_full=self.needs_full_masks, extras=self.extras
        )
        return replace(sample, targets=targets, index=index)

    def load_image(self, index: int) -> np.ndarray:
        """(S,S,3) uint8 RGB."""
        return self[index].image.permute(1, 2, 0).contiguous().numpy()  # (3,S,S) -> (S,S,3)

    def _check(self, sample: Sample, index: int) -> None:
        if not isinstance(sample, Sample) or not isinstance(sample.targets, Targets):
            raise ValueError(
                f"item {index} of the data set is a {type(sample).__name__}: return a "
                "yolact.Sample with yolact.Targets, see yolact.DataSet"
            )
        wanted = (3, self.side, self.side)
        if tuple(sample.image.shape) != wanted or sample.image.dtype != torch.uint8:
            raise ValueError(
                f"item {index} of the data set has an image {tuple(sample.image.shape)} "
                f"{sample.image.dtype}: resize it to {wanted} uint8 (model.max_size={self.side})"
            )
        if sample.targets.masks is None or sample.targets.masks.shape[1:] != wanted[1:]:
            raise ValueError(
                f"item {index} of the data set has no masks of {self.side} x {self.side} pixels: "
                "give targets.masks (M,S,S) bool"
            )


def training_set(cfg: Config, given: DataSet | None, criterion) -> CocoDataset | OwnItems:
    """The given training set, or the config's, with the masks that the criterion needs. ValueError
    also where train.repeat_threshold asks for classes that the set does not tell."""
    trained = _prepared(
        cfg,
        given,
        "train",
        mask_sizes=criterion.mask_sizes,
        needs_full_masks=criterion.needs_full_masks,
        extras=criterion.extras,
    )
    check_repeats(cfg, trained)
    return trained


def validation_set(cfg: Config, given: DataSet | None, *, masks: bool) -> CocoDataset | OwnItems:
    """The given validation set, or the config's; masks: at full size, for pictures."""
    return _prepared(cfg, given, "val", mask_sizes=[], needs_full_masks=masks, extras=[])


def _prepared(cfg: Config, given: DataSet | None, split: str, **masks) -> CocoDataset | OwnItems:
    if given is None:
        return build_dataset(cfg, split, **masks)
    if len(given) == 0:
        raise ValueError(f"the given {split} set is empty: it needs at least one item")
    if isinstance(given, CocoDataset):  # it makes masks itself
        own = copy.copy(given)
        for name, value in masks.items():
            setattr(own, name, value)
        return own
    return OwnItems(given, cfg.model.max_size, **masks)


def finds_ap(dataset: CocoDataset | OwnItems | None) -> bool:
    """Whether AP can be found on a validation set: it names a COCO file with annotations."""
    return dataset is not None and dataset.has_truth
