"""COCO JSON as tools write it: Roboflow, CVAT, Label Studio, VIA, datumaro, COCO itself.

data/mend puts right what they write otherwise than COCO: flat outlines, ids as text, folders and
back-slashes in file names, crowd flags, missing boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.annotations import read_lists
from data.doctor.folder import Folder
from data.importing.listing import Listing, split_of
from data.importing.records import Hints, Picture, Shape, Source
from data.mend import masks
from data.mend.whole import mend
from data.rules import category_name, is_crowd, is_text, size_of
from layers.problems import Problem, ProblemError, few


def coco_files(listing: Listing) -> list[str]:
    """The files of the format in a source."""
    return [
        name for name in listing.ending(".json") if _is_coco((listing.root / name).read_bytes())
    ]


def _is_coco(data: bytes) -> bool:
    return all(key in data for key in (b'"images"', b'"annotations"', b'"categories"'))


def read_coco_set(listing: Listing, hints: Hints) -> Source:
    """ProblemError for a file that is not COCO's or cannot be mended, and for images that are not
    there."""
    pictures: list[Picture] = []
    classes: dict[str, None] = {}
    lines: list[str] = []
    for name in coco_files(listing):
        path = listing.root / name
        folder = _images_folder(path, listing)
        mended = mend(path, folder.path, masks.Wishes(drop_missing=hints.drop_missing))
        lines += [f"{name}: {line}" for line in mended.notes.lines()]
        images, content = mended.content["images"], mended.content
        missing = [e["file_name"] for e in images if folder.state(e["file_name"]) != "file"]
        if missing:
            what = f"lists {len(images)} images, of which {len(missing)} are not there"
            fix = "copy them there, or leave their labels out by --drop_missing"
            where = f"{what} ({few(missing)})"
            raise ProblemError(Problem(where, f"annotation file {path}", fix))
        names = {entry["id"]: category_name(entry) or "" for entry in content["categories"]}
        classes |= dict.fromkeys(names.values())
        shapes: dict[Any, list[Shape]] = {}
        for annotation in content["annotations"]:
            label = names[annotation["category_id"]]
            shape = Shape(label, annotation["segmentation"], is_crowd(annotation))
            shapes.setdefault(annotation["image_id"], []).append(shape)
        for entry in images:
            size = size_of(entry)
            assert size is not None, "mend() leaves out images of unknown size"
            file = folder.path / entry["file_name"]
            pictures.append(Picture(file, size, shapes.get(entry["id"], []), split_of(name)))
    return Source(pictures, tuple(classes), lines)


def _images_folder(path: Path, listing: Listing) -> Folder:
    """The folder below which most images of a file lie under the names that it gives."""
    entries = [entry for entry in read_lists(path)["images"] if isinstance(entry, dict)]
    given = [entry.get("file_name") for entry in entries]
    stated = [name for name in given if isinstance(name, str) and is_text(name)]
    best, most = listing.folder, 0
    for place in _places(path, listing.root):
        folder = Folder(place)
        there = sum("\0" not in name and folder.state(name) == "file" for name in stated)
        if there > most:
            best, most = folder, there
    return best


def _places(path: Path, root: Path) -> Iterator[Path]:
    """Where images usually lie: beside the file, or in images/ here or one folder up, by split."""
    split = split_of(path.relative_to(root).as_posix())
    for base in dict.fromkeys((path.parent, path.parent.parent, root)):
        for place in (base, base / "images"):
            yield place
            if place.is_dir():
                parts = sorted(part for part in place.iterdir() if part.is_dir())
                yield from (part for part in parts if split and split_of(f"{part.name}/_") == split)
                yield from (part for part in parts if part.name in (path.stem, "default"))
