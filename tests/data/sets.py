"""Small data sets for the tests: real ones kept beside this file, and made-up ones written to a
folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from data.config import COCO_CLASSES
from data.schema import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig

HERE = Path(__file__).parent
COCO, NUCLEI = HERE / "coco_cc", HERE / "nuclei"
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]  # a polygon; its box is [10, 10, 20, 20]


def real_data(folder: Path, **changes) -> DataConfig:
    """The data section of one of the real sets."""
    names = COCO_CLASSES if folder == COCO else ("nucleus",)
    return DataConfig(
        **{
            "root": str(folder),
            "train_images": "images",
            "train_annotations": "annotations/instances_train.json",
            "val_images": "images",
            "val_annotations": "annotations/instances_val.json",
            "class_names": names,
            **changes,
        }
    )


def config(data: DataConfig, *, size: int = 128, batch: int = 4, **train) -> Config:
    return Config(
        name="test",
        model=ModelConfig(max_size=size),
        data=data,
        eval=EvalConfig(batch_size=2),
        train=TrainConfig(**{"batch_size": batch, "num_workers": 0, **train}),
    )


def annotation(key, image=1, category=1, **changes) -> dict:
    return {
        "id": key,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "bbox": [10, 10, 20, 20],
        "area": 400,
        "segmentation": [SQUARE],
        **changes,
    }


def image_entry(key=1, name="a.png", width=64, height=48) -> dict:
    return {"id": key, "file_name": name, "width": width, "height": height}


def write_set(
    root: Path, *, images=None, annotations=None, categories=None, draw: bool = True
) -> tuple[Path, Path]:
    """Writes a COCO-format set of noise images; returns (images folder, annotation file)."""
    images = [image_entry()] if images is None else images
    content = {
        "images": images,
        "annotations": [annotation(1)] if annotations is None else annotations,
        "categories": categories or [{"id": 1, "name": "thing"}],
    }
    folder = root / "images"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for entry in images if draw else []:
        cv2.imwrite(
            str(folder / entry["file_name"]),
            rng.integers(0, 255, (entry["height"], entry["width"], 3), dtype=np.uint8),
        )
    (root / "annotations.json").write_text(json.dumps(content))
    return folder, root / "annotations.json"
