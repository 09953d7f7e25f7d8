"""The console command: `yolact NAME ...`, or `python -m yolact NAME ...`, runs a program of
yolact/commands. Imports no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from layers.names import unknown_name
from yolact import __version__
from yolact.commands import COMMANDS


def overview() -> str:
    """The text of `yolact --help`: every command in one line."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: yolact COMMAND ...",
            "",
            "Real-time instance segmentation with YOLACT and YOLACT++, "
            "and the study of its losses.",
            "",
            *(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()),
            "",
            "yolact COMMAND --help says what a command takes; yolact --version says which this is.",
        ]
    )


def console(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names on the words behind it; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    if name in ("--help", "-h"):
        print(overview())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        problem = unknown_name("command", name, COMMANDS)
        print(f"error: {problem} (yolact --help lists them)", file=sys.stderr)
        return 2
    program = importlib.import_module(f"yolact.commands.{COMMANDS[name][0]}").program
    called, sys.argv = sys.argv, [f"yolact {name}", *words[1:]]
    try:
        return program()
    finally:
        sys.argv = called


if __name__ == "__main__":
    sys.exit(console())
