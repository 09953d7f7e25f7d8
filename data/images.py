"""Image files as the project reads them: which count as pictures, and their pixels. No torch."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from layers.problems import Problem, ProblemError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def read_image(path: str | Path) -> np.ndarray:
    """(h,w,3) uint8 RGB of an image file. Grey becomes three channels, palettes are resolved, alpha
    is dropped, 16 bits keep their high 8; EXIF orientation is ignored. ProblemError names a
    missing, empty, truncated or unreadable file and the fix."""
    path = Path(path)
    where = f"image {path}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        fix = "correct the path (for a data set, its image folder), or fetch it"
        raise ProblemError(Problem("does not exist", where, fix)) from None
    except OSError as error:
        fix = "correct the path or its permissions"
        raise ProblemError(Problem(f"cannot be read ({error.strerror})", where, fix)) from None
    if not data:
        raise ProblemError(Problem("is empty (0 bytes)", where, "copy or download it again"))
    if looks_truncated(data):
        fix = "copy or download it again"
        raise ProblemError(Problem(f"is truncated after {len(data)} bytes", where, fix))
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        image = None
    if image is None:
        fix = "copy it again, or convert it to JPEG or PNG; it is damaged or not an image"
        raise ProblemError(Problem("cannot be decoded", where, fix))
    return image


def looks_truncated(data: bytes) -> bool:
    """Whether the bytes of a JPEG or PNG end before the image does. OpenCV may fill the rest of
    such a picture with grey instead."""
    if data.startswith(b"\xff\xd8"):
        ended = b"\xff\xd9" in data[-64:]
    elif data.startswith(b"\x89PNG"):
        ended = b"IEND" in data[-64:]
    else:
        return False
    if ended:
        return False
    # no end mark in the last bytes: some cameras append data of their own, so decode strictly
    # before complaining
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    # Pillow raises OSError, SyntaxError or struct.error, depending on where the data stops
    except Exception:
        return True
    return False
