"""Locks of open files, by whatever the platform has. Imports no torch.

POSIX has flock and fcntl, which the kernel frees when their holder is gone, kill -9 or not. Windows
has neither: there the package filelock, which torch brings along, locks a file beside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from filelock import FileLock

HELD = ".held"  # suffix of the file beside, where there is no fcntl
_held: dict[int, FileLock] = {}  # by the descriptor that stands for it


def lock(
    descriptor: int,
    path: Path,
    *,
    shared: bool = False,
    of_process: bool = False,
    wait: bool = False,
) -> bool:
    """Locks an open file; let_go() ends that. False where another process holds it.

    shared       beside other shared ones; without fcntl, others are kept out for a moment
    of_process   fcntl(2): children do not inherit the lock, which ends with this process.
                 Otherwise flock(2): whoever inherits the descriptor holds it too
    wait         until it is free

    OSError on a file system without locks.
    """
    if fcntl is None:
        return _lock_beside(descriptor, path, wait)
    call = fcntl.lockf if of_process else fcntl.flock
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        call(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    return True


def let_go(descriptor: int) -> None:
    """Closes the file, which gives up this process' share of its lock."""
    os.close(descriptor)
    if descriptor in _held:
        _held.pop(descriptor).release()


def _lock_beside(descriptor: int, path: Path, wait: bool) -> bool:
    from filelock import FileLock, Timeout

    beside = FileLock(f"{path}{HELD}", thread_local=False)
    try:
        beside.acquire(timeout=-1 if wait else 0)
    except Timeout:
        return False
    _held[descriptor] = beside
    return True
