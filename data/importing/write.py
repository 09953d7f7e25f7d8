"""The files of an imported set: annotations/train.json, annotations/val.json and config.yaml."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.importing.anchors import Anchors, fit_anchors
from data.importing.records import Picture, Shape, Size
from data.length import with_iterations
from data.resolve import RUN_CONFIG, load_config
from data.segmentation import encoded, extent, pixels_of
from data.start import START, fits_start
from data.yaml_text import write_yaml

SPLITS = ("train", "val")
IMAGES, ANNOTATIONS = "images", "annotations"
SEEN = 40_000  # training images that the length aims at, each counted as often as it is seen
EPOCHS = (20, 2000)  # least and most
VALIDATIONS = 10  # over a training


@dataclass(frozen=True)
class Target:
    """Where a set goes, and what its config starts from. copy: images are copied there, too.
    epochs: 0 = by the number of images."""

    out: Path
    base: str
    copy: bool = False
    epochs: int = 0


@dataclass(frozen=True)
class Written:
    """What the config of a set holds beside the data."""

    anchors: Anchors
    epochs: int
    iterations: int
    starts: bool  # from the weights that ship


def write_set(
    staging: Path,
    pictures: dict[str, list[Picture]],
    classes: Sequence[str],
    target: Target,
) -> Written:
    """Writes the files of target.out into the folder `staging`, which takes that name later.

    pictures: by split. Images are named below their common folder, which the config names too.
    """
    every = [picture for split in SPLITS for picture in pictures[split]]
    folder = Path(os.path.commonpath([picture.path.parent for picture in every]))
    (staging / ANNOTATIONS).mkdir(parents=True)
    sizes = []
    for split in SPLITS:
        content = coco_content(pictures[split], classes, folder)
        path = staging / ANNOTATIONS / f"{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        sizes.append(_relative_boxes(content))
    if target.copy:
        for picture in every:
            copy = staging / IMAGES / picture.path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.path, copy)
        folder = target.out / IMAGES
    cfg = load_config(target.base, check_names=False)
    anchors = fit_anchors(sizes[0], cfg.model)
    shown = sum(bool(picture.shapes) for picture in pictures["train"]) or 1
    epochs = target.epochs or min(max(round(SEEN / shown), EPOCHS[0]), EPOCHS[1])
    length = cfg.train.model_copy(update={"epochs": float(epochs)})
    iterations = with_iterations(length, shown).iterations
    starts = fits_start(cfg.model)
    text = write_yaml(
        {
            "base": target.base,
            "name": target.out.name,
            "data.name": target.out.name,
            "data.root": str(target.out),
            **{f"data.{split}_images": str(folder) for split in SPLITS},
            **{f"data.{split}_annotations": f"{ANNOTATIONS}/{split}.json" for split in SPLITS},
            "data.class_names": list(classes),
            "model.anchor_scales": [[_plain(side) for side in level] for level in anchors.scales],
            "model.anchor_ratios": list(anchors.ratios),
            **({"train.init_from": START} if starts else {}),
            "train.precision": "auto",
            "train.epochs": epochs,
            "train.validate_every": max(1, iterations // VALIDATIONS),
        }
    )
    (staging / RUN_CONFIG).write_text(text, encoding="utf-8")
    return Written(anchors, epochs, iterations, starts)


def _plain(number: float) -> float:
    """With no .0, by which a list of them fits on a line."""
    return int(number) if number == int(number) else number


def coco_content(
    pictures: Sequence[Picture], classes: Sequence[str], folder: Path
) -> dict[str, Any]:
    """COCO-format content; images are named from `folder` on, outlines stay as they are."""
    ids = {name: number for number, name in enumerate(classes, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, 1):
        name = picture.path.relative_to(folder).as_posix()
        height, width = picture.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for shape in picture.shapes:
            key = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[shape.label]}
            annotations.append(key | _measured(shape, picture.size))
    categories = [{"id": key, "name": name} for name, key in ids.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def _measured(shape: Shape, size: Size) -> dict[str, Any]:
    """Outline, box [x, y, width, height] and area in pixels of an object. The box of polygons is
    theirs, cut at the edges of the image."""
    mask, outline = encoded(shape.segmentation, *size), shape.segmentation
    box = extent(mask)
    if isinstance(outline, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in outline])
        low, high = (np.clip(f(0), 0, size[::-1]) for f in (points.min, points.max))
        if (high > low).all():
            box = (*low.tolist(), *(high - low).tolist())
    return {
        "iscrowd": int(shape.crowd),
        "bbox": list(box),
        "area": pixels_of(mask),
        "segmentation": outline,
    }


def _relative_boxes(content: dict[str, Any]) -> np.ndarray:
    """(N,2) float64 width and height of the boxes as shares of their images, crowds left out."""
    sides = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    rows = [
        [*annotation["bbox"][2:], *sides[annotation["image_id"]]]
        for annotation in content["annotations"]
        if not annotation["iscrowd"]
    ]
    whole = np.array(rows, np.float64).reshape(-1, 4)
    return whole[:, :2] / whole[:, 2:]
