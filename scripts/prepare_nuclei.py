"""A door: yolact/commands/prepare_nuclei.py is the program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from yolact.commands.prepare_nuclei import program  # noqa: E402  runs from any folder, installed or not

if __name__ == "__main__":
    sys.exit(program())
