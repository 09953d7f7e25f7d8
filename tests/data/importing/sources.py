"""Small annotated sets as tools write them, each with the same objects: in every image a square of
class nut and a triangle of class screw."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

IMAGES, WIDTH, HEIGHT = 5, 80, 60
SQUARE = [[10.25, 10.5], [30.75, 10.5], [30.75, 30.125], [10.25, 30.125]]
TRIANGLE = [[40.5, 20.25], [70.125, 20.25], [55.0, 50.75]]
OBJECTS = (("nut", SQUARE), ("screw", TRIANGLE))


def draw(path: Path, seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """An image of smooth noise of its own."""
    small = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR))


def draw_all(folder: Path, first: int = 0, count: int = IMAGES) -> list[str]:
    names = [f"{number}.png" for number in range(first, first + count)]
    for number, name in enumerate(names, first):
        draw(folder / name, number)
    return names


def flat(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


def labelme(root: Path, *, shapes=None) -> Path:
    """JSON files beside their images."""
    shapes = [{"label": n, "points": p} for n, p in OBJECTS] if shapes is None else shapes
    for name in draw_all(root):
        content = {
            "version": "5.4.1",
            "imagePath": name,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
            "shapes": [{"shape_type": "polygon", "group_id": None, **shape} for shape in shapes],
        }
        (root / name).with_suffix(".json").write_text(json.dumps(content))
    return root


def yolo(root: Path, *, splits=("",), names="{0: screw, 1: nut}") -> Path:
    """images/ and labels/, by split, and data.yaml."""
    for number, split in enumerate(splits):
        images, labels = root / "images" / split, root / "labels" / split
        labels.mkdir(parents=True)
        for name in draw_all(images, 100 * number):
            rows = []
            for label, points in OBJECTS:
                shares = [v / (HEIGHT if at % 2 else WIDTH) for at, v in enumerate(flat(points))]
                rows.append(f"{int(label == 'nut')} {' '.join(map(repr, shares))}")
            (labels / name).with_suffix(".txt").write_text("\n".join(rows) + "\n")
    if names:
        (root / "data.yaml").write_text(f"train: images\nval: images/val\nnames: {names}\n")
    return root


def coco_json(names: list[str], **changes) -> dict:
    return {
        "images": [
            {"id": key, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for key, name in enumerate(names, 1)
        ],
        "categories": [{"id": 3, "name": "screw"}, {"id": 7, "name": "nut"}],
        "annotations": [
            {
                "id": 10 * key + number,
                "image_id": key,
                "category_id": {"screw": 3, "nut": 7}[label],
                "segmentation": [flat(points)],
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
            }
            for key in range(1, len(names) + 1)
            for number, (label, points) in enumerate(OBJECTS)
        ],
        **changes,
    }


def roboflow(root: Path) -> Path:
    """train/ and valid/, images and _annotations.coco.json in one folder; an unused category."""
    for number, split in enumerate(("train", "valid")):
        names = draw_all(root / split, 100 * number)
        content = coco_json(names)
        content["categories"].insert(0, {"id": 0, "name": "hardware", "supercategory": "none"})
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def masks(root: Path, values: tuple[int, ...] = (255, 255), dtype=np.uint8) -> Path:
    """images/ and masks/, of a rectangle and a triangle with these values."""
    for name in draw_all(root / "images"):
        mask = np.zeros((HEIGHT, WIDTH), dtype)
        mask[10:30, 10:31] = values[0]
        points = np.array(TRIANGLE).round().astype(np.int32)
        drawn = cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [points], 1)
        mask[drawn > 0] = values[1]
        (root / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(root / "masks" / name), mask)
    return root
