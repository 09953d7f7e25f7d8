"""Put the Cigarette-butts set where the config "cigarettes" looks for it, and verify it.

The set (2,000 training and 200 validation images, 512 x 512) is by Immersive Limit:
https://www.immersivelimit.com/datasets/cigarette-butts Download cig_butts.zip there, and run

    python scripts/prepare_cigarettes.py --archive cig_butts.zip     unpacks into data/cig_butts,
        then verifies
    python scripts/prepare_cigarettes.py                             verifies data/cig_butts

No download at hand: python scripts/make_cigarettes.py makes a stand-in with the same layout and
statistics.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from data.doctor.archives import unpack, verify_split
from yolact.cli import run

ANNOTATIONS = "coco_annotations.json"


def main(args: argparse.Namespace) -> int:
    if args.archive:
        _place(args.archive, args.root)
    for split in ("train", "val"):
        print(verify_split(args.root / split / "images", args.root / split / ANNOTATIONS))
    print("complete; python scripts/check_data.py cigarettes looks into every image")
    return 0


def _place(archive: Path, root: Path) -> None:
    """Unpacks beside root, finds the folder that holds train/ and val/ (the archive wraps it in
    cig_butts/), and moves the two."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [root / split for split in ("train", "val") if (root / split).exists()]
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
        for split in ("train", "val"):
            shutil.move(found / split, root / split)


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, help="the downloaded cig_butts.zip; without it, only verify"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data/cig_butts"),
        help="where the set goes (default data/cig_butts)",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(main, parser.parse_args())
