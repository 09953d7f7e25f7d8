"""The slow part of the data set doctor: every image is read, every mask rasterised, the anchors
compared with the boxes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from data.coco import read_image
from data.doctor.check import Finding, Progress, Split, examples
from data.schema import ModelConfig
from layers.anchors import STRIDES, make_anchors
from layers.boxes import corners, pairwise_iou

SAMPLED_BOXES = 5_000  # for the anchor coverage; its standard error is then below 0.7 %
POSITIVE_IOU = 0.5
LOW_COVERAGE = 0.8
BOX_SLACK = (2.0, 0.05)  # a box may miss its mask's extent by 2 px or 5 % of its longer side


def check_pixels(
    splits: list[Split], model: ModelConfig, progress: Callable[[str], Progress]
) -> list[Finding]:
    """Findings that need the images themselves. progress(stage) gives the callback of a stage,
    called with (done, total)."""
    found: list[Finding] = []
    hashes = {
        split.name: _check_files(split, found, progress(f"{split.name} images")) for split in splits
    }
    _check_copies(hashes, found)
    for split in splits:
        _check_masks(split, found, progress(f"{split.name} masks"))
        if split.annotations:
            found.append(anchor_coverage(split, model))
    return found


def _check_files(split: Split, found: list[Finding], progress: Progress) -> dict[str, list[str]]:
    """Decodes every image; returns file names by the hash of their content."""
    images = [image for image in split.images.values() if image["file_name"] not in split.missing]
    by_hash: dict[str, list[str]] = {}
    broken, swapped, other_size, dark = [], [], [], []
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        results = pool.map(lambda image: _inspect(split, image), images)
        for done, (image, (digest, size, problem, is_dark)) in enumerate(
            zip(images, results, strict=True), 1
        ):
            progress(done, len(images))
            if problem:
                broken.append(problem)
                continue
            by_hash.setdefault(digest, []).append(image["file_name"])
            stated = (image["height"], image["width"])
            if size != stated:
                shown = (
                    f"{image['file_name']} is {size[1]}x{size[0]}, the JSON says "
                    f"{image['width']}x{image['height']}"
                )
                (swapped if size == stated[::-1] else other_size).append(shown)
            if is_dark:
                dark.append(image["file_name"])
    if broken:
        message, _, fix = broken[0].partition(": ")
        more = f" (and {len(broken) - 1} more unreadable images)" if len(broken) > 1 else ""
        found.append(Finding("error", message + more, fix))
    if swapped:
        found.append(
            Finding(
                "error",
                f"{split.path}: width and height are swapped for {len(swapped)} images "
                f"({examples(swapped)})",
                "swap them in the JSON; or, if the files are turned by EXIF orientation, save "
                "them turned",
            )
        )
    if other_size:
        found.append(
            Finding(
                "error",
                f"{split.path}: {len(other_size)} images have another size than stated "
                f"({examples(other_size)})",
                "put back the images that were annotated, or scale the annotations",
            )
        )
    if dark:
        found.append(
            Finding(
                "warning",
                f"{split.images_dir}: {len(dark)} 16-bit images use less than a sixteenth of their "
                f"range ({examples(dark)}) and are nearly black in 8 bits",
                "convert them to 8 bits with their own range",
            )
        )
    return by_hash


def _inspect(split: Split, image: dict) -> tuple[str, tuple[int, int], str, bool]:
    """(hash of the content, (height, width), problem or '', whether it is a 16-bit image that uses
    little of its range)."""
    path = split.file(image)
    try:
        pixels = read_image(path)
    except ValueError as error:
        return "", (0, 0), str(error), False
    data = path.read_bytes()
    dark = False
    if not data.startswith(b"\xff\xd8") and pixels.max() < 16:  # JPEG has 8 bits
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        dark = raw is not None and raw.dtype == np.uint16
    return hashlib.sha1(data).hexdigest(), pixels.shape[:2], "", dark


def _check_copies(hashes: dict[str, dict[str, list[str]]], found: list[Finding]) -> None:
    for name, by_hash in hashes.items():
        copies = [" = ".join(sorted(names)) for names in by_hash.values() if len(names) > 1]
        if copies:
            found.append(
                Finding(
                    "warning",
                    f"{len(copies)} images of the {name} split exist more than once, byte for byte "
                    f"({examples(copies)})",
                    "keep one of each, or they weigh double",
                )
            )
    if len(hashes) == 2:
        train, val = hashes.values()
        # The same name in both is already reported, by name.
        leaks = [
            f"{train[h][0]} = {val[h][0]}"
            for h in train.keys() & val.keys()
            if not set(train[h]) & set(val[h])
        ]
        if leaks:
            found.append(
                Finding(
                    "error",
                    f"{len(leaks)} images of the train split are in the val split under another "
                    f"name ({examples(sorted(leaks))}), so that validation measures memory",
                    "remove them from one of the two",
                )
            )


def _check_masks(split: Split, found: list[Finding], progress: Progress) -> None:
    """Compares each box with the extent of its mask."""
    empty, apart = [], []
    for done, annotation in enumerate(split.annotations, 1):
        if done % 200 == 0 or done == len(split.annotations):
            progress(done, len(split.annotations))
        image = split.images[annotation["image_id"]]
        x, y, w, h = mask_extent(
            annotation["segmentation"], int(image["height"]), int(image["width"])
        )
        if w == 0 or h == 0:
            empty.append(annotation["id"])
            continue
        bx, by, bw, bh = annotation["bbox"]
        slack = max(BOX_SLACK[0], BOX_SLACK[1] * max(bw, bh))
        if max(
            abs(bx - x), abs(by - y), abs(bx + bw - x - w), abs(by + bh - y - h)
        ) > slack and not annotation.get("iscrowd"):
            apart.append(
                f"annotation {annotation['id']!r}: box [{bx:g}, {by:g}, {bw:g}, {bh:g}], mask "
                f"[{x:g}, {y:g}, {w:g}, {h:g}]"
            )
    if empty:
        found.append(
            Finding(
                "warning",
                f"{split.path}: {len(empty)} masks cover no pixel (annotations {examples(empty)})",
                "remove or redraw them",
            )
        )
    if apart:
        share = len(apart) / len(split.annotations)
        # COCO 2017 itself has a few boxes that were drawn apart from their polygons; many mean a
        # systematic mistake.
        found.append(
            Finding(
                "error" if share > 0.5 else "warning",
                f"{split.path}: {len(apart)} boxes ({share:.1%}) disagree with their masks "
                f"({examples(apart)})",
                "recompute bbox from the segmentation as [x, y, width, height]",
            )
        )


def mask_extent(
    segmentation: dict | list, height: int, width: int
) -> tuple[float, float, float, float]:
    """x, y, width, height of a COCO segmentation's foreground."""
    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    return tuple(coco_mask.toBbox(encoded).tolist())


