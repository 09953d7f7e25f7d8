"""Draw a run's losses, learning rate and validation AP from its metrics.jsonl.

    python scripts/plot_run.py runs/NAME/1 [more runs ...] [--out curves.png]

One run: every loss term, and AP. Several runs: their total losses and mask AP over each other.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from yolact import cli


def _parser() -> argparse.ArgumentParser:
    parser = cli.Arguments(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--out", type=Path, help="picture to write; default: curves.png in the (first) run's folder"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def _main(arguments: Namespace) -> None:
    from yolact.analysis.curves import draw_curves

    cli.say(draw_curves(arguments.runs, arguments.out or arguments.runs[0] / "curves.png"))


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(_main, _parser().parse_args(argv))
