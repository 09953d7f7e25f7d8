"""Comparisons with numbers that the published implementations produced, written once and run on any copy of them.

Each module has `cases(root)`, where root is laid out like tests/reference/yolact. tests/test_reference.py runs every case on the
reduced copy kept here; scripts/check_reference.py runs them on a full copy. A case whose file or array is absent is not listed.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable


@dataclass(frozen=True)
class Case:
    """One comparison. run() returns the worst error; for exact comparisons, the number of mismatches (tolerance 0)."""

    name: str
    run: Callable[[], float]
    tolerance: float


def all_cases(root: Path) -> list[Case]:
    """Every case of every module in this package that `root` holds the numbers for."""
    found = []
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        found += importlib.import_module(f"{__name__}.{module}").cases(Path(root))
    return found
