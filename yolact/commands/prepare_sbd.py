"""Put Pascal SBD, in COCO format, where the config "yolact_resnet50_pascal" looks for it, and
verify it.

Images: http://home.bharathh.info/pubs/codes/SBD/download.html (benchmark.tgz, 1.4 GB; its
dataset/img folder). Annotations: the set's own are MATLAB files. YOLACT's authors published them in
COCO format as pascal_sbd_train.json and pascal_sbd_val.json: see "Pascal SBD" in the README of
https://github.com/dbolya/yolact. Then

    python scripts/prepare_sbd.py --images benchmark.tgz --annotations FOLDER_OR_ARCHIVE

moves and unpacks into data/sbd, and verifies. Without arguments it verifies data/sbd.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from data.doctor.archives import image_files, unpack, verify_split
from yolact.cli import run

FILES = ("pascal_sbd_train.json", "pascal_sbd_val.json")


def main(args: argparse.Namespace) -> int:
    if args.annotations:
        _fetch_annotations(args.annotations, args.root)
    if args.images:
        _fetch_images(args.images, args.root / "img")
    missing = [name for name in FILES if not (args.root / name).is_file()]
    if missing:
        raise ValueError(
            f"{args.root} lacks {', '.join(missing)}: SBD's own MATLAB annotations are not read; "
            "get the COCO-format files (--help says where) and give their folder or archive as "
            "--annotations"
        )
    for name in FILES:
        print(verify_split(args.root / "img", args.root / name))
    print("complete; python scripts/check_data.py pascal_sbd looks into every image")
    return 0


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


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        help="benchmark.tgz, or a folder with the images; without it, only verify",
    )
    parser.add_argument(
        "--annotations", type=Path, help="folder or archive with the two JSON files"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("data/sbd"), help="where the set goes (default data/sbd)"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(main, parser.parse_args())
