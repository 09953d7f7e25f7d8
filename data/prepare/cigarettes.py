"""The Cigarette-butts set of Immersive Limit: 2,000 training and 200 validation images."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from data.prepare.archives import unpack, verify_split

ANNOTATIONS = "coco_annotations.json"
SPLITS = ("train", "val")


def prepare_cigarettes(root: Path, archive: Path | None = None) -> list[str]:
    """Unpacks cig_butts.zip into `root` (None: it is there), and verifies it.

    Returns a line a split. ValueError where a file is missing or damaged, or where `root` already
    holds a split that the archive would replace.
    """
    if archive is not None:
        _place(archive, root)
    return [verify_split(root / split / "images", root / split / ANNOTATIONS) for split in SPLITS]


def _place(archive: Path, root: Path) -> None:
    """Unpacks beside root, finds the folder that holds train/ and val/ (the archive wraps it in
    cig_butts/), and moves the two."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [root / split for split in SPLITS if (root / split).exists()]
    if taken:
        raise ValueError(
            f"{taken[0]} is already there: remove it first, or leave --archive out to verify it"
        )
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        unpack(archive, scratch)
        found = next(
            (file.parents[1] for file in sorted(Path(scratch).rglob(f"train/{ANNOTATIONS}"))), None
        )
        if found is None or not (found / "val" / ANNOTATIONS).is_file():
            raise ValueError(
                f"{archive} has no train/{ANNOTATIONS} and val/{ANNOTATIONS} side by side: is it "
                "cig_butts.zip?"
            )
        for split in SPLITS:
            shutil.move(found / split, root / split)