def level_shapes(size: int) -> list[tuple[int, int]]:
    """Feature maps of P3..P7 for an input of size x size: every halving rounds up."""
    side, sides = size, []
    for level in range(1, 8):
        side = (side + 1) // 2
        if level >= 3:
            sides.append((side, side))
    return sides


def anchor_coverage(split: Split, model: ModelConfig) -> Finding:
    """Share of the ground truths whose best anchor reaches IoU 0.5, over at most SAMPLED_BOXES of
    them."""
    sides = np.array(
        [
            (
                a["bbox"]
                + [split.images[a["image_id"]]["width"], split.images[a["image_id"]]["height"]]
            )
            for a in split.annotations
            if not a.get("iscrowd")
        ],
        np.float64,
    ).reshape(-1, 6)
    sampled = len(sides) > SAMPLED_BOXES
    if sampled:
        sides = sides[np.random.default_rng(0).choice(len(sides), SAMPLED_BOXES, replace=False)]
    relative = sides[:, :4] / sides[:, [4, 5, 4, 5]]
    boxes = torch.from_numpy(
        np.concatenate([relative[:, :2], relative[:, :2] + relative[:, 2:]], axis=1)
    ).float()
    anchors = corners(
        make_anchors(
            level_shapes(model.max_size),
            model.anchor_scales,
            model.anchor_ratios,
            image_size=model.max_size,
            square=model.square_anchors,
            offset=model.anchor_offset,
            strides=None if model.anchor_offset else STRIDES,
        )
    )
    best = (
        torch.cat([pairwise_iou(part, anchors).amax(1) for part in boxes.split(128)])
        if len(boxes)
        else torch.zeros(0)
    )
    covered = float((best >= POSITIVE_IOU).float().mean()) if len(best) else 1.0
    size = torch.from_numpy(np.sqrt(relative[:, 2] * relative[:, 3])) * model.max_size
    median = float(size.median()) if len(size) else 0.0
    text = (
        f"{split.name}: {covered:.1%} of {'a sample of ' if sampled else ''}{len(best)} ground "
        f"truths have an anchor of IoU >= {POSITIVE_IOU} at {model.max_size} px input (sqrt of box "
        f"area: median {median:.0f} px)"
    )
    if covered >= LOW_COVERAGE:
        return Finding("note", text)
    missed = float(size[best < POSITIVE_IOU].median())
    return Finding(
        "warning",
        f"{text}; the uncovered ones have a median of {missed:.0f} px, and learn from one anchor "
        "each at most",
        "set model.anchor_scales near their size (they are pixels of the input), or a larger "
        "model.max_size",
    )
