"""Rules for the pixels of a data set: every image is read, every mask rasterised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.contents import read_bytes
from data.doctor.findings import Findings, Progress
from data.doctor.split import Split
from data.images import decode_image, is_dim, orientation, upright
from data.rules import is_crowd
from data.segmentation import encoded, extent
from layers.problems import Problem, ProblemError, few, shown

BOX_SLACK = (2.0, 0.05)  # a box may miss its mask's extent by 2 px or 5 % of its longer side


@dataclass(frozen=True)
class _Seen:
    """What reading an image shows. digest: the hash of its content; size: (height, width); dim: it
    has 16 bits and uses little of their range; tagged: how it is read where EXIF turns it, 'turned'
    'turned, of one size' or 'as stored'. Only `problem` is set where it cannot be read."""

    digest: str = ""
    size: tuple[int, int] = (0, 0)
    dim: bool = False
    tagged: str = ""
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
    tagged: dict[str, list[str]] = {}
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        results = pool.map(
            lambda image: _inspect(split.file(image), (image["height"], image["width"])), images
        )
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
            if seen.tagged:
                tagged.setdefault(seen.tagged, []).append(image["file_name"])
    for alike in _by_fix(broken):
        first, *others = alike
        more = f"{len(others)} more of this kind, {few([problem.where for problem in others])}"
        found.error(first.what + (f" (and {more})" if others else ""), first.where, first.fix)
    _tell_sizes(split, swapped, other_size, found)
    _tell_tagged(split, tagged, found)
    if dim:
        found.warning(
            f"has {len(dim)} 16-bit images that use less than a sixteenth of their range "
            f"({few(dim)}) and are nearly black in 8 bits",
            split.images_dir,
            "convert them to 8 bits with their own range",
        )
    return by_hash


def _by_fix(problems: list[Problem]) -> list[list[Problem]]:
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.fix, []).append(problem)
    return list(kinds.values())


def _inspect(path: Path, stated: tuple[int, int]) -> _Seen:
    try:
        data = read_bytes(path, "image")
        stored = decode_image(data, f"image {path}")
    except ProblemError as error:
        return _Seen(problem=error.problems[0])
    turn = orientation(data)
    size, turned = stored.shape[:2], upright(stored, turn).shape[:2]
    as_stored = turned != stated and size == stated
    return _Seen(
        hashlib.sha1(data).hexdigest(),
        size if as_stored else turned,
        is_dim(stored, data),
        "" if turn == 1 else _how(as_stored, turned == size),
    )


def _how(as_stored: bool, of_one_size: bool) -> str:
    return "as stored" if as_stored else "turned, of one size" if of_one_size else "turned"


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
            "swap them in the JSON",
        )
    if other_size:
        found.error(
            f"states another size than {len(other_size)} images have ({few(other_size)})",
            split.path,
            "put back the images that were annotated, or scale the annotations",
        )


def _tell_tagged(split: Split, tagged: dict[str, list[str]], found: Findings) -> None:
    """EXIF orientation: what is done with it, and where prediction would do something else."""
    if turned := tagged.get("turned"):
        found.note(
            f"has {len(turned)} images that EXIF orientation turns ({few(turned)}); they are read "
            "as viewers show them, and their annotations are taken to be made so",
            split.images_dir,
        )
    if same := tagged.get("turned, of one size"):
        found.warning(
            f"has {len(same)} images that EXIF orientation turns or mirrors without another size "
            f"({few(same)}); they are read as viewers show them, and whether they were annotated "
            "so cannot be told",
            split.images_dir,
            "where they were annotated as stored, remove the tag from the files (exiftool "
            "-Orientation= FILE)",
        )
    if stored := tagged.get("as stored"):
        found.warning(
            f"has {len(stored)} images that EXIF orientation turns ({few(stored)}), of which "
            "the JSON states the size before turning; they are trained on as stored, while "
            "prediction turns them",
            split.images_dir,
            "remove the tag from the files (exiftool -Orientation= FILE), or annotate the turned "
            "images",
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
        if is_crowd(annotation) or not box_apart(annotation["bbox"], (x, y, w, h)):
            continue
        turned += not box_apart(annotation["bbox"], (y, x, h, w))
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


def box_apart(box: Sequence[float], mask: Sequence[float]) -> bool:
    """Whether two boxes [x, y, width, height] differ by more than BOX_SLACK."""
    bx, by, bw, bh = box
    x, y, w, h = mask
    slack = max(BOX_SLACK[0], BOX_SLACK[1] * max(bw, bh))
    return max(abs(bx - x), abs(by - y), abs(bx + bw - x - w), abs(by + bh - y - h)) > slack
