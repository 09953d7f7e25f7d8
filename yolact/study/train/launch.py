"""How a program of this package is started in a process of its own: python -m yolact COMMAND.

That works from an installed wheel and from a checkout, in any working directory.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from data.cores import usable_cores

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


def threads_of(jobs: int) -> int | None:
    """Threads of each of some trainings that share this CPU; None = torch's choice for one
    alone."""
    return max(1, usable_cores() // jobs) if jobs > 1 else None


def environment_of_run(threads: int | None = None) -> dict[str, str]:
    """The variables of a process of this package. Threads of the one who starts it, where
    OMP_NUM_THREADS is set, count more than `threads`."""
    found = dict(os.environ)
    if path := python_path():
        found["PYTHONPATH"] = path
    if threads:
        found.setdefault("OMP_NUM_THREADS", str(threads))
    return found


def pasteable(command: list[str]) -> list[str]:
    """The command as one that another shell understands too: with its PYTHONPATH where it needs
    one."""
    path = python_path()
    return ["env", f"PYTHONPATH={path}", *command] if path else command
