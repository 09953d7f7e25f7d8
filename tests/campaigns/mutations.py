"""Random damage to files: JSON of annotations and results, and pictures."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

# what JSON may hold where something else is meant; None is JSON's null
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, 1e-6, -0.0, 1e308, -1e308, 1e30, 100, 2**31, 2**63,
    -(2**63), 10**400, float("nan"), float("inf"), -float("inf"), "", "0", "1", "nan",
    "a\0b", "\ud800", "\x1b[2Jx", "line\nbreak", "../../x.png", "/etc/hostname", "x" * 100_000,
    "é", "=1+1",
    [], {}, [[]], [[[]]], [None], [1], ["a"], {"a": 1}, {"$oid": "5f"}, [0] * 5, [0.5] * 6,
    {"size": [72, 72], "counts": "0"}, {"size": [2**31, 2**31], "counts": "PPP1"},
    {"size": [0, 0], "counts": []}, {"size": [72, 72], "counts": [5184]},
    {"size": [72, 72], "counts": [1, -1, 5184]}, {"counts": "abc"}, {"size": [72, 72]},
    {"size": [72, 72], "counts": "b'Z?d0'"}, {"size": [72, 72], "counts": "oooooo0"},
)  # fmt: skip


def places(value: Any, found: list | None = None) -> list[tuple[Any, Any]]:
    """(container, key) of everything in JSON content."""
    found = [] if found is None else found
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


def mutated_content(content: Any, rng: random.Random) -> Any:
    """A copy with one to three things changed: values replaced, keys lost, entries repeated, or
    every entry of a list changed alike."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        everywhere = places(content)
        if not everywhere:
            break
        holder, key = rng.choice(everywhere)
        kind = rng.random()
        if kind < 0.5:
            holder[key] = copy.deepcopy(rng.choice(NASTY))
        elif kind < 0.6:
            del holder[key]
        elif kind < 0.7 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(rng.choice(everywhere))[0])
        elif kind < 0.8:
            _alike(everywhere, key, rng)
        else:
            holder[key] = _near(holder[key], rng)
    return content


def _alike(everywhere: list, key: Any, rng: random.Random) -> None:
    """One key of every object replaced by one value, or scaled."""
    value, factor = rng.choice(NASTY), rng.choice((0.01, 1 / 72, -1, 1000))
    scale = rng.random() < 0.5
    for holder, other in everywhere:
        if other == key and isinstance(holder, dict):
            number = isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300
            holder[key] = holder[key] * factor if scale and number else copy.deepcopy(value)


def _near(value: Any, rng: random.Random) -> Any:
    """Something like the value: cut, grown, of another type, or wrapped."""
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice(
            (
                value[:at],
                value + value,
                value[:at] + chr(rng.randint(32, 126)) + value[at + 1 :],
                [value],
            )
        )
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        value = value if abs(value) < 1e300 else 1e300  # more overflows below
        return rng.choice((str(value), value * 1.5, -value, value * 10**6, [value], value + 0.25))
    if isinstance(value, list):
        flat = [v for part in value for v in (part if isinstance(part, list) else [part])]
        return rng.choice((value[:-1], value + value, value[::-1], flat, [value], value * 500))
    return rng.choice(([value], list(value.items()), json.dumps(value)))


def mutated_text(content: Any, rng: random.Random) -> bytes:
    """JSON with mutated content, or whose text is damaged."""
    if rng.random() < 0.85:
        return json.dumps(mutated_content(content, rng)).encode()
    data = bytearray(json.dumps(content).encode())
    at = rng.randrange(len(data))
    kind = rng.randrange(8)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at:at] = b"[" * 100_000
    elif kind == 3:
        data[at:at] = b"1" * 6000
    elif kind == 4:
        return json.dumps(content).encode(rng.choice(("utf-16", "utf-32")))
    elif kind == 5:
        data[at : at + 100] = bytes(100)
    elif kind == 6:
        return rng.choice((b"", b"[]", b"null", b"3", b'"x"', b"{}", b"\x1f\x8b\0", b"PK\x03\x04"))
    else:
        return b"version https://git-lfs.github.com/spec/v1\n"
    return bytes(data)


# ----------------------------------------------------------------------------------------- pictures


def damage_picture(path: Path, rng: random.Random) -> None:
    """Puts something else than the picture, or a damaged one, in its place."""
    data = bytearray(path.read_bytes())
    change = rng.choice(_PICTURES)
    change(path, data, rng)


def _flip(path: Path, data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _head(path: Path, data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(64, len(data)))] = rng.randrange(256)
    path.write_bytes(data)


def _cut(path: Path, data: bytearray, rng: random.Random) -> None:
    path.write_bytes(data[: rng.randrange(len(data))])


def _zero(path: Path, data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at : at + 500] = bytes(len(data[at : at + 500]))
    path.write_bytes(data)


def _other(path: Path, data: bytearray, rng: random.Random) -> None:
    path.write_bytes(
        rng.choice(
            (
                b"",
                b"x",
                b"version https://git-lfs.github.com/spec/v1\n",
                b"<!doctype html>",
                b"PK\x03\x04",
                bytes(5000),
                b"P6\n1000000 1000000\n255\n",
                b"BM" + bytes(50),
                b"II*\0" + bytes(40),
                b"RIFF\xff\xff\xff\xffWEBPVP8 ",
                b"GIF89a" + bytes(20),
                b"#?RADIANCE\n\n-Y 1 +X 1\n",
                b"PF\n1 1\n-1.0\n" + bytes(12),
            )
        )
    )


def _no_file(path: Path, data: bytearray, rng: random.Random) -> None:
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.symlink_to("/dev/null")


def _pixels(path: Path, data: bytearray, rng: random.Random) -> None:
    """A sound picture of another size, depth or kind."""
    height, width = rng.choice(((1, 1), (1, 5000), (5000, 1), (2, 2), (72, 72), (71, 72), (72, 36)))
    kind = rng.choice(("L", "LA", "RGBA", "P", "1", "I;16", "CMYK", "RGB", "F"))
    shape = (height, width)
    suffix = {"CMYK": "JPEG", "F": "TIFF"}.get(kind, "PNG")
    if kind == "I;16":
        Image.fromarray(np.full(shape, rng.choice((3, 60_000)), np.uint16)).save(path, suffix)
        return
    Image.new(kind, (width, height)).save(path, suffix)


def _turned(path: Path, data: bytearray, rng: random.Random) -> None:
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535))
    with Image.open(path) as picture:
        picture.load()
        picture.save(path, rng.choice(("PNG", "JPEG")), exif=exif)


def _encoded(path: Path, data: bytearray, rng: random.Random) -> None:
    image = cv2.imread(str(path))
    suffix = rng.choice((".jpg", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".hdr", ".pfm", ".gif"))
    floating = suffix in (".hdr", ".pfm")
    _, encoded = cv2.imencode(suffix, image.astype(np.float32) / 255 if floating else image)
    data = bytearray(encoded.tobytes())
    path.write_bytes(data)
    if rng.random() < 0.7:
        rng.choice((_flip, _cut, _zero))(path, data, rng)


_PICTURES: tuple[Callable[[Path, bytearray, random.Random], None], ...] = (
    _flip, _head, _cut, _zero, _other, _no_file, _pixels, _turned, _encoded, _encoded,
)  # fmt: skip
