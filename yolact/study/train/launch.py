"""How a program of this package is started in a process of its own: python -m yolact COMMAND.

That works from an installed wheel and from a checkout, in any working directory.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[3]  # the folder that yolact/ is in


def yolact_command(*words: str) -> list[str]:
    """The command line of `yolact WORDS`."""
    return [sys.executable, "-m", "yolact", *words]


def python_path() -> str:
    """What PYTHONPATH must be for the same package to be found; empty where it is installed."""
    if str(PACKAGE) in (*site.getsitepackages(), site.getusersitepackages()):
        return ""
    before = os.environ.get("PYTHONPATH", "")
    words = before.split(os.pathsep) if before else []
    return os.pathsep.join([str(PACKAGE), *(word for word in words if word != str(PACKAGE))])


def pasteable(command: list[str]) -> list[str]:
    """The command as one that another shell understands too: with its PYTHONPATH where it needs
    one."""
    path = python_path()
    return ["env", f"PYTHONPATH={path}", *command] if path else command
