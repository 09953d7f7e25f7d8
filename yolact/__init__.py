"""YOLACT and YOLACT++: model, criterion, training, evaluation, and studies of losses.

Importing this package loads no torch; its names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolact.build import build_model
    from yolact.checkpoint import load_weights

__version__ = "0.1.0"

__all__ = ["build_model", "load_weights"]

_HOMES = {"build_model": "yolact.build", "load_weights": "yolact.checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
