"""Make the synthetic stand-in of the Cigarettes set, data/cig_butts_standin.

    python scripts/make_cigarettes.py [OUT] [--train=N] [--val=N] [--size=S] [--seed=N]

Writes OUT/{train,val}/images/*.jpg and OUT/{train,val}/coco_annotations.json: cigarette butts on
the ground, with masks, in the layout of the Cigarettes set.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.cigarettes.generate import generate
from yolact.generator_flags import generator_flags, make_set


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    flags = generator_flags(
        __doc__,
        out="data/cig_butts_standin",
        train=2000,
        val=200,
        size=512,
        why=", which the small configs read",
    )
    flags.add_argument(
        "--max_instances", type=int, default=1, help="most butts in an image (default 1)"
    )
    flags.add_argument(
        "--zoom",
        type=float,
        default=1.0,
        help="how much nearer the camera is than in the real set, of small butts (default 1)",
    )
    flags.add_argument(
        "--clutter",
        type=float,
        default=1.0,
        help="how many sticks, stones and leaves lie about, from 0 to the usual 1",
    )
    return make_set(flags, argv, generate, ("max_instances", "zoom", "clutter"))
