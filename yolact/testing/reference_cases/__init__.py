"""Comparisons with numbers that the published implementations produced, written once and run on any
copy of them.

Each module has `cases(root)`, where root is laid out like tests/reference/yolact.
tests/test_reference.py runs every case on the reduced copy kept here; scripts/check_reference.py
runs them on a full copy. A case whose file or array is absent is not listed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One comparison. run() returns the worst error; for exact comparisons, the number of
    mismatches (tolerance 0)."""

    name: str
    run: Callable[[], float]
    tolerance: float


def all_cases(root: Path) -> list[Case]:
    """Every case of every module in this package that `root` holds the numbers for."""
    return [
        case
        for module in _modules()
        if hasattr(module, "cases")
        for case in module.cases(Path(root))
    ]


def not_offered() -> dict[str, str]:
    """Stored case -> why it is not compared: an option that this project does not have."""
    return {
        name: reason
        for module in _modules()
        for name, reason in getattr(module, "NOT_OFFERED", {}).items()
    }


def _modules():
    return [
        importlib.import_module(f"{__name__}.{m.name}")
        for m in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name)
    ]
