"""Reading of COCO-format JSON: every mistake named with the fix."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.contents import parse_json
from data.rules import (
    CATEGORY_KEYS,
    IMAGE_KEYS,
    Id,
    annotation_problem,
    category_problem,
    image_problem,
    is_id,
    reference_problem,
    size_of,
)
from data.segmentation import mask_lengths
from layers.problems import DataWarning, Problem, ProblemError, few, shown

LISTS = ("images", "annotations", "categories")  # of a COCO-format file
MENDS = "scripts/check_data.py --write OUT.json makes a mended copy"
DOCTOR = f"scripts/check_data.py shows every such case; {MENDS}"
FOR_TRAINING = frozenset((*IMAGE_KEYS, *CATEGORY_KEYS, "bbox", "segmentation"))
MOST_LEFT_OUT = 0.01  # share of annotations that may be unusable before reading stops


def read_coco(path: str | Path, *, truth: bool = True) -> dict[str, Any]:
    """The COCO-format dictionary in a file. truth: whether it has annotations; without, their list
    is empty. ProblemError names the file, the position of a mistake and the fix."""
    content = read_lists(path, truth=truth)
    check_structure(content, f"annotation file {path}")
    return content


def read_lists(path: str | Path, *, truth: bool = True) -> dict[str, Any]:
    """read_coco() of a file whose lists may hold anything."""
    content = parse_json(
        path,
        "annotation file",
        if_absent="correct the data paths of the config, or get the set; scripts/prepare_*.py "
        "say where from, and scripts/make_cigarettes.py makes the Cigarettes stand-in",
    )
    if not truth and isinstance(content, dict):
        content["annotations"] = []
    found = _lists_problem(content)
    if found is not None:
        raise ProblemError(found.at(f"annotation file {path}"))
    return content


def check_structure(content: Any, where: str) -> None:
    """ProblemError where content is not three lists of objects, as COCO's is."""
    found = _lists_problem(content) or _entries_problem(content)
    if found is not None:
        raise ProblemError(found.at(where))


def _lists_problem(content: Any) -> Problem | None:
    missing = [
        key
        for key in LISTS
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list)
    ]
    if missing:
        return Problem(
            f"has no list of {', '.join(missing)}, so it is not COCO 'instances' JSON",
            fix="convert it, or give the instances file (captions and keypoints files do not do)",
        )
    return None


def _entries_problem(content: Mapping[str, Any]) -> Problem | None:
    for key in LISTS:
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                what = f"has {shown(entry)} as entry {number} of {key}, not an object"
                return Problem(what, fix="correct or remove it")
    return None


@dataclass(frozen=True)
class Flaw:
    """An entry that cannot be used: the list it is in, the kind of its mistake, and the image that
    an annotation belongs to."""

    section: str
    kind: str
    problem: Problem
    image: Any = None


@dataclass
class SoundContent:
    """What of a COCO-format file can be used, in its order, and the flaws of the rest. total:
    annotations in the file."""

    images: dict[Id, dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    flaws: list[Flaw]
    total: int

    @property
    def left_out(self) -> list[Flaw]:
        """The flaws of annotations."""
        return [flaw for flaw in self.flaws if flaw.section == "annotations"]

    @property
    def spoiled(self) -> set[Id]:
        """The images of which no annotation can be used, though they have some: they are not
        empty, so that they do not show what is background."""
        usable = {annotation["image_id"] for annotation in self.annotations}
        flawed = {flaw.image for flaw in self.left_out if is_id(flaw.image)}
        return (flawed & self.images.keys()) - usable

    def refuse(self, path: str | Path) -> None:
        """ProblemError where an image or a category is unsound, or more than MOST_LEFT_OUT of the
        annotations are."""
        entries = [flaw for flaw in self.flaws if flaw.section != "annotations"]
        left_out = self.left_out
        if entries or len(left_out) > MOST_LEFT_OUT * self.total:
            alike = entries or left_out
            first, more = alike[0].problem, len(alike) - 1
            told = f"{first.what} (and {more} more are unusable)" if more else first.what
            raise ProblemError(
                replace(first, what=told, fix=f"{first.fix}; {DOCTOR}").at(str(path))
            )

    def check(self, path: str | Path) -> None:
        """refuse(), and a DataWarning where some annotations are unsound."""
        self.refuse(path)
        statements = [flaw.problem.statement for flaw in self.left_out]
        if statements:
            told = left_out_warning(path, statements, self.total)
            warnings.warn(told, DataWarning, stacklevel=3)


def left_out_warning(path: str | Path, statements: list[str], total: int) -> str:
    """What to say of annotations that were left out, for the reasons given."""
    return (
        f"{path}: left out {len(statements)} of {total} annotations, which cannot be used: "
        f"{few(statements)}; {DOCTOR}"
    )


def sort_content(
    content: Mapping[str, Any],
    *,
    needed: Collection[str] = FOR_TRAINING,
    more_categories: Collection[Id] = (),
) -> SoundContent:
    """Tells the sound entries of COCO-format content from the others: the one reading that every
    door shares.

    needed: keys that must be there, FOR_TRAINING or fewer. more_categories: ids that annotations
    may have beside those of the file, as of a label_map.
    """
    flaws: list[Flaw] = []
    images: dict[Id, dict[str, Any]] = {}
    for number, image in enumerate(content["images"]):
        found = image_problem(image, number, needed) or _repeated_id(image, images)
        if found is None:
            images[image["id"]] = image
        else:
            flaws.append(Flaw("images", *found))
    categories: dict[Id, dict[str, Any]] = {}
    for number, category in enumerate(content["categories"]):
        found = category_problem(category, number, needed) or _repeated_id(category, categories)
        if found is None:
            categories[category["id"]] = category
        else:
            flaws.append(Flaw("categories", *found))
    annotations: list[dict[str, Any]] = []
    known = {*categories, *more_categories}
    sizes = {key: size_of(image) for key, image in images.items()}
    lengths = mask_lengths(content["annotations"])
    for number, (annotation, pixels) in enumerate(zip(content["annotations"], lengths)):
        found = reference_problem(annotation, images, known) or annotation_problem(
            annotation, sizes[annotation["image_id"]], needed, pixels
        )
        if found is None:
            annotations.append(annotation)
        else:
            kind, problem = found
            key = annotation.get("id")
            name = f"annotation {f'number {number}' if key is None else shown(key)}"
            flaws.append(Flaw("annotations", kind, problem.at(name), annotation.get("image_id")))
    return SoundContent(
        images, list(categories.values()), annotations, flaws, len(content["annotations"])
    )


def _repeated_id(entry: dict[str, Any], known: Mapping[Id, Any]) -> tuple[str, Problem] | None:
    first = known.get(entry["id"])
    if first is None:
        return None
    names = [shown(one.get("file_name", one.get("name"))) for one in (first, entry)]
    where = " and ".join(names)
    return "repeated", Problem(f"share the id {entry['id']!r}", where, "give each its own id")


def read_sound(path: str | Path, *, more_categories: Collection[Id] = ()) -> SoundContent:
    """What training can use of a COCO-format file. ProblemError for a file that cannot be read, and
    as SoundContent.check() says; more_categories as of sort_content()."""
    sound = sort_content(read_coco(path), more_categories=more_categories)
    sound.check(path)
    return sound
