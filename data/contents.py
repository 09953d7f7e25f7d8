"""What a file holds, as bytes or as JSON, or what is wrong with it: no read waits for ever, and
every failure is one line with the fix."""

from __future__ import annotations

import gc
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layers.problems import Problem, ProblemError

# how files begin that stand where another was expected
_FOREIGN = (
    (
        b"version https://git-lfs.github.com",
        "is a Git LFS pointer, not the file itself",
        "run git lfs pull in its repository",
    ),
    (b"PK\x03\x04", "is a zip archive", "unpack it"),
    (b"\x1f\x8b", "is compressed by gzip", "unpack it"),
)
_PAGES = (b"<!doctype html", b"<html")
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 text begins


def read_bytes(path: str | Path, what: str, *, if_absent: str = "check the path") -> bytes:
    """The bytes of a file. ProblemError, which calls it `what`, where it cannot be read, is empty
    or no file (a pipe would be waited for without end); if_absent: the fix of a missing one."""
    where = f"{what} {path}"
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ProblemError(Problem("is a folder", where, "give the file itself"))
        if not stat.S_ISREG(mode):
            fix = "put a file there"
            raise ProblemError(Problem("is a pipe or a device, not a file", where, fix))
        data = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ProblemError(Problem("does not exist", where, if_absent)) from None
    except OSError as error:
        fix = "correct the path or its permissions"
        raise ProblemError(Problem(f"cannot be read ({error.strerror})", where, fix)) from None
    except ValueError as error:
        if isinstance(error, ProblemError):
            raise
        # a NUL, or half of a character, is in the name
        raise ProblemError(Problem("has a name that no file can have", where, if_absent)) from None
    if not data:
        raise ProblemError(Problem("is empty (0 bytes)", where, "copy or download it again"))
    return data


def foreign(data: bytes) -> Problem | None:
    """What the beginning of a file shows where a download or a checkout left something else: a Git
    LFS pointer, a web page, an archive."""
    for start, what, fix in _FOREIGN:
        if data.startswith(start):
            return Problem(what, fix=fix)
    if data[:200].lstrip().lower().startswith(_PAGES):
        fix = "download the file itself; the server answered with a login, a warning or an error"
        return Problem("is a web page", fix=fix)
    return None


def parse_json(path: str | Path, what: str, *, if_absent: str = "check the path") -> Any:
    """What a JSON file holds. ProblemError names the file as `what`, the position of a mistake and
    the fix (if_absent: of a missing file)."""
    text, where = read_text(path, what, if_absent=if_absent), f"{what} {path}"
    if not text or text.isspace():
        raise ProblemError(Problem("is empty", where, "copy it again"))
    try:
        with uncollected():
            return json.loads(text)
    except json.JSONDecodeError as error:
        # an unterminated string is reported at its start
        cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        problem = Problem(
            f"is not valid JSON at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(text)}; {error.msg})",
            where,
            "copy or download it again, it is cut off there" if cut else "correct it there",
        )
    except RecursionError:
        problem = Problem("nests lists or objects too deeply", where, "correct or convert it")
    except ValueError:  # Python reads no longer number
        problem = Problem("holds a number of thousands of digits", where, "correct it")
    raise ProblemError(problem)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which goes through all objects again and again while many are
    made, and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_text(path: str | Path, what: str, *, if_absent: str = "check the path") -> str:
    """The UTF-8 text in a file. ProblemError as of read_bytes(), and where it holds something
    else."""
    data, where = read_bytes(path, what, if_absent=if_absent), f"{what} {path}"
    known = foreign(data)
    if known is not None:
        raise ProblemError(known.at(where))
    if data.startswith(_WIDE):
        raise ProblemError(Problem("is UTF-16 text", where, "save it as UTF-8"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fix = "unpack it, or copy it again"
        raise ProblemError(Problem(f"is not text (byte {error.start})", where, fix)) from None
