"""What was made of an annotation file, kept beside it, so that the next start maps it into memory
instead of reading JSON. Processes share the pages of a mapped file.

A file of the cache names what it was made from: the source by its SHA-256, this package's code, and
a key. Where one of them differs it is made anew; where its bytes were damaged too. Nothing in it is
code. It appears whole, under its name, or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import mmap
import os
import stat
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.contents import uncollected
from data.locking import let_go, lock
from layers.problems import DataWarning, Problem, ProblemError

SMALLEST = 20_000_000  # bytes of a source below which reading it anew costs less than a second
FOLDER = ".yolact_cache"  # beside the source
SETTLED = 2.0  # seconds after which a change of a file shows in its times, on every file system
_MAGIC = b"yolact cache 1\n\0"
# two numbers follow: the CRC-32 of all that comes after it, and the length of the description
_CHECKED = len(_MAGIC) + 8
_HEAD = _CHECKED + 8
_ALIGN = 64
_CHUNK = 1 << 24
Arrays = dict[str, np.ndarray]
State = tuple[int, int, int, int]


@dataclass
class Kept:
    """facts: plain data, as JSON holds it. arrays: read-only where they are mapped."""

    facts: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


class Store:
    """One file of the cache, about one source.

    key: plain data; with the source it settles what the file holds.
    """

    def __init__(self, source: str | Path, key: Any) -> None:
        self.source = Path(source)
        self.key = json.dumps(key)
        short = hashlib.sha256(self.key.encode()).hexdigest()[:12]
        self.name = f"{self.source.name}.{short}"

    @classmethod
    def of(cls, source: str | Path, key: Any) -> Store | None:
        """The store of a source; None where it is too small to need one, or cannot be read."""
        try:
            large = os.stat(source).st_size >= SMALLEST
        except (OSError, ValueError):  # the reader says what is wrong
            return None
        return cls(source, key) if large else None

    def fetch(self, make: Callable[[], Kept], worth: Callable[[Kept], bool] | None = None) -> Kept:
        """What is kept, or what make() gives, which is then kept where worth() allows. Processes
        that start together wait for the first of them.

        A DataWarning where nothing can be kept, or was damaged; ProblemError where another
        program's file has the name of ours.
        """
        kept = self.load()
        if kept is not None:
            return kept
        with self._locked():
            kept = self.load()
            if kept is None:
                state = file_state(self.source)
                with uncollected():
                    kept = make()
                if (worth is None or worth(kept)) and self.save(kept, state):
                    del kept  # before the file is mapped, not beside it
                    kept = self.load() or make()
        return kept

    # ------------------------------------------------------------------------------------ reading

    def load(self) -> Kept | None:
        """What is kept of the source as it is now; None where there is nothing that holds."""
        for folder in self._folders():
            kept = self._read(folder / self.name)
            if kept is not None:
                return kept
        return None

    def _read(self, path: Path) -> Kept | None:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise _foreign(path)
            with open(path, "rb") as file:
                return self._mapped(file, path)
        except OSError:
            return None

    def _mapped(self, file: BinaryIO, path: Path) -> Kept | None:
        head = file.read(_HEAD)
        if not head.startswith(_MAGIC):
            raise _foreign(path)
        checksum, length = (int.from_bytes(head[i : i + 8], "little") for i in (16, 24))
        file.seek(_CHECKED)
        if len(head) < _HEAD or _checksum(file) != checksum:
            what = "is damaged, and is made anew"
            warnings.warn(str(Problem(what, f"cache file {path}")), DataWarning, stacklevel=2)
            return None
        file.seek(_HEAD)
        description = json.loads(file.read(length))
        if description["key"] != self.key or description["code"] != _code():
            return None
        if not self._holds(description["source"]):
            return None
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begin = _aligned(_HEAD + length)
        arrays = {
            name: np.frombuffer(pages, dtype, count, begin + offset).reshape(shape)
            if (count := math.prod(shape))
            else np.empty(shape, dtype)  # which may lie at the file's end
            for name, dtype, shape, offset in description["arrays"]
        }
        return Kept(description["facts"], arrays)

    def _holds(self, source: dict[str, Any]) -> bool:
        """Whether the source is what it was: by size and times, else by its content."""
        state = file_state(self.source)
        if source["settled"] and source["state"] == [*state]:
            return True
        same_size = source["state"][0] == state[0]
        return same_size and source["sha256"] == _digest(self.source, state)

    # ------------------------------------------------------------------------------------ writing

    def save(self, kept: Kept, state: State) -> bool:
        """Whether it is kept: not where the source is no longer as `state` says, or no folder takes
        it, which a DataWarning tells."""
        settled = time.time_ns() - max(state[1:3]) > SETTLED * 1e9
        described: dict[str, Any] = {"sha256": _digest(self.source, state), "state": state}
        if file_state(self.source) != state:
            return False
        described["settled"] = settled
        failure: OSError | None = None
        for folder in self._folders():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._write(folder, kept, described)
                return True
            except OSError as error:
                failure = failure or error
        why = failure.strerror if failure else "no folder"
        where = f"what was read of {self.source}"
        what = f"cannot be kept for the next start ({why})"
        fix = f"let {self.source.parent / FOLDER} be written, or set data.cache=false"
        warnings.warn(str(Problem(what, where, fix)), DataWarning, stacklevel=2)
        return False

    def _write(self, folder: Path, kept: Kept, source: dict[str, Any]) -> None:
        for left in folder.glob(
            f".{glob.escape(self.name)}.*.part"
        ):  # by a process that was killed
            left.unlink()
        places, end = [], 0
        for name, array in kept.arrays.items():
            places.append((name, array.dtype.str, array.shape, end))
            end = _aligned(end + array.nbytes)
        content = {"key": self.key, "code": _code(), "source": source, "arrays": places}
        text = json.dumps({**content, "facts": kept.facts}).encode()
        temporary = folder / f".{self.name}.{os.getpid()}.part"
        try:
            with open(temporary, "w+b") as file:
                file.seek(_CHECKED)
                file.write(len(text).to_bytes(8, "little"))
                file.write(text)
                for (_, _, _, offset), array in zip(places, kept.arrays.values()):
                    file.seek(_aligned(_HEAD + len(text)) + offset)
                    file.write(np.ascontiguousarray(array).data)
                file.seek(_CHECKED)
                checksum = _checksum(file)
                file.seek(0)
                file.write(_MAGIC + checksum.to_bytes(8, "little"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / self.name)
        finally:
            temporary.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------ folders

    def _folders(self) -> Iterator[Path]:
        """Beside the source, else in the user's folder for caches."""
        yield self.source.parent / FOLDER
        place = os.path.realpath(self.source.parent)
        yield users_folder() / hashlib.sha256(os.fsencode(place)).hexdigest()[:12]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone in the folder of the cache. Beside others, as where no folder takes it, only costs
        time."""
        for folder in self._folders():
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                if os.access(folder, os.W_OK):
                    break
        else:
            yield
            return
        with alone_in(folder):
            yield


def users_folder() -> Path:
    """The user's folder for what this program caches."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "yolact"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """A block that one process at a time is in, for each folder; the others wait. Beside others
    where a folder cannot be opened or has no locks."""
    descriptor = None
    try:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            lock(descriptor, folder, wait=True)
        yield
    finally:
        if descriptor is not None:
            let_go(descriptor)


def file_state(path: Path) -> State:
    """Size, times of the last change of content and of anything, and inode."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@cache
def _digest(path: Path, state: State) -> str:
    """sha256_of() of a file; state: of the file, so that a changed one is read again."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of what follows in an open file."""
    found = 0
    while chunk := file.read(_CHUNK):
        found = zlib.crc32(chunk, found)
    return found


@cache
def _code() -> str:
    """SHA-256 of the code that reads and checks annotation files."""
    here = Path(__file__).parent
    found = hashlib.sha256()
    for folder in (here, here / "doctor", here.parent / "layers"):
        for path in sorted(folder.glob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _foreign(path: Path) -> ProblemError:
    fix = "move it away, or set data.cache=false"
    return ProblemError(Problem("was not written by this program", f"cache file {path}", fix))
