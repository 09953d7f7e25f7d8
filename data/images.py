"""Image files as the project reads them: which count as pictures, their pixels, and which way up
they are. No torch.

Pictures stand as viewers show them: turned as their EXIF orientation says, in training, evaluation
and prediction. Only where the annotation file states the size of the stored pixels, and not that of
the turned ones, were the stored pixels annotated, and they are read.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.contents import foreign, read_bytes
from layers.problems import DataWarning, Problem, ProblemError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
DIM = "uses less than a sixteenth of its 16 bits, and is nearly black in 8"
DIM_FIX = "convert it to 8 bits with its own range"
_ABSENT = "correct the path (for a data set, its image folder), or fetch it"
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_TIFF = (b"II*\0", b"MM\0*")
# pictures of floating-point values: Radiance, PFM, OpenEXR
_FLOATING = (b"#?RADIANCE", b"#?RGBE", b"PF\n", b"Pf\n", b"\x76\x2f\x31\x01")
_GAP = bytes(48)  # zeros in a row that no photograph holds in its scan
_ORIENTATION = 0x0112  # the tag in EXIF
# EXIF orientation -> what brings the stored pixels upright
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: np.rot90,
}
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap height and width
# what OpenCV adds to its flags for a smaller picture (of IMREAD_REDUCED_*, without their colour)
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_STDERR = threading.Lock()


def read_image(path: str | Path) -> np.ndarray:
    """(h,w,3) uint8 RGB of an image file, as stored. Grey becomes three channels, palettes are
    resolved, alpha is dropped, 16 bits keep their high 8. ProblemError names a missing, empty,
    truncated or unreadable file and the fix."""
    return decode_image(read_bytes(path, "image", if_absent=_ABSENT), f"image {path}")


def read_upright(path: str | Path) -> np.ndarray:
    """(h,w,3) uint8 RGB of a picture, turned as its EXIF orientation says, with a DataWarning where
    it is dim. ProblemError as of read_image()."""
    image, dim = read_picture(path)
    if dim:
        warnings.warn(f"image {path} {DIM}: {DIM_FIX}", DataWarning, stacklevel=2)
    return image


def read_picture(path: str | Path) -> tuple[np.ndarray, bool]:
    """read_upright(), and whether the picture is dim, without a warning: for threads."""
    data = read_bytes(path, "image", if_absent=_ABSENT)
    image = decode_image(data, f"image {path}")
    return upright(image, orientation(data)), bool(is_dim(image, data))


def read_annotated(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """(h,w,3) uint8 RGB of a picture whose annotations are of an image of size (height, width):
    turned as its EXIF orientation says, or as stored where only that has the size. ProblemError as
    of read_image(); the result may have another size, if neither has this one."""
    return read_reduced(path, size, 1)[0]


def read_reduced(path: str | Path, size: tuple[int, int], times: int) -> tuple[np.ndarray, int]:
    """read_annotated(), and how many times smaller it is: `times` (8, 4, 2 or 1) for a JPEG of that
    size, whose decoder then computes fewer pixels; else 1.

    A side of n pixels comes as ceil(n / times). Each pixel is about the mean of the times x times
    that it stands for.
    """
    data, where = read_bytes(path, "image", if_absent=_ABSENT), f"image {path}"
    turn = orientation(data)
    if times > 1 and not _can_shrink(data, turn, size, times):
        times = 1
    image = decode_image(data, where, times)
    turned = upright(image, turn)
    expected = tuple(-(-side // times) for side in size)
    as_stored = turned.shape[:2] != expected and image.shape[:2] == expected
    return image if as_stored else turned, times


def _can_shrink(data: bytes, turn: int, size: tuple[int, int], times: int) -> bool:
    """Whether a JPEG of this size can be decoded `times` smaller so that its pixels lie on a grid
    that begins at the upper left, turned as it is."""
    if not data.startswith(_JPEG) or (turn != 1 and any(side % times for side in size)):
        return False
    return size in header_sizes(io.BytesIO(data))


def orientation(data: bytes) -> int:
    """The EXIF orientation in a file's bytes, 1 to 8; 1, upright, where it states none."""
    if b"Exif" not in data and b"eXIf" not in data and not data.startswith(_TIFF):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as header:
            found = header.getexif().get(_ORIENTATION, 1)
    except Exception:  # a format that Pillow does not know, or broken EXIF: the pixels were read
        return 1
    return found if found in _UPRIGHT else 1


def header_sizes(
    source: str | Path | io.BytesIO,
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(height, width) of a picture as stored, and turned as its EXIF orientation says, from the
    header of its file or bytes alone; (None, None) where that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source) as header:
                width, height = header.size
                turn = header.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises whatever broken data led to
        return None, None
    return (height, width), (width, height) if turn in _SIDEWAYS else (height, width)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """(h,w,3) stored pixels, turned by an EXIF orientation."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else np.ascontiguousarray(turn(image))


def is_dim(image: np.ndarray, data: bytes) -> bool:
    """Whether an image, read from `data`, has 16 bits of which a sixteenth at most is used, and is
    nearly black in 8."""
    if data.startswith(_JPEG) or image.max() >= 16:
        return False
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return raw is not None and raw.dtype == np.uint16


def decode_image(data: bytes, where: str, times: int = 1) -> np.ndarray:
    """read_image() of a file's bytes; where: what messages call it; times: a JPEG is decoded so
    many times smaller, see read_reduced()."""
    problem = foreign(data) or _content_problem(data)
    if problem is not None:
        raise ProblemError(problem.at(where))
    image, complaint = _decoded(data, times)
    if complaint:
        fix = "copy or download it again"
        raise ProblemError(Problem(f"is damaged: {complaint}", where, fix))
    if image is None:
        fix = "copy it again, or convert it to JPEG or PNG; it is damaged or not an image"
        raise ProblemError(Problem("cannot be decoded", where, fix))
    return image


def _content_problem(data: bytes) -> Problem | None:
    if looks_truncated(data):
        return Problem(f"is truncated after {len(data)} bytes", fix="copy or download it again")
    floating = data.startswith(_FLOATING)
    if not floating and data.startswith(_TIFF):
        raw = _opencv(data, cv2.IMREAD_UNCHANGED)
        floating = raw is not None and raw.dtype.kind == "f"
    if floating:
        fix = "convert it to 8 bits, by a range of its own"
        return Problem("holds floating-point values (HDR), which have no fixed range", fix=fix)
    return None


def _decoded(data: bytes, times: int) -> tuple[np.ndarray | None, str]:
    """The picture, and what libjpeg says of one that holds a hole: it fills holes in silence but
    for a line on stderr."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[times]
    scan = data.find(b"\xff\xda") if data.startswith(_JPEG) else -1
    if scan < 0 or data.find(_GAP, scan) < 0:
        return _opencv(data, flags), ""
    with _STDERR, tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            image = _opencv(data, flags)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        corrupt = b"Corrupt JPEG" in said.read()
    return image, "bytes in its middle are zero, as after a broken copy" if corrupt else ""


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def looks_truncated(data: bytes) -> bool:
    """Whether the bytes of a JPEG or PNG end before the image does. OpenCV may fill the rest of
    such a picture with grey instead."""
    if data.startswith(_JPEG):
        ended = b"\xff\xd9" in data[-64:]
    elif data.startswith(_PNG):
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
