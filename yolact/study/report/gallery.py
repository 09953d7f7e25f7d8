"""The same validation images under each arm: boxes, masks and scores beside the ground truth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from data.coco import CocoDataset
from data.loader import build_dataset
from data.results import detection_problem, read_results
from layers.problems import ProblemError
from yolact.draw import draw_detections, draw_targets, gallery
from yolact.outputs import Detections, Targets
from yolact.run_files import BOX_DETECTIONS, GALLERY, MASK_DETECTIONS, MASK_FILE
from yolact.study.report.data import Report
from yolact.study.report.figures import short
from yolact.study.statistics import FinishedRun

IMAGES, CELL = 4, 300  # columns, and their longer side in pixels
SCORE = 0.3  # detections below it are not drawn, but for the best one of an image
QUALITY = 88


def picture(report: Report) -> tuple[bytes, str]:
    """(JPEG, what it shows). ValueError where the images or the detections are not there any
    more."""
    arms = [arm for arm in report.arms if arm.runs]
    seed, runs = _one_seed(report)
    first = runs[arms[0].label]
    dataset = build_dataset(first.config, "val", needs_full_masks=True)
    chosen = shown_images(min(len(dataset), first.images))
    found = {
        arm.label: [_drawn(one) for one in detections(runs[arm.label], dataset, chosen)]
        for arm in arms
    }
    columns = []
    for i, index in enumerate(chosen):
        sample, image = dataset[index], dataset.load_image(index)
        height, width = image.shape[:2]
        truth = sample.targets.boxes * torch.tensor([width, height, width, height])
        window = view(
            torch.cat([truth, *(found[arm.label][i].boxes for arm in arms)]), width, height
        )
        view_of = _enlarged(image[window.rows, window.columns])
        column = [
            (
                draw_targets(
                    view_of,
                    _seen_targets(sample.targets, window, width, height),
                    first.config.data.class_names,
                ),
                f"ground truth, image {sample.image_id}",
            )
        ]
        for arm in arms:
            seen = _seen(found[arm.label][i], window, view_of.shape[:2])
            column.append(
                (draw_detections(view_of, seen, arm.config.data.class_names), short(arm.label))
            )
        columns.append(column)
    tiles, captions = zip(*(tile for row in zip(*columns) for tile in row))
    cell = max(tile.shape[1] for tile in tiles), max(tile.shape[0] for tile in tiles)
    sheet = gallery(tiles, columns=len(chosen), cell=cell, captions=captions)
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert done
    words = (
        f"Seed {seed}. The images are spread evenly over the validation set, not chosen by result, "
        f"and cut to what is drawn under any arm. Drawn: detections with a score of {SCORE:g} or "
        "more, or the best one of an image where none reaches it; the number is the score."
    )
    return content.tobytes(), words


@dataclass(frozen=True)
class Window:
    """A part of an image, in pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.x, self.x + self.width)


def view(boxes: torch.Tensor, width: int, height: int) -> Window:
    """The part of the image's own shape that holds all boxes (N,4) XYXY pixels with a margin, not
    smaller than a fifth of its side."""
    if not len(boxes):
        return Window(0, 0, width, height)
    x1, y1 = boxes[:, :2].min(0).values.tolist()
    x2, y2 = boxes[:, 2:].max(0).values.tolist()
    share = min(1.0, max(0.2, 1.5 * (x2 - x1) / width, 1.5 * (y2 - y1) / height))
    w, h = max(1, round(share * width)), max(1, round(share * height))
    x, y = round((x1 + x2 - w) / 2), round((y1 + y2 - h) / 2)
    return Window(min(max(x, 0), width - w), min(max(y, 0), height - h), w, h)


def _one_seed(report: Report) -> tuple[int, dict[str, FinishedRun]]:
    """The first seed of which every arm has the detections."""
    arms = [arm for arm in report.arms if arm.runs]
    common = sorted(set.intersection(*(set(arm.runs) for arm in arms)))
    for seed in common:
        runs = {arm.label: arm.runs[seed] for arm in arms}
        if all(_has_detections(run.folder) for run in runs.values()):
            return seed, runs
    raise ValueError(f"no seed has {MASK_DETECTIONS} in every arm")


def _has_detections(folder: Path) -> bool:
    return (folder / GALLERY).is_file() or all(
        (folder / name).is_file() for name in (BOX_DETECTIONS, MASK_DETECTIONS)
    )


