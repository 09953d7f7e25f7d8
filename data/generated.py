"""Writes a set of generated pictures in the Cigarettes layout: every image, and one JSON a split.

ROOT/{train,val}/images/00000000.jpg ...    ROOT/{train,val}/coco_annotations.json
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from data.cores import usable_cores

IMAGES_FOLDER = "images"
ANNOTATION_FILE = "coco_annotations.json"
# work in progress, inside the output folder so that the final step is a rename on one file system
PARTIAL = ".partial"
SPLITS = ("train", "val")
_BYTES_PER_PIXEL = 0.8  # of the JPEGs, generous; for the message about a full disk

# (index, images_dir=, split=) -> the image's JSON record, and those of its objects without ids that
# need the others; may run in another process
WriteImage = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]


@dataclass(frozen=True)
class GeneratedSet:
    """What the JSON says of a set beside its images. Objects without category_id are of the first
    category."""

    description: str
    categories: Sequence[dict[str, Any]]
    size: int  # side of the images in pixels


def write_generated(
    out_dir: Path,
    counts: dict[str, int],
    write_image: WriteImage,
    about: GeneratedSet,
    *,
    workers: int | None,
    progress: bool,
) -> Path:
    """Writes the splits of `counts` to out_dir and returns that folder; a split of 0 is left out.

    The files do not depend on workers (None = one per available CPU). out_dir appears complete or,
    after an error, not at all.

    Raises ValueError for senseless counts and for an out_dir with other content, OSError where it
    cannot be written.
    """
    _check_counts(counts, workers)
    existed = _check_folder(out_dir)
    work = out_dir / PARTIAL
    try:
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
        work.mkdir(parents=True)
        for split in (s for s in SPLITS if counts[s]):
            _write_split(
                work / split,
                split,
                counts[split],
                write_image,
                about,
                _worker_count(workers),
                progress,
            )
        for split in reversed(SPLITS):  # train last: where it is there, all is there
            if counts[split]:
                (work / split).rename(out_dir / split)
    except OSError as error:
        _clean_up(out_dir, existed)
        raise _explain(error, out_dir, counts, about.size) from error
    except BaseException:
        _clean_up(out_dir, existed)
        raise
    shutil.rmtree(work)
    return out_dir


def write_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    """Writes an image (h,w,3) uint8 RGB."""
    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, "OpenCV was built without a JPEG encoder"
    path.write_bytes(data.tobytes())


def _check_counts(counts: dict[str, int], workers: int | None) -> None:
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(
            f"train={counts['train']} and val={counts['val']}: give counts of 0 or more, at least "
            "one of them above 0"
        )
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers}: use 0 or more (0 and 1 render in this process)")


def _check_folder(out_dir: Path) -> bool:
    """Whether out_dir exists; raises ValueError if it holds anything but what a killed run left."""
    if not out_dir.exists():
        return False
    if not out_dir.is_dir():
        raise ValueError(f"{out_dir} is a file: choose another output folder")
    other = sorted(p.name for p in out_dir.iterdir() if p.name != PARTIAL)
    if other:
        raise ValueError(
            f"{out_dir} already holds {', '.join(other[:3])}{' ...' if len(other) > 3 else ''}: "
            "nothing was written; delete the folder or choose another one"
        )
    return True


def _clean_up(out_dir: Path, existed: bool) -> None:
    """Removes what this run made. The folder itself goes only if this run made it."""
    shutil.rmtree(out_dir / PARTIAL, ignore_errors=True)
    for split in SPLITS:
        # _check_folder saw none, so these are this run's
        shutil.rmtree(out_dir / split, ignore_errors=True)
    if not existed and out_dir.is_dir():
        out_dir.rmdir()


def _explain(error: OSError, out_dir: Path, counts: dict[str, int], size: int) -> OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = sum(counts.values()) * size * size * _BYTES_PER_PIXEL / 2**20
        return OSError(
            error.errno,
            f"the disk is full: about {need:.0f} MB are needed; free some space or choose another "
            "folder; nothing was kept",
            str(out_dir),
        )
    return OSError(
        error.errno,
        f"cannot write the pictures ({error.strerror}): choose a folder you may write to",
        str(out_dir),
    )


def _worker_count(workers: int | None) -> int:
    return usable_cores() if workers is None else workers


def _write_split(
    folder: Path,
    split: str,
    count: int,
    write_image: WriteImage,
    about: GeneratedSet,
    workers: int,
    progress: bool,
) -> None:
    images_dir = folder / IMAGES_FOLDER
    images_dir.mkdir(parents=True)
    make = partial(write_image, images_dir=images_dir, split=split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    made = _in_order(make, count, min(workers, count))
    first = about.categories[0]["id"]
    for image, objects in tqdm(made, total=count, desc=split, unit="img", disable=not progress):
        images.append(image)
        for fields in objects:
            key = {"id": len(annotations), "image_id": image["id"], "category_id": first}
            annotations.append({**key, **fields})
    info = {
        "description": about.description.format(split=split),
        "version": "1.0",
        "year": 2020,
        "contributor": "generated",
        "url": "",
        "date_created": "01/01/2020",
    }
    licence = {"id": 0, "name": "Generated images, free to use", "url": ""}
    content = {
        "info": info,
        "licenses": [licence],
        "images": images,
        "annotations": annotations,
        "categories": list(about.categories),
    }
    (folder / ANNOTATION_FILE).write_text(json.dumps(content))


def _in_order(make, count: int, workers: int) -> Iterator[tuple[dict, list[dict]]]:
    """make(0), make(1), ... in order, in this process or in `workers` others."""
    if workers <= 1:
        yield from map(make, range(count))
        return
    # spawn: a fork would copy whatever threads and locks the caller (torch, OpenCV) holds
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=cv2.setNumThreads,
        initargs=(1,),
    )
    try:
        yield from pool.map(make, range(count), chunksize=max(1, min(8, count // (4 * workers))))
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that makes pictures died, most often for lack of memory: free some, or try "
            "fewer workers (--workers=1); nothing was kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
