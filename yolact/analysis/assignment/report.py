"""Runs scripts/analyse_assignment.py's measurements on one source after another: what is printed,
and which figures are written."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.coco import CocoDataset
from data.schema import Config
from layers.boxes import corners
from layers.losses.criterion import Criterion
from yolact.analysis.assignment.data import (
    LEAST_IOU,
    AnchorRatios,
    anchor_ratios,
    instances,
    mask_over_box,
    open_split,
    pairs,
    sample,
)
from yolact.analysis.assignment.plots import (
    by_anchor_ratio,
    overlap_scatter,
    positives_panels,
    ratio_histogram,
)
from yolact.build import build_criterion, build_model
from yolact.checkpoint import load_weights
from yolact.engine.assignment import changed_by_prototype_masks
from yolact.model import Yolact


class AssignmentReport:
    """The figures of a call; ratios of all sources share one."""

    def __init__(self, arguments: Namespace):
        self.arguments, self.out = arguments, arguments.out
        self.ratios: dict[str, np.ndarray] = {}
        self.written: list[Path] = []

    def add(self, name: str, cfg: Config) -> None:
        """Measures one source and prints its table. ValueError where data or weights cannot be
        read."""
        arguments = self.arguments
        dataset = open_split(cfg, arguments.split)
        chosen = _chosen(dataset, arguments.picture) if arguments.picture else []
        ratios = mask_over_box(dataset, sample(dataset, arguments.annotated))
        if len(ratios) == 0:
            raise ValueError(
                f"{dataset.annotation_file} has no instance that is not a crowd: there is nothing "
                "to analyse"
            )
        self.ratios[name] = ratios
        print(
            f"\n{name}: {len(ratios)} objects; mask over box: mean {ratios.mean():.3f}, median "
            f"{np.median(ratios):.3f}, {100 * (ratios < 0.5).mean():.0f} % below one half",
            flush=True,
        )
        model = build_model(cfg)
        if arguments.weights:
            load_weights(model, arguments.weights)
        anchors, level_sizes = model.anchors_for(cfg.model.max_size)
        indices = sample(dataset, arguments.images)
        self._assignments(name, cfg, model, anchors, level_sizes, dataset, indices)
        found = pairs(anchors, cfg.model.max_size, self._read(dataset, indices, "overlaps"))
        self.written.append(overlap_scatter(name, found, self.out / f"{name}_overlaps.png"))
        near = anchor_ratios(
            cfg,
            build_criterion(cfg, model),
            anchors,
            level_sizes,
            self._read(dataset, indices, "anchors"),
            model.eval() if arguments.weights else None,
        )
        print(_of_anchors(cfg.assign.name, near))
        self.written.append(by_anchor_ratio(name, near, self.out / f"{name}_anchors.png"))
        if arguments.picture:
            self._picture(name, cfg, model, anchors, level_sizes, dataset, chosen)

    def finish(self) -> list[Path]:
        return [ratio_histogram(self.ratios, self.out / "ratio.png"), *self.written]

    def _read(self, dataset: CocoDataset, indices: list[int], what: str):
        return instances(dataset, tqdm(indices, desc=what, unit="image", leave=False, delay=3))

    def _assignments(
        self,
        name: str,
        cfg: Config,
        model: Yolact,
        anchors: Tensor,
        level_sizes: tuple[int, ...],
        dataset: CocoDataset,
        indices: list[int],
    ) -> None:
        """A table: positives of each assigner, and how many anchors masks at prototype size send
        elsewhere."""
        # positives, objects, without, changed, compared
        rows = {text: np.zeros(5, np.int64) for text in self.arguments.assigners}
        criteria = self._criteria(cfg, model)
        for _, targets in self._read(dataset, indices, "assignments"):
            for text, row in rows.items():
                index = criteria[text].assign(anchors, level_sizes, [targets]).gt_index[0]
                counts = torch.bincount(index[index >= 0], minlength=len(targets))
                row[:3] += int(counts.sum()), len(targets), int((counts == 0).sum())
                if criteria[text].assigner.needs_masks:
                    row[3:] += changed_by_prototype_masks(
                        criteria[text], anchors, level_sizes, [targets]
                    )
        width = max(map(len, rows)) + 2
        print(
            f"{'assigner':<{width}}{'positives/object':>18}{'objects without':>18}   "
            f"{len(anchors)} anchors at {cfg.model.max_size} px"
        )
        for text, row in rows.items():
            found, objects, without, changed, compared = (int(count) for count in row)
            note = (
                f"   masks of {cfg.model.prototype_size} px change {changed} of {compared}"
                if compared
                else ""
            )
            print(
                f"{text:<{width}}{found / max(1, objects):>18.2f}"
                f"{100 * without / max(1, objects):>16.1f} %{note}"
            )

    def _criteria(self, cfg: Config, model: Yolact) -> dict[str, Criterion]:
        """{assigner: the config's criterion with it}."""
        return {
            text: build_criterion(
                cfg.model_copy(update={"assign": cfg.assign.model_copy(update={"name": text})}),
                model,
            )
            for text in self.arguments.assigners
        }

    def _picture(
        self,
        name: str,
        cfg: Config,
        model: Yolact,
        anchors: Tensor,
        level_sizes: tuple[int, ...],
        dataset: CocoDataset,
        chosen: list[int],
    ) -> None:
        found = next(instances(dataset, chosen), None)
        if found is None:
            raise ValueError(
                f"image {self.arguments.picture} of {dataset.annotation_file} has no instance: "
                "choose another --picture"
            )
        image, targets = found
        criteria = self._criteria(cfg, model)
        assigned = {
            text: criterion.assign(anchors, level_sizes, [targets]).image(0)
            for text, criterion in criteria.items()
        }
        pixels = image.permute(1, 2, 0).clamp(0, 255).byte().numpy()
        rects = (corners(anchors) * cfg.model.max_size).numpy()
        out = self.out / f"{name}_positives_{self.arguments.picture}.png"
        self.written.append(positives_panels(pixels, targets, rects, assigned, out))


def _of_anchors(assigner: str, found: AnchorRatios) -> str:
    kinds = {"positives": found.positive, "negatives": ~found.positive}
    words = (f"{kind.sum()} {name}, {_median(found.ratio[kind])}" for name, kind in kinds.items())
    return f"{assigner}, of IoU >= {LEAST_IOU:g}, mask over anchor: {'; '.join(words)}"


def _median(ratios: np.ndarray) -> str:
    return f"median {np.median(ratios):.2f}" if len(ratios) else "-"


def _chosen(dataset: CocoDataset, image_id: str) -> list[int]:
    """The index of an image; for 'first' all, of which the first with an instance is taken."""
    if image_id == "first":
        return list(range(len(dataset)))
    known = {str(key): index for index, key in enumerate(dataset.image_ids)}
    if image_id not in known:
        raise ValueError(
            f"{dataset.annotation_file} has no annotated image of id {image_id}: give one that it "
            f"lists, such as {', '.join(list(known)[:3])}, or first"
        )
    return [known[image_id]]
