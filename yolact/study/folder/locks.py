"""The lock that lets one process train a run.

It is flock(2) on <root>/.locks/<hash>.lock, one for each resolved config. The process that trains
inherits it, so it holds while the training lives, whoever started it and however that one ended.
The kernel frees it when the last holder is gone, kill -9 or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.locking import let_go
from data.resolve import config_hash
from yolact.locking import lock_now
from yolact.study.arms import PlannedRun, identity
from yolact.study.folder.layout import LOCKS


def claim(root: Path, run: PlannedRun) -> int | None:
    """A file descriptor that holds the run's lock, to be passed to whoever trains it; None where
    another process holds it."""
    path = lock_file(root, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if not lock_now(descriptor, path):
        let_go(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Gives up this process' share of a lock; a training that inherited it keeps it."""
    let_go(descriptor)


@contextmanager
def claimed(root: Path, run: PlannedRun) -> Iterator[int | None]:
    descriptor = claim(root, run)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            release(descriptor)


def is_held(root: Path, run: PlannedRun) -> bool:
    """Whether some process trains the run now."""
    path = lock_file(root, run)
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # shared: two that look at the same time do not see each other
        return not lock_now(descriptor, path, shared=True)
    finally:
        let_go(descriptor)


def lock_file(root: Path, run: PlannedRun) -> Path:
    return root / LOCKS / f"{config_hash(identity(run.config))}.lock"
