"""What the programs that make a set of pictures share: flags, and what they say at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from data.cigarettes.contact_sheet import contact_sheet
from yolact.cli import Arguments, run, say

COMMON = ("train", "val", "size", "seed", "workers")


def generator_flags(
    description: str | None, *, out: str, train: int, val: int, size: int, why: str = ""
) -> Arguments:
    """The flags of COMMON, OUT and --contact_sheet, with these defaults. why: of OUT's default."""
    parser = Arguments(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        nargs="?",
        default=Path(out),
        help=f"output folder; new or empty (default {out}{why})",
    )
    for name, default, what in (
        ("train", train, "training images"),
        ("val", val, "validation images"),
        ("size", size, "image side in pixels; the objects scale with it"),
        ("seed", 0, "same seed, same files"),
    ):
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
    return parser


def make_set(
    parser: Arguments,
    argv: Sequence[str] | None,
    generate: Callable[..., Path],
    own: Sequence[str] = (),
) -> int:
    """Calls generate(OUT, flag=value, ...) with the flags of COMMON and those of its `own`; the
    exit code of the program."""
    args = parser.parse_args(argv)
    if args.contact_sheet and not args.contact_sheet[0].isdigit():
        parser.error(f"--contact_sheet N FILE: N={args.contact_sheet[0]} is not a number")

    def make(args: argparse.Namespace) -> int:
        out = generate(args.out, **{name: getattr(args, name) for name in (*COMMON, *own)})
        say(f"wrote {args.train} training and {args.val} validation images to {out}")
        if args.contact_sheet:
            count, file = args.contact_sheet
            split = "train" if args.train else "val"
            say(f"wrote {contact_sheet(out, file, count=int(count), split=split)}")
        return 0

    return run(make, args)
