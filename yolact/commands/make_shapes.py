"""Make the generated set of many kinds of things, runs/shapes.

    yolact make-shapes [OUT] [--train=N] [--val=N] [--size=S] [--seed=N]

Writes OUT/{train,val}/images/*.jpg and OUT/{train,val}/coco_annotations.json: eight kinds of
outlines of many materials on many grounds, some of them partly hidden. The weights that
train.init_from=start begins from were trained on it, by configs/examples/start.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.shapes.generate import generate_shapes
from yolact.generator_flags import generator_flags, make_set


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    flags = generator_flags(__doc__, out="runs/shapes", train=3000, val=200, size=256)
    return make_set(flags, argv, generate_shapes)
