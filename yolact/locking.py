"""Locks that keep processes from using one thing at a time twice. The kernel frees them when their
holder is gone, kill -9 or not. Imports no torch.

A share of a network may have no locks. Then nothing is held, and one line says so.
"""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

from data.locking import let_go, lock
from yolact.cli import say

# of a file system without locks; EINVAL and ENODEV are some FUSE systems'
WITHOUT_LOCKS = {
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENODEV,
}
LOCK_FILE = ".lock"
_told: set[Path] = set()


def lock_now(
    descriptor: int, path: Path, *, shared: bool = False, of_process: bool = False
) -> bool:
    """Locks an open file as data.locking.lock does, and does not wait. False where another process
    holds it. True also on a file system without locks, which one line on stderr tells."""
    try:
        return lock(descriptor, path, shared=shared, of_process=of_process)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _tell(path.parent, error)
    return True


def _tell(folder: Path, error: OSError) -> None:
    if folder not in _told:
        _told.add(folder)
        say(
            f"warning: the file system of {folder} has no locks ({error.strerror}): see to it "
            "yourself that no two processes train one run",
            error=True,
        )


class RunLock:
    """What a training holds while it writes to a run's folder. A with block lets go of it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def take(self, run: Path) -> None:
        """Holds the lock of a run's folder, in place of the one held before. ValueError where
        another process holds it."""
        path = run / LOCK_FILE
        self.release()
        try:
            run.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(
                f"cannot write into the run folder {run} ({error.strerror}): choose another with "
                "--save_folder, or free space there"
            ) from error
        if not lock_now(descriptor, path, of_process=True):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            let_go(descriptor)
            raise ValueError(
                f"{run} is being trained by another process{f' ({holder})' if holder else ''}: "
                "wait until it has ended, or stop it"
            )
        self._descriptor = descriptor
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())

    def release(self) -> None:
        if self._descriptor is not None:
            let_go(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
