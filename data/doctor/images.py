"""Rules for the pixels of a data set: every image is read, every mask rasterised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.doctor.findings import Findings, Progress
from data.doctor.split import Split
from data.images import read_image
from data.rules import is_crowd
from data.segmentation import encoded, extent
from layers.problems import Problem, ProblemError, few, shown

BOX_SLACK = (2.0, 0.05)  # a box may miss its mask's extent by 2 px or 5 % of its longer side


@dataclass(frozen=True)
class _Seen:
    """What reading an image shows. digest: the hash of its content; size: (height, width); dim: it
    has 16 bits and uses little of their range. Only `problem` is set where it cannot be read."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    dim: bool = False
    problem: Problem | None = None


def check_pixels(splits: list[Split], found: Findings, progress: Callable[[str], Progress]) -> None:
    """What only the images show. progress(stage) gives the callback of a stage, called with (done,
    total)."""
    hashes = {
        split.name: _check_files(split, found, progress(f"{split.name} images")) for split in splits
    }
    _check_copies(hashes, found)
    for split in splits:
        _check_masks(split, found, progress(f"{split.name} masks"))


def _check_files(split: Split, found: Findings, progress: Progress) -> dict[str, list[str]]:
    """Decodes every image; returns file names by the hash of their content."""
    images = [image for image in split.images.values() if image["file_name"] not in split.missing]
    by_hash: dict[str, list[str]] = {}
    broken: list[Problem] = []
    swapped: list[str] = []
    other_size: list[str] = []
    dim: list[str] = []
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        results = pool.map(lambda image: _inspect(split.file(image)), images)
        for done, (image, seen) in enumerate(zip(images, results, strict=True), 1):
            progress(done, len(images))
            if seen.problem is not None:
                broken.append(seen.problem)
                continue
            by_hash.setdefault(seen.digest, []).append(image["file_name"])
            stated = (image["height"], image["width"])
            if seen.size != stated:
                shown = _sizes(image, seen.size)
                (swapped if seen.size == stated[::-1] else other_size).append(shown)
            if seen.dim:
                dim.append(image["file_name"])
    if broken:
        first, more = broken[0], len(broken) - 1
        what = first.what + (f" (and {more} more unreadable images)" if more else "")
        found.error(what, first.where, first.fix)
    _tell_sizes(split, swapped, other_size, found)
    if dim:
        found.warning(
            f"has {len(dim)} 16-bit images that use less than a sixteenth of their range "
            f"({few(dim)}) and are nearly black in 8 bits",
            split.images_dir,
            "convert them to 8 bits with their own range",
        )
    return by_hash


def _inspect(path: Path) -> _Seen:
    try:
        pixels = read_image(path)
    except ProblemError as error:
        return _Seen(problem=error.problems[0])
    data = path.read_bytes()
    dim = False
    if not data.startswith(b"\xff\xd8") and pixels.max() < 16:  # JPEG has 8 bits
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        dim = raw is not None and raw.dtype == np.uint16
    height, width = pixels.shape[:2]
    return _Seen(hashlib.sha1(data).hexdigest(), (height, width), dim)


def _sizes(image: dict[str, Any], size: tuple[int, int]) -> str:
    return (
        f"{image['file_name']} is {size[1]}x{size[0]}, the JSON says "
        f"{image['width']}x{image['height']}"
    )


def _tell_sizes(split: Split, swapped: list[str], other_size: list[str], found: Findings) -> None:
    if swapped:
        found.error(
            f"has width and height swapped for {len(swapped)} images ({few(swapped)})",
            split.path,
            "swap them in the JSON; or, if the files are turned by EXIF orientation, save them "
            "turned",
        )
    if other_size:
        found.error(
            f"states another size than {len(other_size)} images have ({few(other_size)})",
            split.path,
            "put back the images that were annotated, or scale the annotations",
        )


def _check_copies(hashes: dict[str, dict[str, list[str]]], found: Findings) -> None:
    for name, by_hash in hashes.items():
        copies = [" = ".join(sorted(names)) for names in by_hash.values() if len(names) > 1]
        if copies:
            found.warning(
                f"has {len(copies)} images that exist more than once, byte for byte "
                f"({few(copies)})",
                f"the {name} split",
                "keep one of each, or they weigh double",
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
            found.error(
                f"{len(leaks)} images of the train split are in the val split under another name "
                f"({few(sorted(leaks))}), so that validation measures memory",
                fix="remove them from one of the two",
            )


def _check_masks(split: Split, found: Findings, progress: Progress) -> None:
    """Compares each box with the extent of its mask."""
    empty, apart, turned = [], [], 0
    for done, annotation in enumerate(split.annotations, 1):
        if done % 200 == 0 or done == len(split.annotations):
            progress(done, len(split.annotations))
        image = split.images[annotation["image_id"]]
        size = int(image["height"]), int(image["width"])
        x, y, w, h = extent(encoded(annotation["segmentation"], *size))
        if w == 0 or h == 0:
            empty.append(shown(annotation.get("id")))
            continue
        if is_crowd(annotation) or not _apart(annotation["bbox"], (x, y, w, h)):
            continue
        turned += not _apart(annotation["bbox"], (y, x, h, w))
        bx, by, bw, bh = annotation["bbox"]
        apart.append(
            f"annotation {shown(annotation.get('id'))}: box [{bx:g}, {by:g}, {bw:g}, {bh:g}], mask "
            f"[{x:g}, {y:g}, {w:g}, {h:g}]"
        )
    if empty:
        found.warning(
            f"has {len(empty)} masks that cover no pixel (annotations {few(empty)})",
            split.path,
            "remove or redraw them",
        )
    if apart:
        share = len(apart) / len(split.annotations)
        # COCO 2017 itself has a few boxes that were drawn apart from their polygons; many mean a
        # systematic mistake.
        tell = found.error if share > 0.5 else found.warning
        swapped = turned > len(apart) / 2
        hint = f"; {turned} of them agree with x and y of the mask swapped" if swapped else ""
        tell(
            f"has {len(apart)} boxes ({share:.1%}) that disagree with their masks "
            f"({few(apart)}){hint}",
            split.path,
            "swap x and y of the polygons"
            if swapped
            else "recompute bbox from the segmentation as [x, y, width, height]",
        )


def _apart(box: Sequence[float], mask: Sequence[float]) -> bool:
    """Whether two boxes [x, y, width, height] differ by more than BOX_SLACK."""
    bx, by, bw, bh = box
    x, y, w, h = mask
    slack = max(BOX_SLACK[0], BOX_SLACK[1] * max(bw, bh))
    return max(abs(bx - x), abs(by - y), abs(bx + bw - x - w), abs(by + bh - y - h)) > slack
