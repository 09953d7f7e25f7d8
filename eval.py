"""A door: yolact/commands/eval is the program."""

import sys

from yolact.commands.eval import program

if __name__ == "__main__":
    sys.exit(program())
