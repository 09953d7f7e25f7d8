"""Make the synthetic stand-in of the Cigarettes set, data/cig_butts_standin.

    python scripts/make_cigarettes.py [OUT] [--train=N] [--val=N] [--size=S] [--seed=N]

Writes OUT/{train,val}/images/*.jpg and OUT/{train,val}/coco_annotations.json: cigarette butts on
the ground, with masks, in the layout of the Cigarettes set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.cigarettes.contact_sheet import contact_sheet
from data.cigarettes.generate import generate
from yolact.cli import Arguments, run, say


def _make(args: argparse.Namespace) -> int:
    out = generate(
        args.out,
        train=args.train,
        val=args.val,
        size=args.size,
        seed=args.seed,
        max_instances=args.max_instances,
        zoom=args.zoom,
        clutter=args.clutter,
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
        default=Path("data/cig_butts_standin"),
        help="output folder; new or empty (default data/cig_butts_standin, which the small "
        "configs read)",
    )
    parser.add_argument("--train", type=int, default=2000, help="training images (default 2000)")
    parser.add_argument("--val", type=int, default=200, help="validation images (default 200)")
    parser.add_argument(
        "--size",
        type=int,
        default=512,
        help="image side in pixels; the objects scale with it (default 512)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files (default 0)")
    parser.add_argument(
        "--max_instances", type=int, default=1, help="most butts in an image (default 1)"
    )
    parser.add_argument(
        "--zoom",
        type=float,
        default=1.0,
        help="how much nearer the camera is than in the real set, of small butts (default 1)",
    )
    parser.add_argument(
        "--clutter",
        type=float,
        default=1.0,
        help="how many sticks, stones and leaves lie about, from 0 to the usual 1",
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