def shown_images(evaluated: int) -> list[int]:
    """Indices of a few images, spread evenly over those that were evaluated, the first so many of
    the set."""
    count = min(IMAGES, evaluated)
    return [i * evaluated // count for i in range(count)]


def detections(run: FinishedRun, dataset: CocoDataset, chosen: Sequence[int]) -> list[Detections]:
    """The detections on some images of the run's last validation."""
    wanted = [dataset.image_ids[index] for index in chosen]
    label_of = {category: label for label, category in dataset.category_of_label.items()}
    found: dict = {image_id: [] for image_id in wanted}
    sizes = {dataset.image_ids[index]: dataset.table.size(index) for index in chosen}
    for entry in read_detections(run.folder, set(wanted)):
        by_mask = {**entry, "score": entry["mask_score"]}
        for one, field in ((entry, "bbox"), (by_mask, "segmentation")):
            problem = detection_problem(one, field, sizes[entry["image_id"]])
            if problem is not None:
                raise ProblemError(problem.at(f"a kept detection in {run.folder}"))
        found[entry["image_id"]].append(entry)
    return [_detections(found[image_id], label_of) for image_id in wanted]


def _drawn(found: Detections) -> Detections:
    threshold = min(SCORE, float(found.mask_scores.max())) if len(found) else SCORE
    return found.select(found.mask_scores >= threshold)


def read_detections(folder: Path, wanted: set) -> list[dict]:
    """Boxes and masks of some images as COCO results with score, bbox, segmentation and mask_score
    together."""
    if (folder / GALLERY).is_file():
        found = read_results(folder / GALLERY, "kept detections")
    else:
        boxes, masks = (read_results(folder / name) for name in (BOX_DETECTIONS, MASK_DETECTIONS))
        if len(boxes) != len(masks):
            raise ValueError(
                f"{folder / BOX_DETECTIONS} and {MASK_FILE} are not of one evaluation: they hold "
                f"{len(boxes)} and {len(masks)} detections"
            )
        found = [
            {**box, "segmentation": mask.get("segmentation"), "mask_score": mask.get("score")}
            for box, mask in zip(boxes, masks)
        ]
    chosen = [entry for entry in found if entry.get("image_id") in wanted]
    needed = ("category_id", "score", "mask_score", "bbox", "segmentation")
    if any(entry.get(key) is None for entry in chosen for key in needed):
        raise ValueError(f"{folder} holds detections without {' or '.join(needed)}: evaluate again")
    return chosen


def keep_detections(run: FinishedRun, target: Path) -> None:
    """Writes the detections that a picture draws to `target`, if the images are there."""
    try:
        dataset = build_dataset(run.config, "val")
        wanted = {dataset.image_ids[index] for index in shown_images(min(len(dataset), run.images))}
        entries = read_detections(run.folder, wanted)
    except (ValueError, OSError):
        return
    best = {
        image: max((e["mask_score"] for e in entries if e["image_id"] == image), default=0)
        for image in wanted
    }
    drawn = [e for e in entries if e["mask_score"] >= min(SCORE, best[e["image_id"]])]
    target.write_text(json.dumps(drawn) + "\n", encoding="utf-8")


def _detections(entries: Sequence[Mapping], label_of: Mapping) -> Detections:
    entries = sorted(entries, key=lambda entry: -entry["score"])
    if not entries:
        nothing = torch.zeros(0)
        return Detections(
            torch.zeros(0, 4),
            nothing.long(),
            nothing,
            nothing,
            torch.zeros(0, 1, 1, dtype=torch.bool),
        )
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> XYXY
    masks = np.stack([coco_mask.decode(entry["segmentation"]) for entry in entries]).astype(bool)
    return Detections(
        boxes,
        torch.tensor([label_of[entry["category_id"]] for entry in entries]),
        torch.tensor([entry["score"] for entry in entries]),
        torch.tensor([entry["mask_score"] for entry in entries]),
        torch.from_numpy(masks),
    )


def _enlarged(image: np.ndarray) -> np.ndarray:
    """The image at the size that it is shown in, so that lines and labels have one size on all."""
    factor = CELL / max(image.shape[:2])
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _seen(found: Detections, window: Window, shape: tuple[int, int]) -> Detections:
    """Detections in a window that is shown in another size."""
    factor = torch.tensor([shape[1] / window.width, shape[0] / window.height] * 2)
    boxes = (found.boxes - torch.tensor([window.x, window.y] * 2)) * factor
    masks = [
        cv2.resize(mask[window.rows, window.columns].numpy().astype(np.float32), shape[::-1]) > 0.5
        for mask in found.masks
    ]
    stacked = (
        torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *shape, dtype=torch.bool)
    )
    return Detections(boxes, found.labels, found.scores, found.mask_scores, stacked)


def _seen_targets(targets: Targets, window: Window, width: int, height: int) -> Targets:
    """Targets of the window alone; their masks are squares of the network's input size, whatever
    the image's shape."""
    masks = targets.masks
    assert masks is not None, "the gallery asks for full masks"
    size = masks.shape[-1]
    x1, x2 = (round(x * size / width) for x in (window.x, window.x + window.width))
    y1, y2 = (round(y * size / height) for y in (window.y, window.y + window.height))
    scale = torch.tensor([width / window.width, height / window.height] * 2)
    boxes = (targets.boxes - torch.tensor([window.x / width, window.y / height] * 2)) * scale
    return Targets(
        boxes,
        targets.labels,
        targets.crowd,
        masks[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)],
    )
