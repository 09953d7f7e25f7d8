"""Makes the synthetic stand-in of the Cigarettes set, data/cig_butts_standin: python
scripts/make_cigarettes.py"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.cigarettes.generate import contact_sheet, generate


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Writes OUT/{train,val}/images/*.jpg and "
        "OUT/{train,val}/coco_annotations.json: synthetic cigarette butts on the "
        "ground, with masks, in the layout of the Cigarettes set."
    )
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
        "--workers", type=int, default=None, help="processes (default: one per CPU)"
    )
    parser.add_argument(
        "--contact_sheet",
        nargs=2,
        metavar=("N", "FILE"),
        help="also write the first N images of a split as one picture",
    )
    args = parser.parse_args(argv)
    if args.contact_sheet and not args.contact_sheet[0].isdigit():
        parser.error(f"--contact_sheet N FILE: N={args.contact_sheet[0]} is not a number")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        out = generate(
            args.out,
            train=args.train,
            val=args.val,
            size=args.size,
            seed=args.seed,
            max_instances=args.max_instances,
            workers=args.workers,
        )
        print(f"wrote {args.train} training and {args.val} validation images to {out}")
        if args.contact_sheet:
            count, file = args.contact_sheet
            split = "train" if args.train else "val"
            print(f"wrote {contact_sheet(out, file, count=int(count), split=split)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was kept", file=sys.stderr)
        return 130
    return 0


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    return main()
