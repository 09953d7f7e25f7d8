"""Writes the set of generated things: every image, and one JSON a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.generated import SPLITS, GeneratedSet, write_generated, write_jpeg
from data.shapes.scene import CLASS_NAMES, render_shapes

_SMALLEST_SIZE = 96


def generate_shapes(
    out_dir: str | Path,
    *,
    train: int = 3000,
    val: int = 200,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the set to out_dir, in the Cigarettes layout, and returns that folder.

    size is the side of the square images in pixels; the things scale with it. The files depend on
    seed and size only, and image i not on the number of images.

    Raises ValueError for senseless arguments and for an out_dir with other content, OSError where
    it cannot be written.
    """
    if size < _SMALLEST_SIZE:
        raise ValueError(f"size={size} is too small for the smallest things: use {_SMALLEST_SIZE}")
    if seed < 0:
        raise ValueError(f"seed={seed}: use a seed of 0 or more")
    categories = [
        {"id": number, "name": name, "supercategory": "thing"}
        for number, name in enumerate(CLASS_NAMES, 1)
    ]
    about = GeneratedSet(f"Generated things, {{split}}, seed {seed}", categories, size)
    paint = partial(_write_picture, size=size, seed=seed)
    counts = dict(zip(SPLITS, (train, val), strict=True))
    return write_generated(Path(out_dir), counts, paint, about, workers=workers, progress=progress)


def _write_picture(
    index: int, *, images_dir: Path, split: str, size: int, seed: int
) -> tuple[dict, list[dict]]:
    """Renders and writes one image; its JSON record and those of its objects."""
    picture = render_shapes(seed, split, index, size=size)
    name = f"{index:08d}.jpg"
    write_jpeg(images_dir / name, picture.image, picture.jpeg_quality)
    record = {
        "license": 0,
        "file_name": name,
        "width": size,
        "height": size,
        "id": index,
        "view": picture.view,
    }
    return record, list(picture.annotations)
