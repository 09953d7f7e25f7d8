"""The nuclei of the 2018 Data Science Bowl (BBBC038, CC0), converted to COCO format.

The source has one folder an image: ID/images/ID.png and ID/masks/*.png, one mask a nucleus.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from data.images import read_image
from data.prepare.archives import image_files, unpack, verify_split

SPLITS = ("train", "val")


def prepare_nuclei(
    root: Path, source: Path | None = None, *, val_share: float = 0.2, seed: int = 0
) -> list[str]:
    """Converts stage1_train.zip, or its unpacked folder, into `root` (None: it is there), and
    verifies it.

    Returns a line a split. ValueError where the source or a file of the result is not as it should
    be.
    """
    if source is not None and source.is_dir():
        convert_nuclei(source, root, val_share=val_share, seed=seed)
    elif source is not None:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            unpack(source, scratch)
            convert_nuclei(Path(scratch), root, val_share=val_share, seed=seed)
    return [
        verify_split(root / "images", root / "annotations" / f"instances_{split}.json")
        for split in SPLITS
    ]


def convert_nuclei(source: Path, root: Path, *, val_share: float, seed: int) -> None:
    """Writes root/images and root/annotations/instances_{train,val}.json. The split depends on the
    names and the seed alone."""
    if not 0 < val_share < 1:
        raise ValueError(f"--val_share={val_share} must lie between 0 and 1")
    folders = sorted(
        path.parent
        for path in source.rglob("images")
        if path.is_dir() and (path.parent / "masks").is_dir()
    )
    if len(folders) < 2:
        raise ValueError(
            f"{source} holds {len(folders)} folders with images/ and masks/: give BBBC038's "
            "stage1_train.zip, unpacked or not"
        )
    order = [folder.name for folder in folders]
    random.Random(seed).shuffle(order)
    val = set(order[: max(1, round(val_share * len(order)))])
    for folder in (root / "images", root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    content = {
        split: {
            "info": {"description": "BBBC038v1 stage1_train, CC0"},
            "categories": [{"id": 1, "name": "nucleus"}],
            "images": [],
            "annotations": [],
        }
        for split in SPLITS
    }
    for number, folder in enumerate(
        tqdm(folders, desc="converting", unit=" images", disable=None), 1
    ):
        _add(folder, number, root, content["val" if folder.name in val else "train"])
    for split, part in content.items():
        target = root / "annotations" / f"instances_{split}.json"
        target.with_suffix(".tmp").write_text(json.dumps(part))
        os.replace(target.with_suffix(".tmp"), target)


def _add(folder: Path, number: int, root: Path, content: dict[str, Any]) -> None:
    files = list(image_files(folder / "images"))
    if len(files) != 1:
        raise ValueError(f"{folder / 'images'} holds {len(files)} images: there must be one")
    image = read_image(files[0])
    height, width = image.shape[:2]
    name = f"{folder.name}.png"
    _, encoded = cv2.imencode(".png", image[..., ::-1])
    (root / "images" / name).write_bytes(encoded.tobytes())
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
    for path in image_files(folder / "masks"):
        mask = read_image(path)[..., 0] > 127
        if mask.shape != (height, width):
            raise ValueError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}: "
                "unpack the archive again"
            )
        if not mask.any():
            continue  # the source has a few masks without a pixel
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": coco_mask.toBbox(rle).tolist(),
                "area": int(coco_mask.area(rle)),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
        )
