"""Make the generated set of many kinds of things, runs/shapes.

    yolact make-shapes [OUT] [--train=N] [--val=N] [--size=S] [--seed=N]

Writes OUT/{train,val}/images/*.jpg and OUT/{train,val}/coco_annotations.json: eight kinds of
outlines of many materials on many grounds, some of them partly hidden.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.cigarettes.contact_sheet import contact_sheet
from data.shapes.generate import generate_shapes
from yolact.cli import Arguments, run, say


def _make(args: argparse.Namespace) -> int:
    out = generate_shapes(
        args.out,
        train=args.train,
        val=args.val,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )
    say(f"wrote {args.train} training and {args.val} validation images to {out}")
    if args.contact_sheet:
        count, file = args.contact_sheet
        split = "train" if args.train else "val"
        say(f"wrote {contact_sheet(out, file, count=int(count), split=split)}")
    return 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        nargs="?",
        default=Path("runs/shapes"),
        help="output folder; new or empty (default runs/shapes)",
    )
    counts = {"train": (3000, "training images"), "val": (200, "validation images")}
    counts |= {"size": (256, "image side in pixels"), "seed": (0, "same seed, same files")}
    for name, (default, what) in counts.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default {default})"
        )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one per CPU)"
    )
    parser.add_argument(
        "--contact_sheet",
        nargs=2,
        metavar=("N", "FILE"),
        help="also write the first N images of a split as one picture",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    args = parser.parse_args(argv)
    if args.contact_sheet and not args.contact_sheet[0].isdigit():
        parser.error(f"--contact_sheet N FILE: N={args.contact_sheet[0]} is not a number")
    return run(_make, args)
