"""The files of a source, and what their names tell."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from data.doctor.folder import MOST_SEARCHED, Folder
from data.images import IMAGE_SUFFIXES
from layers.problems import Problem, ProblemError

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Listing:
    """The files below `root`, as sorted relative names; hidden ones are left out."""

    root: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, root: Path) -> Listing:
        """ProblemError for a folder that is empty, or holds more than MOST_SEARCHED files."""
        names: list[str] = []
        for place, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            below = os.path.relpath(place, root).replace(os.sep, "/")
            names += [
                name if below == "." else f"{below}/{name}"
                for name in files
                if not name.startswith(".")
            ]
            if len(names) > MOST_SEARCHED:
                fix = "give the folder of one data set"
                raise ProblemError(
                    Problem(f"holds more than {MOST_SEARCHED} files", f"folder {root}", fix)
                )
        if not names:
            raise ProblemError(Problem("holds no file", f"folder {root}", "correct the path"))
        return cls(root, tuple(sorted(names)))

    def ending(self, *suffixes: str) -> list[str]:
        return [name for name in self.names if name.lower().endswith(suffixes)]

    @cached_property
    def images(self) -> list[str]:
        return self.ending(*IMAGE_SUFFIXES)

    @cached_property
    def folder(self) -> Folder:
        return Folder(self.root)

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        return {name.rpartition(".")[0]: name for name in reversed(self.images)}

    def image_of(self, stem: str) -> str | None:
        """The image file whose relative name without its ending is `stem`."""
        return self._by_stem.get(stem)


def split_of(name: str) -> str:
    """'train', 'val' or 'test' by the words of a relative name, its folders first; '' where none
    is among them."""
    pure = PurePosixPath(name.lower())
    for part in (*pure.parts[:-1], pure.stem):
        words = set(_WORD.findall(part))
        for split, known in _SPLITS.items():
            if words & set(known):
                return split
    return ""


def folder_split(name: str) -> str:
    """split_of() by the folders alone: pictures may be called test.jpg."""
    place = name.rpartition("/")[0]
    return split_of(f"{place}/_") if place else ""
