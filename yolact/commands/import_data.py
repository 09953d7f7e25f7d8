"""Make COCO files and a config from what an annotation tool wrote, and check them.

    yolact import FOLDER_or_FILE --out DIR

Takes COCO JSON (Roboflow, CVAT, Label Studio, VIA, datumaro), YOLO segmentation, labelme, images
with masks, Pascal VOC with masks, and instance PNGs as Cityscapes has them; a folder, a zip, or the
annotation file. It looks which of them it is.

DIR gets config.yaml, annotations/train.json and annotations/val.json. Images stay where they are,
unless they come from a zip, or --copy is given. The split of the source is kept; where it has none,
images are drawn by lot, and near-duplicates stay on one side. Anchors are fitted to the boxes.
Training starts from the weights that ship, where the network of --base is theirs.

Exit code 0 (there may be warnings), 2 where the set cannot be read or the check finds an error.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from data.importing.masks import MEANINGS
from data.importing.records import Hints
from data.importing.run import READERS, import_set
from data.importing.write import Target
from data.resolve import RUN_CONFIG
from layers.problems import printable
from yolact.cli import Arguments, run
from yolact.commands import check_data

BASE = "yolact_plus_micro"


def _import(args: argparse.Namespace) -> int:
    names = tuple(name.strip() for name in args.names.split(",")) if args.names else ()
    lines = import_set(
        args.source,
        Target(args.out, args.base, args.copy, args.epochs),
        kind=args.format or "",
        hints=Hints(args.masks or "", names, args.drop_missing),
        val_share=args.val_share,
        seed=args.seed,
    )
    for line in lines:
        print(printable(line))
    config = args.out / RUN_CONFIG
    failed = check_data.program([str(config), *(["--fast"] if args.fast else [])])
    if failed:
        print(printable(f"next: mend what is an ERROR above, then yolact check {_word(config)}"))
        return 2
    print(printable(f"next: yolact train --config {_word(config)}"))
    return 0


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1000000")
    return number


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the annotated folder, zip or file")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the set")
    parser.add_argument("--format", choices=READERS, help="where a folder holds several")
    parser.add_argument(
        "--base", default=BASE, help=f"config that the new one starts from (default {BASE})"
    )
    parser.add_argument(
        "--epochs", type=_count, default=0, help="length of training (default: by the set's size)"
    )
    parser.add_argument(
        "--val_share", type=float, default=0.2, help="share for validation (default 0.2)"
    )
    parser.add_argument("--seed", type=_count, default=0, help="seed of the split (default 0)")
    parser.add_argument(
        "--masks",
        choices=MEANINGS,
        help="what a value of a mask is: the one class, an instance, or a class",
    )
    parser.add_argument("--names", metavar="A,B", help="names of the classes, by number")
    parser.add_argument("--copy", action="store_true", help="copy the images to DIR/images")
    parser.add_argument(
        "--drop_missing", action="store_true", help="leave out labels whose image is not there"
    )
    parser.add_argument(
        "--fast", action="store_true", help="check annotation files and folder listings only"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_import, parser.parse_args(argv))
