"""The same objects under several runs, enlarged until their outlines can be told apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from data.loader import build_dataset
from data.resolve import RUN_CONFIG, load_config
from data.results import read_results
from data.segmentation import encoded
from yolact.draw import gallery
from yolact.engine.evaluate import coco_ground_truth
from yolact.files import writing
from yolact.run_files import MASK_DETECTIONS

CELL = 320  # longer side of an object's picture, in pixels
TRUTH, FOUND = (255, 255, 255), (213, 94, 0)  # RGB of the two outlines
FOUND_AT = 0.5  # mask IoU


def draw_edges(
    runs: Mapping[str, str | Path], out: str | Path, *, objects: int = 4
) -> dict[str, list[float]]:
    """Writes a picture with a row an object and a column a run: the ground truth's outline in
    white, the run's in orange. Returns the mask IoUs of the objects, by run.

    runs: folders of runs with the detections of their last validation, by title. The objects are
    those that every run finds with a mask IoU of at least FOUND_AT, spread evenly from the largest
    to the smallest, so not chosen by result. ValueError where there are none."""
    folders = {title: Path(folder) for title, folder in runs.items()}
    cfg = load_config(next(iter(folders.values())) / RUN_CONFIG)
    dataset = build_dataset(cfg, "val")
    truth = coco_ground_truth(dataset, cfg)
    images = {image["id"]: image for image in truth["images"]}
    annotations = [a for a in truth["annotations"] if not a.get("iscrowd")]
    found = {title: _best(folder, annotations, images) for title, folder in folders.items()}
    common = [a for a in annotations if all(a["id"] in best for best in found.values())]
    if not common:
        raise ValueError(f"no object is found by all of {', '.join(folders)}")
    common.sort(key=lambda a: -a["area"])
    count = min(objects, len(common))
    chosen = [common[i * len(common) // count] for i in range(count)]
    tiles, captions = [], []
    for annotation in chosen:
        picture = dataset.load_image(dataset.image_ids.index(annotation["image_id"]))
        own = _pixels(annotation, images)
        for title, best in found.items():
            iou, mask = best[annotation["id"]]
            tiles.append(_outlined(picture, own, mask))
            captions.append(f"{title}: {iou:.2f}")
    sheet = gallery(tiles, columns=len(folders), cell=(CELL, CELL), captions=captions)
    with writing(out):
        cv2.imwrite(str(out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return {title: [best[a["id"]][0] for a in chosen] for title, best in found.items()}


def _best(folder: Path, annotations: list, images: Mapping) -> dict:
    """{id of a ground truth: (IoU, mask (h,w) bool) of the detection of its class that fits it
    best}, those of FOUND_AT and more."""
    by_place: dict = {}
    for entry in read_results(folder / MASK_DETECTIONS):
        by_place.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
    best = {}
    for a in annotations:
        entries = by_place.get((a["image_id"], a["category_id"]), [])
        if not entries:
            continue
        masks = [entry["segmentation"] for entry in entries]
        ious = coco_mask.iou(masks, [_rle(a, images)], [0])[:, 0]
        first = int(ious.argmax())
        if ious[first] >= FOUND_AT:
            best[a["id"]] = float(ious[first]), coco_mask.decode(masks[first]).astype(bool)
    return best


def _rle(annotation: Mapping, images: Mapping) -> dict:
    image = images[annotation["image_id"]]
    return encoded(annotation["segmentation"], image["height"], image["width"])


def _pixels(annotation: Mapping, images: Mapping) -> np.ndarray:
    return coco_mask.decode(_rle(annotation, images)).astype(bool)


def _outlined(picture: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The part of the picture around both masks, enlarged by whole pixels, with their outlines."""
    rows, columns = np.nonzero(truth | mask)
    y1, y2 = max(rows.min() - 3, 0), rows.max() + 4
    x1, x2 = max(columns.min() - 3, 0), columns.max() + 4
    part = picture[y1:y2, x1:x2]
    times = max(1, CELL // max(part.shape[:2]))
    shown = _enlarged(part, times)
    for one, colour in ((truth, TRUTH), (mask, FOUND)):
        outlines, _ = cv2.findContours(
            _enlarged(one[y1:y2, x1:x2].astype(np.uint8), times),
            cv2.RETR_LIST,
            cv2.CHAIN_APPROX_NONE,
        )
        cv2.drawContours(shown, outlines, -1, colour, 2, cv2.LINE_AA)
    return shown


def _enlarged(pixels: np.ndarray, times: int) -> np.ndarray:
    return np.ascontiguousarray(pixels.repeat(times, 0).repeat(times, 1))
