"""Reading of COCO-format JSON: every mistake named with the fix, and the result kept as flat
arrays.

COCO 2017 holds 860,000 annotations and 43 million polygon coordinates. As Python objects they are
counted by reference, so every loader process would come to hold a copy of its own; as arrays they
are shared between processes and take a tenth of the memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data.rules import (
    Id,
    annotation_problem,
    category_labels,
    has_size,
    lacking,
    other_type,
)
from layers.problems import Problem, ProblemError

LISTS = ("images", "annotations", "categories")  # of a COCO-format file
DOCTOR = "run scripts/check_data.py on the data set to see every such case"


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
    zero_area: list[Id] = field(default_factory=list)

    def rows(self, image: int) -> range:
        return range(int(self.start[image]), int(self.start[image + 1]))

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


def encoded(
    segmentation: Mapping[str, Any] | list[list[float]], height: int, width: int
) -> dict[str, Any]:
    """A COCO segmentation (polygons, or an RLE with counts as text or as numbers) of an image of
    height x width as a pycocotools RLE."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return dict(segmentation)


def parse_json(path: str | Path, what: str, *, if_absent: str = "check the path") -> Any:
    """What a JSON file holds. ProblemError names the file as `what`, the position of a mistake and
    the fix (if_absent: of a missing file)."""
    path = Path(path)
    where = f"{what} {path}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ProblemError(Problem("does not exist", where, if_absent)) from None
    except IsADirectoryError:
        raise ProblemError(Problem("is a folder", where, "give the JSON file itself")) from None
    except UnicodeDecodeError as error:
        raise ProblemError(
            Problem(f"is not text (byte {error.start})", where, "unpack it, or copy it again")
        ) from None
    if not text.strip():
        raise ProblemError(Problem("is empty", where, "copy it again"))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # an unterminated string is reported at its start
        cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        raise ProblemError(
            Problem(
                f"is not valid JSON at line {error.lineno}, column {error.colno} "
                f"(character {error.pos} of {len(text)}; {error.msg})",
                where,
                "copy or download it again, it is cut off there" if cut else "correct it there",
            )
        ) from None


def read_coco(path: str | Path) -> dict[str, Any]:
    """The COCO-format dictionary in a file. ProblemError names the file, the position of a mistake
    and the fix."""
    content = parse_json(
        path,
        "annotation file",
        if_absent="correct the data paths of the config, or get the set; scripts/prepare_*.py "
        "say where from, and scripts/make_cigarettes.py makes the Cigarettes stand-in",
    )
    where = f"annotation file {path}"
    missing = [
        key
        for key in LISTS
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise ProblemError(
            Problem(
                f"has no list of {', '.join(missing)}, so it is not COCO 'instances' JSON",
                where,
                "convert it, or give the instances file (captions and keypoints files do not do)",
            )
        )
    for key in LISTS:
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise ProblemError(
                    Problem(
                        f"has {entry!r} as entry {number} of {key}, not an object",
                        where,
                        "correct or remove it",
                    )
                )
    return content


def read_table(
    path: str | Path,
    class_names: tuple[str, ...],
    *,
    label_map: Mapping[Id, int] | None = None,
    keep_empty: bool = False,
) -> AnnotationTable:
    """Reads a COCO-format file. keep_empty: images without annotations stay. ProblemError names the
    first mistake and its fix.

    Annotations whose box has no width or height are left out and listed in zero_area: COCO 2017
    itself has one of them.
    """
    path = Path(path)
    content = read_coco(path)
    images = _index_images(content["images"], path)
    known = {category.get("id") for category in content["categories"]}
    mapped = known | set(label_map or ())
    groups: dict[Id, list[dict]] = {}
    zero_area: list[Id] = []
    used: set[Id] = set()
    for annotation in content["annotations"]:
        problem = _first_problem(annotation, images, mapped)
        if problem is not None:
            told = replace(problem, fix=f"{problem.fix}; {DOCTOR}")
            raise ProblemError(told.at(str(path)))
        if not (annotation["bbox"][2] and annotation["bbox"][3]):
            zero_area.append(annotation["id"])
            continue
        used.add(annotation["category_id"])
        groups.setdefault(annotation["image_id"], []).append(annotation)
    labels = category_labels(content["categories"], class_names, label_map, used, path)
    # label_map may name categories of other files
    labels = {key: label for key, label in labels.items() if key in known or key in used}
    kept = [image for key, image in images.items() if keep_empty or key in groups]
    for group in groups.values():
        # stable: the order of the file, crowds last
        group.sort(key=lambda a: bool(a.get("iscrowd", 0)))
    table = _pack(path, kept, groups, labels)
    table.zero_area = zero_area
    return table


def _first_problem(
    annotation: dict[str, Any], images: Mapping[Id, dict], categories: Collection[Any]
) -> Problem | None:
    name = f"annotation {annotation.get('id', '(without id)')!r}"
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if image is None or image not in images:
        return Problem(
            f"belongs to image {image!r}, which is not listed under images"
            f"{other_type(image, images)}",
            name,
            "add the image or remove the annotation",
        )
    if category not in categories:
        return Problem(
            f"has category id {category!r}, which is not listed under categories"
            f"{other_type(category, categories)}",
            name,
            "correct the id, or add the category",
        )
    found = annotation_problem(annotation, images[image]["height"], images[image]["width"])
    return None if found is None else found[1]


def _index_images(images: list[dict[str, Any]], path: Path) -> dict[Id, dict[str, Any]]:
    index: dict[Id, dict[str, Any]] = {}
    for number, image in enumerate(images):
        problem = _image_problem(number, image, index)
        if problem is not None:
            raise ProblemError(problem.at(str(path)))
        index[image["id"]] = image
    return index


def _image_problem(
    number: int, image: dict[str, Any], index: Mapping[Id, dict[str, Any]]
) -> Problem | None:
    name = image.get("file_name", image.get("id", f"number {number}"))
    where = f"image {name!r}"
    missing = lacking(image)
    if missing:
        return Problem(f"has no {', '.join(missing)}", where, "add what is missing")
    if not has_size(image):
        return Problem(
            f"has width {image['width']!r} and height {image['height']!r}",
            where,
            f"write the pixel size of the file; {DOCTOR}",
        )
    if image["id"] in index:
        return Problem(
            f"share the id {image['id']!r}",
            f"images {index[image['id']]['file_name']!r} and {name!r}",
            "give each its own id",
        )
    return None


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
            crowd.append(bool(annotation.get("iscrowd", 0)))
        start.append(len(crowd))
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return AnnotationTable(
        path=path,
        image_ids=[i["id"] for i in images],
        file_names=[i["file_name"] for i in images],
        sizes=np.array([(i["height"], i["width"]) for i in images], np.int64).reshape(-1, 2),
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
