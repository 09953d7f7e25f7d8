"""Reading of COCO-format JSON: every mistake named with the fix, and the result kept as flat
arrays.

COCO 2017 holds 860,000 annotations and 43 million polygon coordinates. As Python objects they are
counted by reference, so every loader process would come to hold a copy of its own; as arrays they
are shared between processes and take a tenth of the memory.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from layers.names import did_you_mean

Id = int | str  # COCO's ids are integers; other tools write strings
DOCTOR = "run scripts/check_data.py on the data set to see every such case"
# a polygon point farther outside than this many image sides is a mistake, and would cost
# pycocotools gigabytes
FARTHEST = 10


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
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def parse_json(path: str | Path, what: str, *, if_absent: str = "check the path") -> Any:
    """What a JSON file holds. ValueError names the file as `what`, the position of a mistake and
    the fix (if_absent: of a missing file)."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{what} {path} does not exist: {if_absent}") from None
    except IsADirectoryError:
        raise ValueError(f"{what} {path} is a folder: give the JSON file itself") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} {path} is not text (byte {error.start}): unpack it, or copy it again"
        ) from None
    if not text.strip():
        raise ValueError(f"{what} {path} is empty: copy it again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # of which the start is reported
        cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        rest = "the file is cut off there: copy or download it again" if cut else "correct it there"
        raise ValueError(
            f"{what} {path} is not valid JSON at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(text)}): {error.msg}; {rest}"
        ) from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The COCO-format dictionary in a file. ValueError names the file, the position of a mistake
    and the fix."""
    content = parse_json(
        path,
        "annotation file",
        if_absent="correct the data paths of the config, or get the set: scripts/prepare_*.py "
        "say where from, and scripts/make_cigarettes.py makes the Cigarettes stand-in",
    )
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise ValueError(
            f"annotation file {path} has no list of {', '.join(missing)}: it is not COCO "
            "'instances' JSON; convert it, or give the instances file (captions and keypoints "
            "files do not do)"
        )
    for key in ("images", "annotations", "categories"):
        odd = next(
            (number for number, entry in enumerate(content[key]) if not isinstance(entry, dict)),
            None,
        )
        if odd is not None:
            raise ValueError(
                f"annotation file {path}: entry {odd} of {key} is {content[key][odd]!r}, not an "
                "object: correct or remove it"
            )
    return content


def category_labels(
    categories: list[dict],
    class_names: tuple[str, ...],
    label_map: dict[Id, int] | None,
    used: set[Id],
    path: Path,
) -> dict[Id, int]:
    """Category id -> 0-based label, from label_map or by category name.

    used: the category ids that annotations have. A category without annotations may be missing from
    class_names. ValueError where class_names and the categories disagree.
    """
    if any("id" not in c or "name" not in c for c in categories):
        raise ValueError(
            f"{path}: a category has no id or no name: "
            f"{next(c for c in categories if 'id' not in c or 'name' not in c)}"
        )
    if label_map is not None:
        unmapped = sorted((c for c in used if c not in label_map), key=str)
        if unmapped:
            raise ValueError(
                f"{path}: annotations use category ids {unmapped[:10]}, which data.label_map lacks "
                f"(it has {list(label_map)[:10]}): add them to label_map"
            )
        return dict(label_map)
    repeated_ids = [key for key, count in Counter(c["id"] for c in categories).items() if count > 1]
    repeated_names = [
        name for name, count in Counter(c["name"] for c in categories).items() if count > 1
    ]
    if repeated_ids or repeated_names:
        raise ValueError(
            f"{path}: categories repeat {repeated_ids or repeated_names}: give each one entry, or "
            "set data.label_map"
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    foreign = [c["name"] for c in categories if c["id"] in used and c["name"] not in label_of]
    absent = [name for name in class_names if name not in {c["name"] for c in categories}]
    if foreign or absent:
        names = [c["name"] for c in categories]
        problems = [
            f"category {name!r} is not in data.class_names{did_you_mean(str(name), class_names)}"
            for name in foreign[:3]
        ]
        problems += [
            f"class {name!r} has no category{did_you_mean(name, map(str, names))}"
            for name in absent[:3]
        ]
        shown = json.dumps(names if len(names) <= 12 else [*names[:12], "..."])
        raise ValueError(
            f"{path} has {len(names)} categories and data.class_names has {len(class_names)}, "
            f"which disagree: {'; '.join(problems)}. Set data.class_names={shown}, or give "
            "data.label_map"
        )
    return {c["id"]: label_of[c["name"]] for c in categories if c["name"] in label_of}


def read_table(
    path: str | Path,
    class_names: tuple[str, ...],
    *,
    label_map: dict[Id, int] | None = None,
    keep_empty: bool = False,
) -> AnnotationTable:
    """Reads a COCO-format file. keep_empty: images without annotations stay. ValueError names the
    first mistake and its fix.

    Annotations whose box has no width or height are left out and listed in zero_area: COCO 2017
    itself has one of them.
    """
    path = Path(path)
    content = read_json(path)
    images = _index_images(content["images"], path)
    known = {category.get("id") for category in content["categories"]}
    groups: dict[Id, list[dict]] = {}
    zero_area: list[Id] = []
    used: set[Id] = set()
    for annotation in content["annotations"]:
        name = f"{path}: annotation {annotation.get('id', '(without id)')!r}"
        image = images.get(annotation.get("image_id"))
        if image is None:
            raise ValueError(
                f"{name} belongs to image {annotation.get('image_id')!r}, which is not listed "
                f"under images{other_type(annotation.get('image_id'), images)}: add the image or "
                f"remove the annotation; {DOCTOR}"
            )
        category = annotation.get("category_id")
        if category not in known and (label_map is None or category not in label_map):
            raise ValueError(
                f"{name} has category id {category!r}, which is not listed under categories"
                f"{other_type(category, known)}: correct the id, or add the category; {DOCTOR}"
            )
        problem = instance_problem(annotation, image["height"], image["width"])
        if problem:
            raise ValueError(f"{name} {problem}; {DOCTOR}")
        if not (annotation["bbox"][2] and annotation["bbox"][3]):
            zero_area.append(annotation["id"])
            continue
        used.add(category)
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


def _index_images(images: list[dict], path: Path) -> dict[Id, dict]:
    index: dict[Id, dict] = {}
    for number, image in enumerate(images):
        missing = [key for key in ("id", "file_name", "width", "height") if key not in image]
        if missing:
            raise ValueError(
                f"{path}: image {image.get('file_name', image.get('id', f'number {number}'))!r} "
                f"has no {', '.join(missing)}: add what is missing"
            )
        if not all(
            isinstance(image[side], (int, float)) and image[side] > 0 and image[side] % 1 == 0
            for side in ("width", "height")
        ):
            raise ValueError(
                f"{path}: image {image['file_name']!r} has width {image['width']!r} and height "
                f"{image['height']!r}: write the pixel size of the file; " + DOCTOR
            )
        if image["id"] in index:
            raise ValueError(
                f"{path}: images {index[image['id']]['file_name']!r} and {image['file_name']!r} "
                f"share the id {image['id']!r}: give each its own id"
            )
        index[image["id"]] = image
    return index


def other_type(key: Any, known: Any) -> str:
    """A hint where an id is there, but as text instead of a number or the other way round."""
    twin = next(
        (k for k in known if k is not None and str(k) == str(key) and type(k) is not type(key)),
        None,
    )
    return f" (there is {twin!r}, of another type)" if twin is not None else ""


def instance_problem(annotation: dict, height: int, width: int) -> str:
    """What makes an annotation unusable, with the fix; '' for a sound one. A box without area is
    not counted as a problem here."""
    if "id" not in annotation:
        return f"(of image {annotation.get('image_id')!r}) has no id: number the annotations"
    box = annotation.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, (int, float)) for v in box)
    ):
        return f"has the box {box!r}: write bbox as [x, y, width, height] in pixels"
    if not all(map(math.isfinite, box)):
        return f"has the box {box}, with NaN or infinity: correct or remove the annotation"
    if box[2] < 0 or box[3] < 0:
        return (
            f"has the box {box}, of negative size: bbox is [x, y, width, height], not two "
            "corners; correct it"
        )
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return _rle_problem(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        return (
            "has no segmentation: instance masks need polygons or RLE; remove it, or annotate "
            "its outline"
        )
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            points = len(polygon) // 2 if isinstance(polygon, list) else 0
            return (
                f"has a polygon of {points} points: a polygon needs at least 3 as [x1, y1, x2, "
                "y2, x3, y3, ...]; correct or remove it"
            )
        try:
            low, high, total = min(polygon), max(polygon), sum(polygon)
        except TypeError:
            return "has a polygon with something that is not a number: correct or remove it"
        # one NaN or infinity makes the sum so; NaN alone may hide from min and max
        if not math.isfinite(total):
            return "has a polygon with NaN or infinity: correct or remove it"
        if low < -FARTHEST * max(height, width) or high > (FARTHEST + 1) * max(height, width):
            return (
                f"has a polygon from {low:g} to {high:g} in an image of {width}x{height}: "
                "coordinates are pixels; correct or remove it"
            )
    return ""


def _rle_problem(segmentation: dict, height: int, width: int) -> str:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size is None or counts is None:
        return "has an RLE without size or counts: correct or remove it"
    if list(size) != [height, width]:
        swapped = " (height and width are swapped)" if list(size) == [width, height] else ""
        return (
            f"has an RLE of size {size}, but its image is {[height, width]} (height, "
            f"width){swapped}: make them agree"
        )
    pixels = sum(counts) if isinstance(counts, list) else rle_length(counts)
    if pixels != height * width or (isinstance(counts, list) and min(counts) < 0):
        return (
            f"has an RLE whose runs cover {pixels} pixels, but its image has {height * width}: "
            "it is damaged; remove it or make it again"
        )
    return ""


def rle_length(counts: str | bytes) -> int:
    """Number of pixels that a compressed RLE covers; -1 where it is malformed.

    COCO's form (maskApi.c): 5 bits a character, 0x20 = more follow, 0x10 of the last = sign; runs
    after the third are stored as the difference to the run two before. pycocotools does not check
    the total: a short RLE decodes into uninitialised memory.
    """
    codes = (
        np.frombuffer(
            counts.encode("ascii", "replace") if isinstance(counts, str) else counts, np.uint8
        ).astype(np.int64)
        - 48
    )
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        return -1
    first = np.flatnonzero(np.r_[True, (codes[:-1] & 0x20) == 0])
    place = np.arange(codes.size) - np.repeat(first, np.diff(np.r_[first, codes.size]))
    if place.max() > 6:
        return -1
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    last = np.r_[first[1:], codes.size] - 1
    values -= np.where(codes[last] & 0x10, 1 << (5 * (place[last] + 1)), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return int(runs.sum()) if runs.min() >= 0 else -1


def _pack(
    path: Path, images: list[dict], groups: dict[Id, list[dict]], labels: dict[Id, int]
) -> AnnotationTable:
    categories: dict[int, Id] = {}
    for key, label in labels.items():
        categories.setdefault(label, key)
    start, rle_start, point_start, ring_start = (
        [0],
        array("q", [0]),
        array("q", [0]),
        array("q", [0]),
    )
    boxes, label_column, crowd, coordinates, rle = (
        array("d"),
        array("q"),
        array("b"),
        array("d"),
        bytearray(),
    )
    for image in images:
        for annotation in groups.get(image["id"], ()):
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                if isinstance(counts, list):
                    counts = coco_mask.frPyObjects(segmentation, *segmentation["size"])["counts"]
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
