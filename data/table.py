"""The images and instances of an annotation file as flat arrays.

COCO 2017 holds 860,000 annotations and 43 million polygon coordinates. As Python objects they are
counted by reference, so every loader process would come to hold a copy of its own; as arrays they
are shared between processes and take a tenth of the memory. Of a large file they are kept, see
cache.py, before classes are chosen: one cache serves every config.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.annotations import SoundContent, left_out_warning, read_coco, sort_content
from data.cache import Kept, Store
from data.rules import Id, category_labels, is_crowd, size_of
from data.segmentation import encoded
from layers.problems import DataWarning


@dataclass
class AnnotationTable:
    """The images and instances of one annotation file. Rows of image i are start[i]:start[i + 1],
    crowds last.

    boxes (N,4) float32 XYXY in pixels; labels (N,) int64; crowd (N,) bool. Instance n is either an
    RLE, the bytes rle_start[n]:rle_start[n + 1] of `rle`, or the polygons
    ring_start[n]:ring_start[n + 1], of which polygon r is coordinates[point_start[r]:point_start[r
    + 1]] as x, y, x, y, ... Arrays may be read-only.
    """

    path: Path
    image_ids: list[Id]
    file_names: list[str]
    sizes: np.ndarray  # (images, 2) int64: height, width
    start: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    rle: np.ndarray  # uint8
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
            return {"size": [height, width], "counts": self.rle[begin:end].tobytes()}
        rings = range(int(self.ring_start[row]), int(self.ring_start[row + 1]))
        polygons = [
            self.coordinates[self.point_start[r] : self.point_start[r + 1]].tolist() for r in rings
        ]
        return encoded(polygons, height, width)


def read_table(
    path: str | Path,
    class_names: tuple[str, ...],
    *,
    label_map: Mapping[Id, int] | None = None,
    keep_empty: bool = False,
    truth: bool = True,
    cache: bool = True,
) -> AnnotationTable:
    """Reads a COCO-format file. keep_empty: images without annotations stay; truth: as of
    read_coco(); cache: what is read of a large file is kept beside it, if it has annotations.
    ProblemError names the first mistake and its fix.

    Unusable annotations are left out with a DataWarning where they are few, see
    SoundContent.check(), and with them the images that have no others. Annotations whose box has
    no width or height are left out and listed in zero_area: COCO 2017 itself has one of them.
    """
    path, more = Path(path), label_map or ()

    def read() -> Kept:
        sound = sort_content(read_coco(path, truth=truth), more_categories=more)
        sound.refuse(path)
        return packed(sound)

    store = table_store(path, more) if cache and truth else None
    kept = read() if store is None else store.fetch(read)
    if kept.facts["left_out"]:
        told = left_out_warning(path, kept.facts["left_out"], kept.facts["total"])
        warnings.warn(told, DataWarning, stacklevel=2)
    return _chosen(path, kept, class_names, label_map, keep_empty)


def table_store(path: Path, more_categories: Collection[Id]) -> Store | None:
    """Where the arrays of a file are kept; None of a small one."""
    return Store.of(path, ["table", sorted(map(repr, more_categories))])


def packed(sound: SoundContent) -> Kept:
    """What training reads of a file, for any choice of classes: every image, and the instances
    whose box has an area."""
    groups: dict[Id, list[dict]] = {}
    zero_area: list[Any] = []
    places: dict[Id, int] = {}  # of category ids among those that instances have
    for annotation in sound.annotations:
        if not (annotation["bbox"][2] and annotation["bbox"][3]):
            zero_area.append(annotation.get("id"))
            continue
        places.setdefault(annotation["category_id"], len(places))
        groups.setdefault(annotation["image_id"], []).append(annotation)
    for group in groups.values():
        group.sort(key=is_crowd)  # stable: the order of the file, crowds last
    images, spoiled = [*sound.images.values()], sound.spoiled
    facts = {
        "images": [[image["id"], image["file_name"]] for image in images],
        "spoiled": [row for row, image in enumerate(images) if image["id"] in spoiled],
        "categories": [{key: c[key] for key in ("id", "name")} for c in sound.categories],
        "used": [*places],
        "zero_area": zero_area,
        "left_out": [flaw.problem.statement for flaw in sound.left_out],
        "total": sound.total,
    }
    return Kept(facts, _columns(images, groups, places))


def _columns(
    images: list[dict], groups: dict[Id, list[dict]], places: dict[Id, int]
) -> dict[str, np.ndarray]:
    start, rle_start, point_start, ring_start = (array("q", [0]) for _ in range(4))
    boxes, coordinates, category, crowd = array("d"), array("d"), array("q"), array("b")
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
            category.append(places[annotation["category_id"]])
            crowd.append(is_crowd(annotation))
        start.append(len(crowd))
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return {
        "sizes": np.array([size_of(i) for i in images], np.int64).reshape(-1, 2),
        "start": np.array(start, np.int64),
        "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(
            np.float32
        ),
        "category": np.array(category, np.int64),
        "crowd": np.array(crowd, bool),
        "rle": np.frombuffer(rle, np.uint8),
        "rle_start": np.array(rle_start, np.int64),
        "coordinates": np.array(coordinates, np.float64),
        "point_start": np.array(point_start, np.int64),
        "ring_start": np.array(ring_start, np.int64),
    }


def _chosen(
    path: Path,
    kept: Kept,
    class_names: tuple[str, ...],
    label_map: Mapping[Id, int] | None,
    keep_empty: bool,
) -> AnnotationTable:
    """The table of a choice of classes: instances get labels, and images without any leave."""
    facts, columns = kept.facts, dict(kept.arrays)
    used, categories = facts["used"], facts["categories"]
    labels = category_labels(categories, class_names, label_map, set(used), path)
    # label_map may name categories of other files
    known = {*used, *(category["id"] for category in categories)}
    category_of_label: dict[int, Id] = {}
    for key, label in labels.items():
        if key in known:
            category_of_label.setdefault(label, key)
    stays = np.diff(columns["start"]) > 0
    if keep_empty:
        stays = np.ones(stays.size, bool)
        stays[facts["spoiled"]] = False
    images = [facts["images"][row] for row in np.flatnonzero(stays).tolist()]
    columns["labels"] = np.array([labels[key] for key in used], np.int64)[columns.pop("category")]
    columns["sizes"] = columns["sizes"][stays]
    columns["start"] = columns["start"][np.r_[True, stays]]  # none of an image that leaves
    return AnnotationTable(
        path=path,
        image_ids=[key for key, _ in images],
        file_names=[name for _, name in images],
        category_of_label=category_of_label,
        zero_area=facts["zero_area"],
        **columns,
    )
