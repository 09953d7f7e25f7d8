"""Mending of the entries of images: the names of their files, and their sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.doctor.folder import Folder
from data.images import header_sizes
from data.mend.notes import Notes
from data.rules import image_problem, is_text, size_of
from layers.problems import shown

Size = tuple[int, int]  # (height, width)


def with_files(
    images: Sequence[dict[str, Any]], folder: Folder, *, drop_missing: bool, notes: Notes
) -> list[dict[str, Any]]:
    """Copies of the entries with the names under which the folder has their files; without those
    that have no name, and, if asked, without those that have no file."""
    kept = []
    for entry in images:
        name = entry.get("file_name")
        if not is_text(name) or not name or "\0" in name:
            notes.left_out("images without a usable file_name", _called(entry))
            continue
        if folder.state(name) != "file":
            found = folder.find(name)
            if found is not None:
                notes.done("file names written as the files are called", f"{name} -> {found[0]}")
                entry = entry | {"file_name": found[0]}
            elif drop_missing:
                notes.left_out("images without a file", name)
                continue
        kept.append(dict(entry))
    return kept


def _called(entry: dict[str, Any]) -> str:
    return f"image {shown(entry.get('file_name') or entry.get('id'))}"


def stand_ins(images: Sequence[dict[str, Any]], notes: Notes) -> list[int]:
    """For each entry, the position of the first with the same file."""
    first: dict[str, int] = {}
    places = []
    for position, entry in enumerate(images):
        places.append(first.setdefault(entry["file_name"], position))
        if places[-1] != position:
            notes.done("entries of the same file merged", entry["file_name"])
    return places


@dataclass(frozen=True)
class Sizes:
    """The size that an entry states, None for none, and those of its file: as stored, and turned
    upright by EXIF; None where it cannot be read."""

    stated: Size | None
    stored: Size | None
    upright: Size | None

    @classmethod
    def of(cls, entry: dict[str, Any], path: Path, *, read: bool) -> Sizes:
        sides = {key: entry.get(key) for key in ("width", "height")}
        sound = image_problem({"id": 0, **sides}, 0, sides) is None
        stated = size_of(sides) if sound else None
        stored, upright = header_sizes(path) if read or stated is None else (None, None)
        return cls(stated, stored, upright)

    def chosen(self, fits: Callable[[Size], bool]) -> Size | None:
        """The size that the annotations were made in, of which fits() says whether they lie in it;
        None where it cannot be told."""
        if self.stored is None or self.upright is None:
            return self.stated
        own: tuple[Size | None, ...] = (self.stated, self.upright, self.stored)
        if self.stated is not None:
            height, width = self.stated
            if {self.stated, (width, height)}.isdisjoint(own[1:]):
                return self.stated  # of another picture, which the check tells
            if self.stated not in own[1:]:
                own = own[1:]
        return next((size for size in own if size and fits(size)), own[0] or own[1])
