"""Pascal SBD, with the COCO-format annotations that YOLACT's authors published."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from data.prepare.archives import image_files, unpack, verify_split

FILES = ("pascal_sbd_train.json", "pascal_sbd_val.json")


def prepare_sbd(
    root: Path, images: Path | None = None, annotations: Path | None = None
) -> list[str]:
    """Copies or unpacks the images and FILES into `root` (None: they are there), and verifies it.

    images: benchmark.tgz, or a folder with the images. annotations: the folder or archive with
    FILES. Returns a line a split. ValueError where a file is missing or damaged.
    """
    if annotations is not None:
        _fetch_annotations(annotations, root)
    if images is not None:
        _fetch_images(images, root / "img")
    missing = [name for name in FILES if not (root / name).is_file()]
    if missing:
        raise ValueError(
            f"{root} lacks {', '.join(missing)}: SBD's own MATLAB annotations are not read; get "
            "the COCO-format files (--help says where) and give their folder or archive as "
            "--annotations"
        )
    return [verify_split(root / "img", root / name) for name in FILES]


def _fetch_annotations(source: Path, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        _take(source, root)
        return
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        unpack(source, scratch)
        _take(Path(scratch), root)


def _take(folder: Path, root: Path) -> None:
    for name in FILES:
        found = next(iter(sorted(folder.rglob(name))), None)
        if found is None:
            raise ValueError(
                f"{folder} holds no {name}: give the folder or archive with {' and '.join(FILES)}"
            )
        shutil.copyfile(found, root / name)


def _fetch_images(source: Path, target: Path) -> None:
    """Copies or unpacks the folder named img into target."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = source
        if not source.is_dir():
            unpack(source, scratch)
            folder = Path(scratch)
        images = next(
            (
                f
                for f in [folder, *sorted(folder.rglob("img"))]
                if f.is_dir() and any(image_files(f))
            ),
            None,
        )
        if images is None:
            raise ValueError(
                f"{source} has no folder img with images: give SBD's benchmark.tgz, or its "
                "dataset/img folder"
            )
        for path in image_files(images):
            shutil.copyfile(path, target / path.name)
