"""Whether the files that an annotation file names are in the image folder, and where else they
are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from data.doctor.findings import Findings
from data.doctor.split import Split
from data.images import IMAGE_SUFFIXES
from layers.problems import few

MOST_SEARCHED = 1_000_000  # files below the image folder
# why a file is not found under its name, and the cure
_CURES = {
    "with / for \\": "write file_name with forward slashes",
    "without its folder": "remove the folder from file_name, or correct data.{}_images",
    "in a folder below": "write file_name with the folder, or correct data.{}_images",
    "in another case": "write file_name as the file is called",
    "with an ending": "write file_name with its ending",
}


class Folder:
    """The files of an image folder, listed a folder at a time and searched only where one is
    missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: dict[str, dict[str, bool]] = {}

    def state(self, name: str) -> str:
        """'file', 'other' (a folder or a pipe) or 'missing'."""
        place = os.path.join(self.path, os.path.dirname(name))
        if place not in self._listed:
            try:
                with os.scandir(place) as entries:
                    self._listed[place] = {entry.name: _is_file(entry) for entry in entries}
            except (OSError, ValueError):  # no folder, or a name that none can have
                self._listed[place] = {}
        found = self._listed[place].get(os.path.basename(name))
        return {None: "missing", True: "file", False: "other"}[found]

    def find(self, name: str) -> tuple[str, str] | None:
        """(file name as it should be, which of _CURES it takes) of a missing file; None where none
        or several could be meant."""
        slashed = name.replace("\\", "/")
        if slashed != name and self.state(slashed) == "file":
            return slashed, "with / for \\"
        last = slashed.rsplit("/", 1)[-1]
        by_name, by_lower, by_stem = self._searched
        for kind, found in (
            ("", by_name.get(last, [])),
            ("in another case", by_lower.get(last.lower(), [])),
            ("with an ending", by_stem.get(last, [])),
        ):
            if len(found) == 1:
                outside = "/" not in found[0]
                return found[0], kind or ("without its folder" if outside else "in a folder below")
            if found:
                return None
        return None

    @cached_property
    def _searched(self) -> tuple[Mapping[str, list[str]], ...]:
        """Paths below the folder by the name of their file, by its lower case, and without its
        ending."""
        by_name: dict[str, list[str]] = {}
        by_lower: dict[str, list[str]] = {}
        by_stem: dict[str, list[str]] = {}
        searched = 0
        for place, _, names in os.walk(self.path):
            below = os.path.relpath(place, self.path)
            for name in names:
                path = name if below == "." else f"{below}/{name}".replace(os.sep, "/")
                stem, suffix = os.path.splitext(name)
                by_name.setdefault(name, []).append(path)
                by_lower.setdefault(name.lower(), []).append(path)
                if suffix.lower() in IMAGE_SUFFIXES:
                    by_stem.setdefault(stem, []).append(path)
            searched += len(names)
            if searched > MOST_SEARCHED:
                break
        return by_name, by_lower, by_stem


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def check_folder(split: Split, found: Findings) -> None:
    listed = sorted({image["file_name"] for image in split.images.values()})
    if not os.path.isdir(split.images_dir):
        found.error(
            "does not exist",
            f"image folder {split.images_dir}",
            f"correct data.{split.name}_images",
        )
        split.missing = set(listed)
        return
    folder = Folder(split.images_dir)
    states = {name: folder.state(name) for name in listed}
    odd = [name for name in listed if states[name] == "other"]
    if odd:
        found.error(
            f"holds {len(odd)} folders, pipes or broken links in place of images ({few(odd)})",
            split.images_dir,
            "put the files there",
        )
    missing = [name for name in listed if states[name] == "missing"]
    _tell_missing(split, folder, missing, len(listed), found)
    split.missing |= {name for name in listed if states[name] != "file"}
    outside = [name for name in listed if states[name] == "file" and _leads_out(name)]
    if outside:
        found.warning(
            f"has {len(outside)} file names that lead out of the image folder ({few(outside)})",
            split.path,
            f"write names below {split.images_dir}, so that the set can be moved",
        )


def _tell_missing(
    split: Split, folder: Folder, missing: list[str], listed: int, found: Findings
) -> None:
    if not missing:
        return
    places = {name: place for name in missing if (place := folder.find(name)) is not None}
    what = (
        f"lists {listed} images, and {len(missing)} of them are not in "
        f"{split.images_dir} ({few(missing)})"
    )
    if not places:
        fix = "copy them there, or remove their entries (--write OUT.json --drop_missing does)"
        found.error(what, split.path, fix)
        return
    (kind, count), *_ = Counter(kind for _, kind in places.values()).most_common()
    first = next(name for name, (_, why) in places.items() if why == kind)
    what += f"; {count} of them are there {kind}, such as {places[first][0]}"
    found.error(what, split.path, _CURES[kind].format(split.name))


def _leads_out(name: str) -> bool:
    """Whether a file name reaches outside the image folder, here or on Windows."""
    slashed = name.replace("\\", "/")
    drive = len(slashed) > 1 and slashed[1] == ":"
    return slashed.startswith("/") or drive or os.path.normpath(slashed).startswith("..")
