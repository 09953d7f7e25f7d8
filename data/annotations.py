"""Reading of COCO-format JSON: every mistake named with the fix, and the result kept as flat
arrays.

COCO 2017 holds 860,000 annotations and 43 million polygon coordinates. As Python objects they are
counted by reference, so every loader process would come to hold a copy of its own; as arrays they
are shared between processes and take a tenth of the memory.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.contents import parse_json
from data.rules import (
    CATEGORY_KEYS,
    IMAGE_KEYS,
    Id,
    annotation_problem,
    category_labels,
    category_problem,
    image_problem,
    is_crowd,
    is_id,
    reference_problem,
    size_of,
)
from data.segmentation import encoded, mask_lengths
from layers.problems import DataWarning, Problem, ProblemError, few, shown

LISTS = ("images", "annotations", "categories")  # of a COCO-format file
MENDS = "scripts/check_data.py --write OUT.json makes a mended copy"
DOCTOR = f"scripts/check_data.py shows every such case; {MENDS}"
FOR_TRAINING = frozenset((*IMAGE_KEYS, *CATEGORY_KEYS, "bbox", "segmentation"))
MOST_LEFT_OUT = 0.01  # share of annotations that may be unusable before reading stops


@dataclass
class AnnotationTable:
    """The images and instances of one annotation file. Rows of image i are start[i]:start[i + 1],
    crowds last.

    boxes (N,4) float32 XYXY in pixels; labels (N,) int64; crowd (N,) bool. Instance n is either an
    RLE, the bytes rle_start[n]:rle_start[n + 1] of `rle`, or the polygons
    ring_start[n]:ring_start[n + 1], of which polygon r is coordinates[point_start[r]:point_start[r
    + 1]] as x, y, x, y, ...
    """

    path: Path
    image_ids: list[Id]
    file_names: list[str]
    sizes: np.ndarray  # (images, 2) int64: height, width
    start: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    rle: bytes
    rle_start: np.ndarray
    coordinates: np.ndarray
    point_start: np.ndarray
    ring_start: np.ndarray
    category_of_label: dict[int, Id]
    # annotations left out: their box has no width or no height
    zero_area: list[Any] = field(default_factory=list)

    def rows(self, image: int) -> range:
        return range(int(self.start[image]), int(self.start[image + 1]))

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of image i."""
        height, width = self.sizes[image].tolist()
        return height, width

    def encoded_mask(self, row: int, height: int, width: int) -> dict[str, Any]:
        """Instance `row` as a pycocotools RLE of an image of height x width."""
        begin, end = int(self.rle_start[row]), int(self.rle_start[row + 1])
        if end > begin:
            return {"size": [height, width], "counts": self.rle[begin:end]}
        rings = range(int(self.ring_start[row]), int(self.ring_start[row + 1]))
        polygons = [
            self.coordinates[self.point_start[r] : self.point_start[r + 1]].tolist() for r in rings
        ]
        return encoded(polygons, height, width)


def read_coco(path: str | Path) -> dict[str, Any]:
    """The COCO-format dictionary in a file. ProblemError names the file, the position of a mistake
    and the fix."""
    content = read_lists(path)
    check_structure(content, f"annotation file {path}")
    return content


