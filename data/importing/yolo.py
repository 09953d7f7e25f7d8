"""YOLO segmentation: one text file an image, a line an object: its class number, then x and y of
its outline as shares of the image. Names of classes stand in a YAML file or in classes.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.contents import read_bytes
from data.importing.listing import Listing, folder_split
from data.importing.records import Hints, Picture, Shape, Size, Source, picture_size
from data.importing.sound import check_points
from data.mend.notes import Notes
from data.yaml_text import read_yaml
from layers.problems import Problem, ProblemError, printable, shown

_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NO_LABELS = re.compile(
    r"(classes|names|labels|train|val|valid|test|readme.*|licen[cs]e.*)\.txt", re.I
)
_SLACK = 0.02  # a share of the image that an outline may reach beyond it
_HEAD = 4096  # bytes of a file that are looked at


def yolo_files(listing: Listing) -> list[str]:
    """The label files of a source: those of numbers alone, and all that lie beside one."""
    texts = [
        name for name in listing.ending(".txt") if not _NO_LABELS.fullmatch(name.rpartition("/")[2])
    ]
    folders = {name.rpartition("/")[0] for name in texts if _has_rows(listing.root / name)}
    return [name for name in texts if name.rpartition("/")[0] in folders]


def _has_rows(path: Path) -> bool:
    with path.open("rb") as file:
        words = file.read(_HEAD).split(maxsplit=5)[:5]
    return len(words) == 5 and words[0].isdigit() and all(map(_NUMBER.fullmatch, words))


def read_yolo(listing: Listing, hints: Hints) -> Source:
    """ProblemError, which names file and line, for rows that are no outlines or whose class has no
    name, and for a label file without its image. An image without a label file has no objects."""
    settings, yaml_name = _settings(listing)
    names = hints.names or _names(settings.get("names"), yaml_name) or _listed_names(listing)
    notes, pictures, labelled = Notes(), [], set()
    for name in yolo_files(listing):
        image = _image(listing, name)
        if image is None:
            if not hints.drop_missing:
                fix = "copy it there, or leave such files out by --drop_missing"
                raise ProblemError(Problem("has no image", f"label file {name}", fix))
            notes.left_out("labels without an image", name)
            continue
        labelled.add(image)
        size = picture_size(listing.root / image)
        shapes = _shapes(listing.root / name, name, size, names)
        pictures.append(Picture(listing.root / image, size, shapes, folder_split(image)))
    for image in listing.images:
        if image not in labelled:
            notes.done("images without a label file, taken to hold no object", image)
            size = picture_size(listing.root / image)
            pictures.append(Picture(listing.root / image, size, [], folder_split(image)))
    lines = notes.lines()
    if settings.get("train") is not None and settings.get("train") == settings.get("val"):
        lines.append(f"warning: {yaml_name} names one folder for train and val: split anew")
        for picture in pictures:
            picture.split = ""
    return Source(pictures, names, lines)


def _image(listing: Listing, name: str) -> str | None:
    """The image of a label file: beside it, or in images/ where the labels are in labels/."""
    stem = name.rpartition(".")[0]
    parts = stem.split("/")
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "labels":
            found = listing.image_of("/".join([*parts[:place], "images", *parts[place + 1 :]]))
            if found is not None:
                return found
    return listing.image_of(stem)


def _shapes(path: Path, name: str, size: Size, names: tuple[str, ...]) -> list[Shape]:
    if not path.stat().st_size:
        return []
    shapes = []
    for number, row in enumerate(read_bytes(path, "label file").splitlines(), 1):
        words = row.split()
        if words:
            where = f"label file {name}, line {number}"
            shapes.append(_shape(words, size, names, where))
    return shapes


def _shape(words: list[bytes], size: Size, names: tuple[str, ...], where: str) -> Shape:
    check_points(len(words) // 2, where)
    if not words[0].isdigit() or not all(map(_NUMBER.fullmatch, words)):
        fix = "write class x1 y1 x2 y2 x3 y3 ..."
        raise ProblemError(Problem("is not a row of numbers after a class number", where, fix))
    if len(words) == 5:
        fix = "export outlines (segmentation), not boxes (detection)"
        raise ProblemError(Problem("is a box without an outline", where, fix))
    if len(words) < 7 or len(words) % 2 == 0:
        fix = "write class x1 y1 x2 y2 x3 y3 ..., of at least 3 points"
        raise ProblemError(Problem(f"has {len(words) - 1} coordinates", where, fix))
    shares = [float(word) for word in words[1:]]
    if min(shares) < -_SLACK or max(shares) > 1 + _SLACK:
        what = f"has coordinates from {min(shares):g} to {max(shares):g}"
        raise ProblemError(Problem(what, where, "write shares of the image, 0 to 1"))
    label = int(words[0][:9])
    if label >= len(names):
        what = f"is of class {label}, and there are names of {len(names)} classes"
        fix = "name them under names: of data.yaml, in classes.txt, or by --names A,B,..."
        raise ProblemError(Problem(what, where, fix))
    height, width = size
    outline = [share * (height if at % 2 else width) for at, share in enumerate(shares)]
    return Shape(names[label], [outline])


# ------------------------------------------------------------------------------------------- names


def _settings(listing: Listing) -> tuple[dict[str, Any], str]:
    """The YAML file that names the classes, and what it is called; ({}, '') without one."""
    found: list[tuple[dict[str, Any], str]] = []
    for name in listing.ending(".yaml", ".yml"):
        if name.count("/") > 1:
            continue
        try:
            content = read_yaml((listing.root / name).read_text(encoding="utf-8"))
        except ValueError as error:
            problem = Problem(f"cannot be read ({error})", f"file {name}", "correct it")
            raise ProblemError(problem) from None
        if isinstance(content, dict) and "names" in content:
            found.append((content, name))
    if len(found) > 1:
        fix = "keep one of them, or give the names by --names A,B,..."
        which = " and ".join(name for _, name in found[:3])
        raise ProblemError(Problem("both name classes", which, fix))
    return found[0] if found else ({}, "")


def _names(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, Mapping) and sorted(map(str, value)) == sorted(
        map(str, range(len(value)))
    ):
        numbered = {int(key): name for key, name in value.items()}
        value = [numbered[key] for key in range(len(numbered))]
    if not isinstance(value, list) or not all(isinstance(n, (str, int, float)) for n in value):
        fix = "write a list, [a, b], or numbers from 0 on, {0: a, 1: b}"
        raise ProblemError(Problem(f"has names: {shown(value)}", f"file {where}", fix))
    return tuple(map(str, value))


def _listed_names(listing: Listing) -> tuple[str, ...]:
    """A name a line of classes.txt or obj.names; () where there is none."""
    for name in listing.names:
        if name.rpartition("/")[2].lower() in ("classes.txt", "obj.names", "labels.txt"):
            try:
                text = read_bytes(listing.root / name, "file").decode("utf-8-sig")
            except UnicodeDecodeError:
                fix = "save it as UTF-8"
                where = f"file {printable(name)}"
                raise ProblemError(Problem("is not text", where, fix)) from None
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()
