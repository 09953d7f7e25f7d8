"""Anchor assigners: which ground truth, if any, each anchor learns from. Importing this module
registers every built-in one.

An assigner is named in configs as an expression, `max_iou(positive=0.6)`. One of your own is
a class with a decorator, see layers/assigners/base.py.
"""

from __future__ import annotations

from layers.assigners.atss import ATSS
from layers.assigners.base import (
    ASSIGNERS,
    BACKGROUND,
    IGNORED,
    Assigner,
    Assignment,
    register_assigner,
)
from layers.assigners.mask_iou import gma_iou
from layers.assigners.max_iou import MaxIoU
from layers.losses.expr import Call
from layers.records import Chosen, Record

__all__ = [
    "ASSIGNERS",
    "ATSS",
    "BACKGROUND",
    "IGNORED",
    "Assigner",
    "Assignment",
    "MaxIoU",
    "assigner_names",
    "build_assigner",
    "gma_iou",
    "register_assigner",
]


def assigner_names() -> list[str]:
    """Sorted names of the registered assigners."""
    return ASSIGNERS.names()


def build_assigner(expression: str | Call | Chosen[Record]) -> Assigner:
    """The assigner that an expression such as `max_iou(positive=0.6)` describes; parsed and checked
    ones are not read again.

    ValueError names the mistake and the nearest valid name: syntax, unknown assigner or parameter,
    wrong type, value out of bounds, values that do not go together.
    """
    chosen = ASSIGNERS.read(expression)
    try:
        assigner = chosen()
    except ValueError as error:
        raise ValueError(f"assigner {chosen.record.name!r}: {error}") from None
    assigner.expression = chosen.expression
    return assigner