def read_lists(path: str | Path) -> dict[str, Any]:
    """read_coco() of a file whose lists may hold anything."""
    content = parse_json(
        path,
        "annotation file",
        if_absent="correct the data paths of the config, or get the set; scripts/prepare_*.py "
        "say where from, and scripts/make_cigarettes.py makes the Cigarettes stand-in",
    )
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

    def check(self, path: str | Path) -> None:
        """ProblemError where an image or a category is unsound, or more than MOST_LEFT_OUT of the
        annotations are; a DataWarning where some are."""
        entries = [flaw for flaw in self.flaws if flaw.section != "annotations"]
        left_out = self.left_out
        if entries or len(left_out) > MOST_LEFT_OUT * self.total:
            alike = entries or left_out
            first, more = alike[0].problem, len(alike) - 1
            told = f"{first.what} (and {more} more are unusable)" if more else first.what
            raise ProblemError(
                replace(first, what=told, fix=f"{first.fix}; {DOCTOR}").at(str(path))
            )
        if left_out:
            warnings.warn(
                f"{path}: left out {len(left_out)} of {self.total} annotations, which cannot be "
                f"used: {few([flaw.problem.statement for flaw in left_out])}; {DOCTOR}",
                DataWarning,
                stacklevel=3,
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


def read_table(
    path: str | Path,
    class_names: tuple[str, ...],
    *,
    label_map: Mapping[Id, int] | None = None,
    keep_empty: bool = False,
) -> AnnotationTable:
    """Reads a COCO-format file. keep_empty: images without annotations stay. ProblemError names the
    first mistake and its fix.

    Unusable annotations are left out with a DataWarning where they are few, see
    SoundContent.check(), and with them the images that have no others. Annotations whose box has
    no width or height are left out and listed in zero_area: COCO 2017 itself has one of them.
    """
    path = Path(path)
    sound = read_sound(path, more_categories=label_map or ())
    groups: dict[Id, list[dict]] = {}
    zero_area: list[Any] = []
    used: set[Id] = set()
    for annotation in sound.annotations:
        if not (annotation["bbox"][2] and annotation["bbox"][3]):
            zero_area.append(annotation.get("id"))
            continue
        used.add(annotation["category_id"])
        groups.setdefault(annotation["image_id"], []).append(annotation)
    labels = category_labels(sound.categories, class_names, label_map, used, path)
    # label_map may name categories of other files
    known = {category["id"] for category in sound.categories}
    labels = {key: label for key, label in labels.items() if key in known or key in used}
    spoiled = sound.spoiled
    kept = [
        image
        for key, image in sound.images.items()
        if key in groups or (keep_empty and key not in spoiled)
    ]
    for group in groups.values():
        group.sort(key=is_crowd)  # stable: the order of the file, crowds last
    table = _pack(path, kept, groups, labels)
    table.zero_area = zero_area
    return table


def _pack(
    path: Path, images: list[dict], groups: dict[Id, list[dict]], labels: dict[Id, int]
) -> AnnotationTable:
    categories: dict[int, Id] = {}
    for key, label in labels.items():
        categories.setdefault(label, key)
    start, rle_start, point_start, ring_start = (array("q", [0]) for _ in range(4))
    boxes, coordinates, label_column, crowd = array("d"), array("d"), array("q"), array("b")
    rle = bytearray()
    for image in images:
        for annotation in groups.get(image["id"], ()):
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                counts = encoded(segmentation, *segmentation["size"])["counts"]
                rle += counts.encode() if isinstance(counts, str) else counts
            else:
                for polygon in segmentation:
                    coordinates.extend(polygon)
                    point_start.append(len(coordinates))
            rle_start.append(len(rle))
            ring_start.append(len(point_start) - 1)
            boxes.extend(annotation["bbox"])
            label_column.append(labels[annotation["category_id"]])
            crowd.append(is_crowd(annotation))
        start.append(len(crowd))
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return AnnotationTable(
        path=path,
        image_ids=[i["id"] for i in images],
        file_names=[i["file_name"] for i in images],
        sizes=np.array([size_of(i) for i in images], np.int64).reshape(-1, 2),
        start=np.array(start, np.int64),
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32),
        labels=np.array(label_column, np.int64),
        crowd=np.array(crowd, bool),
        rle=bytes(rle),
        rle_start=np.array(rle_start, np.int64),
        coordinates=np.array(coordinates, np.float64),
        point_start=np.array(point_start, np.int64),
        ring_start=np.array(ring_start, np.int64),
        category_of_label=categories,
    )
