"""COCO 2017: annotations under CC BY 4.0; the images belong to their Flickr authors."""

from __future__ import annotations

from pathlib import Path

from data.prepare.archives import unpack, verify_split

ARCHIVES = ("annotations_trainval2017.zip", "val2017.zip", "train2017.zip")
PUBLISHED = {"train": (118_287, 860_001), "val": (5_000, 36_781)}  # images, instances


def prepare_coco(root: Path, archives: Path | None = None, *, any_size: bool = False) -> list[str]:
    """Unpacks the three archives of a folder into `root` (None: they are there), and verifies it.

    any_size: do not compare counts with the published ones. Returns a line a split. ValueError
    where a file is missing, damaged or not the published one.
    """
    if archives is not None:
        for name in ARCHIVES:
            unpack(archives / name, root)
    return [
        verify_split(
            root / f"{split}2017",
            root / "annotations" / f"instances_{split}2017.json",
            expected_images=0 if any_size else images,
            expected_instances=0 if any_size else instances,
        )
        for split, (images, instances) in PUBLISHED.items()
    ]
