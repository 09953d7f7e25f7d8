"""Processor time of one training sample, from the file to the tensors, by the size of the
picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch

from data.cigarettes.generate import generate
from data.images import read_image
from data.loader import build_dataset
from data.schema import Config

# name of the row -> side of the generated pictures, and (width, height) of the photos made of them
SIZES: dict[str, tuple[int, tuple[int, int] | None]] = {
    "256 px": (256, None),
    "512 px": (512, None),
    "12 megapixels": (512, (4000, 3000)),
}
SETTINGS: dict[str, dict[str, object]] = {
    "as published, ms": {"photometric_at": "image", "reduced_decode": False},
    "at network": {"photometric_at": "network", "reduced_decode": False},
    "and reduced": {"photometric_at": "network", "reduced_decode": True},
}
PICTURES = 8


def sample_times(
    cfg: Config, folder: Path, mask_sizes: list[tuple[int, int]], seconds: float
) -> dict[str, dict[str, float]]:
    """Mean milliseconds of processor time of a sample on one thread, {size: {setting: value}}. The
    settings take turns, on the same pictures and draws; a size takes about `seconds`."""
    rows = {}
    for name, (side, photo) in SIZES.items():
        root = folder / name.split()[0]
        generate(root, train=PICTURES, val=1, size=side, progress=False)
        if photo is not None:
            _enlarge(root / "train", photo)
        data = cfg.data.model_copy(
            update={
                "root": str(root),
                "train_images": "train/images",
                "train_annotations": "train/coco_annotations.json",
                "label_map": {1: 0},
            }
        )
        sets = [
            build_dataset(
                cfg.model_copy(
                    update={"data": data, "augment": cfg.augment.model_copy(update=changes)}
                ),
                "train",
                mask_sizes=mask_sizes,
            )
            for changes in SETTINGS.values()
        ]
        rows[name] = dict(zip(SETTINGS, _in_turns(sets, seconds)))
    return rows


def _in_turns(sets: list, seconds: float) -> list[float]:
    """Mean milliseconds of a sample of each data set, over whole rounds of their pictures."""
    taken: list[list[float]] = [[] for _ in sets]
    threads, end, epoch = torch.get_num_threads(), time.perf_counter() + seconds, 0
    torch.set_num_threads(1)
    try:
        for dataset in sets:
            dataset[0, 0]
        while epoch == 0 or time.perf_counter() < end:
            for index in range(PICTURES):
                for dataset, times in zip(sets, taken):
                    start = time.process_time()
                    dataset[epoch, index]
                    times.append(time.process_time() - start)
            epoch += 1
    finally:
        torch.set_num_threads(threads)
    return [1e3 * mean(times) for times in taken]


def _enlarge(split: Path, size: tuple[int, int]) -> None:
    """Makes photos of `size` (width, height) of a split's pictures, with noise as of a sensor."""
    path = split / "coco_annotations.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    for entry in content["images"]:
        file = str(split / "images" / entry["file_name"])
        image = cv2.resize(read_image(file), size, interpolation=cv2.INTER_CUBIC)
        noisy = image + rng.integers(-8, 9, image.shape, dtype=np.int16)
        cv2.imwrite(file, noisy.clip(0, 255).astype(np.uint8)[..., ::-1])
    scales = [size[0] / content["images"][0]["width"], size[1] / content["images"][0]["height"]]
    for entry in content["annotations"]:
        entry["bbox"] = (np.array(entry["bbox"]) * [*scales, *scales]).tolist()
        entry["segmentation"] = [
            (np.array(ring).reshape(-1, 2) * scales).ravel().round(2).tolist()
            for ring in entry["segmentation"]
        ]
    for entry in content["images"]:
        entry["width"], entry["height"] = size
    path.write_text(json.dumps(content), encoding="utf-8")
