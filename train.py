"""A door: yolact/commands/train.py is the program."""

import sys

from yolact.commands.train import program

if __name__ == "__main__":
    sys.exit(program())
