"""A door: yolact/commands/analyse_assignment.py is the program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from yolact.commands.analyse_assignment import program  # noqa: E402  runs from any folder, installed or not

if __name__ == "__main__":
    sys.exit(program())
