"""Writes the stand-in of the Cigarettes set: every image, and one JSON a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.cigarettes.scene import render
from data.generated import SPLITS, GeneratedSet, write_generated, write_jpeg

CATEGORY = {"id": 1, "name": "cig_butt", "supercategory": "litter"}
_SMALLEST_SIZE = 96
NEAREST = 4  # largest zoom


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
    _check_arguments(size, seed, max_instances)
    if not 1 <= zoom <= NEAREST:
        raise ValueError(f"zoom={zoom}: use a number from 1 to {NEAREST}")
    if not 0 <= clutter <= 1:
        raise ValueError(f"clutter={clutter}: use a number from 0 to 1")
    paint = partial(
        _write_image, size=size, seed=seed, max_instances=max_instances, zoom=zoom, clutter=clutter
    )
    about = GeneratedSet(
        f"Synthetic stand-in of the Cigarettes set, {{split}}, seed {seed}", [CATEGORY], size
    )
    counts = dict(zip(SPLITS, (train, val), strict=True))
    return write_generated(Path(out_dir), counts, paint, about, workers=workers, progress=progress)


def _check_arguments(size: int, seed: int, max_instances: int) -> None:
    if size < _SMALLEST_SIZE:
        raise ValueError(f"size={size} is too small to show a butt: use at least {_SMALLEST_SIZE}")
    if seed < 0:
        raise ValueError(f"seed={seed}: use a seed of 0 or more")
    if max_instances < 1:
        raise ValueError(f"max_instances={max_instances}: use 1 or more")


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
    write_jpeg(images_dir / name, scene.image, scene.jpeg_quality)
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
