"""Writing files whole or not at all, so that a failure says which file, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A block that writes `path`: its OSErrors (disk full, no permission), which often name no file
    or a temporary one, name this one."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror or error}): free space there, or choose another "
            "folder"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that a reader, or a kill, finds the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
