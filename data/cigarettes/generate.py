"""Writes the stand-in of the Cigarettes set: every image, and one JSON a split."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from data.cigarettes.scene import SPLITS, render

CATEGORY = {"id": 1, "name": "cig_butt", "supercategory": "litter"}
IMAGES_FOLDER = "images"
ANNOTATION_FILE = "coco_annotations.json"
# work in progress, inside the output folder so that the final step is a rename on one file system
PARTIAL = ".partial"
_SMALLEST_SIZE = 96
NEAREST = 4  # largest zoom
_BYTES_PER_PIXEL = 0.8  # of the JPEGs, generous; for the message about a full disk


def generate(
    out_dir: str | Path,
    *,
    train: int = 2000,
    val: int = 200,
    size: int = 512,
    seed: int = 0,
    max_instances: int = 1,
    zoom: float = 1.0,
    clutter: float = 1.0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the stand-in to out_dir and returns that folder; a split of 0 images is left out.

    size is the side of the square images in pixels (the objects scale with it), max_instances the
    most butts in an image (their number is uniform from 1), zoom how much nearer the camera is than
    in the real set, clutter how many sticks, stones and leaves lie about, as a share of the usual
    number. The files depend on seed, size, max_instances, zoom and clutter only: not on workers
    (None = one per available CPU), and image i not on the number of images. out_dir appears
    complete or, after an error, not at all.

    Raises ValueError for senseless arguments and for an out_dir with other content, OSError where
    it cannot be written.
    """
    out_dir, counts = Path(out_dir), dict(zip(SPLITS, (train, val), strict=True))
    _check_arguments(counts, size, seed, max_instances, workers)
    if not 1 <= zoom <= NEAREST:
        raise ValueError(f"zoom={zoom}: use a number from 1 to {NEAREST}")
    if not 0 <= clutter <= 1:
        raise ValueError(f"clutter={clutter}: use a number from 0 to 1")
    paint = partial(
        _write_image, size=size, seed=seed, max_instances=max_instances, zoom=zoom, clutter=clutter
    )
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
                paint,
                seed,
                _worker_count(workers),
                progress,
            )
        for split in reversed(SPLITS):  # train last: where it is there, all is there
            if counts[split]:
                (work / split).rename(out_dir / split)
    except OSError as error:
        _clean_up(out_dir, existed)
        raise _explain(error, out_dir, counts, size) from error
    except BaseException:
        _clean_up(out_dir, existed)
        raise
    shutil.rmtree(work)
    return out_dir


def _check_arguments(
    counts: dict[str, int], size: int, seed: int, max_instances: int, workers: int | None
) -> None:
    if min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise ValueError(
            f"train={counts['train']} and val={counts['val']}: give counts of 0 or more, at least "
            "one of them above 0"
        )
    if size < _SMALLEST_SIZE:
        raise ValueError(f"size={size} is too small to show a butt: use at least {_SMALLEST_SIZE}")
    if seed < 0:
        raise ValueError(f"seed={seed}: use a seed of 0 or more")
    if max_instances < 1:
        raise ValueError(f"max_instances={max_instances}: use 1 or more")
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
        f"cannot write the stand-in ({error.strerror}): choose a folder you may write to",
        str(out_dir),
    )


def _worker_count(workers: int | None) -> int:
    if workers is not None:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_split(
    folder: Path,
    split: str,
    count: int,
    write_image: Callable[..., tuple[dict, list[dict]]],
    seed: int,
    workers: int,
    progress: bool,
) -> None:
    images_dir = folder / IMAGES_FOLDER
    images_dir.mkdir(parents=True)
    make = partial(write_image, images_dir=images_dir, split=split)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    made = _in_order(make, count, min(workers, count))
    for image, objects in tqdm(made, total=count, desc=split, unit="img", disable=not progress):
        images.append(image)
        for fields in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": CATEGORY["id"],
                    **fields,
                }
            )
    info = {
        "description": f"Synthetic stand-in of the Cigarettes set, {split}, seed {seed}",
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
        "categories": [CATEGORY],
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
            "fewer workers (scripts/make_cigarettes.py --workers=1); nothing was kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write_image(
    index: int,
    *,
    images_dir: Path,
    split: str,
    size: int,
    seed: int,
    max_instances: int,
    zoom: float,
    clutter: float,
) -> tuple[dict, list[dict]]:
    """Renders and writes one image; returns its JSON record and those of its objects, without ids
    that need the others."""
    scene = render(
        seed, split, index, size=size, max_instances=max_instances, zoom=zoom, clutter=clutter
    )
    name = f"{index:08d}.jpg"
    ok, data = cv2.imencode(
        ".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg_quality]
    )
    assert ok, "OpenCV was built without a JPEG encoder"
    (images_dir / name).write_bytes(data.tobytes())
    image = {
        "license": 0,
        "file_name": name,
        "width": size,
        "height": size,
        "id": index,
        "ground": scene.ground,
    }
    objects = [
        {**fields, "attributes": {"filter": look.filter, "end": look.end}}
        for fields, look in zip(scene.annotations, scene.looks, strict=True)
    ]
    return image, objects
