"""Writing files so that a failure says which file, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A block that writes `path`: its OSErrors (disk full, no permission), which often name no file or a temporary one, name this one."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error}): free space there, or choose another folder") from error
