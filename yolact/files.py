"""Writing files whole or not at all, so that a failure says which file, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


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


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (h,w,3) uint8 RGB or (h,w,4) RGBA, whole or not at all. ValueError for an unknown
    suffix, OSError where it cannot be written."""
    import cv2  # slow to import, as is what follows

    from data.images import IMAGE_SUFFIXES

    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: cannot write a picture of type {path.suffix or '(none)'!r}: use one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    _, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, order))
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data.tobytes())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
