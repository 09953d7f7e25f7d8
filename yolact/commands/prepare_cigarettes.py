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
from collections.abc import Sequence
from pathlib import Path

from data.prepare.cigarettes import prepare_cigarettes
from yolact.cli import Arguments, run


def _prepare(args: argparse.Namespace) -> int:
    for line in prepare_cigarettes(args.root, args.archive):
        print(line)
    print("complete; python scripts/check_data.py cigarettes looks into every image")
    return 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return run(_prepare, parser.parse_args(argv))
