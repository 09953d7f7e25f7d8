"""The mask losses by name. Importing this module registers every built-in one.

A loss of one's own is one function with a decorator, see decorators.py; everything that it needs
can be imported from here.
"""

from __future__ import annotations

from layers.losses.decorators import (
    MASK_LOSSES,
    RESERVED,
    SOFT_LEGEND,
    WORDS,
    Kind,
    LossInfo,
    Soft,
    pixel_loss,
    region_loss,
)
from layers.losses.terms import boundary, lovasz, pixel, region, soft, survey  # noqa: F401  register
from layers.records import Bound, Param, ParameterError

__all__ = [
    "MASK_LOSSES",
    "RESERVED",
    "SOFT_LEGEND",
    "WORDS",
    "Bound",
    "Kind",
    "LossInfo",
    "Param",
    "ParameterError",
    "Soft",
    "get",
    "names",
    "pixel_loss",
    "region_loss",
]


def names(kind: Kind | None = None) -> list[str]:
    """Sorted names of the registered mask losses, of one kind if given."""
    return MASK_LOSSES.names(kind)


def get(name: str) -> LossInfo:
    """The record of a mask loss; ValueError names the nearest ones."""
    return MASK_LOSSES.get(name)
