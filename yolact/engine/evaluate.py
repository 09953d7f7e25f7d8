"""Evaluation of a model on a data set: detections, COCO result files, and the table of box and mask AP."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from tqdm import tqdm

from data.coco import CocoDataset
from data.loader import build_dataset, eval_loader
from data.schema import Config
from yolact.engine.metrics import THRESHOLDS, Metrics, coco_metrics, read_annotations, read_json
from yolact.engine.predict import Predictor
from yolact.outputs import Detections

BOX_FILE, MASK_FILE = "bbox_detections.json", "mask_detections.json"
_PIXELS_AT_ONCE = 64 << 20  # mask pixels compared at a time while they are encoded


@dataclass(frozen=True)
class EvalResult:
    """Box and mask metrics (fractions), and what they were measured on. seconds covers everything but opening the data set."""

    bbox: Metrics
    segm: Metrics
    images: int
    seconds: float

    @property
    def box_ap(self) -> float:
        return self.bbox.ap

    @property
    def mask_ap(self) -> float:
        return self.segm.ap

    def table(self, *, per_class: bool = False) -> str:
        """YOLACT's table in percent, then AP by size, average recall, and on request AP of every class."""
        lines = _ruled(["all", *map(str, THRESHOLDS)],
                       {name: [m.ap, *m.per_threshold.values()] for name, m in self._rows()})
        lines += ["", *_ruled(["AP_S", "AP_M", "AP_L", "AR_1", "AR_10", f"AR_{self.segm.max_dets}", "AR_S", "AR_M", "AR_L"],
                              {name: [m.ap_small, m.ap_medium, m.ap_large, m.ar_1, m.ar_10, m.ar_max, m.ar_small, m.ar_medium, m.ar_large]
                               for name, m in self._rows()})]
        if self.segm.ap_at_100 is not None:
            lines += ["", f"with at most 100 detections an image (above: {self.segm.max_dets}): "
                      f"box AP {_percent(self.bbox.ap_at_100)}, mask AP {_percent(self.segm.ap_at_100)}"]
        if per_class:
            width = max(map(len, self.segm.per_class), default=0)
            lines += ["", f"{'class':<{width}}   box AP   mask AP"]
            lines += [f"{name:<{width}}   {_percent(self.bbox.per_class[name]):>6}   {_percent(ap):>7}"
                      for name, ap in self.segm.per_class.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; fractions, None where undefined."""
        return {"images": self.images, "seconds": round(self.seconds, 3), "bbox": self.bbox.to_dict(), "segm": self.segm.to_dict()}

    def _rows(self) -> tuple[tuple[str, Metrics], ...]:
        return ("box", self.bbox), ("mask", self.segm)


def evaluate(model: nn.Module, cfg: Config, *, device: torch.device | str, precision: str = "float32", max_images: int = 0,
             results_dir: str | Path | None = None, progress: bool = True, split: str = "val") -> EvalResult:
    """COCO metrics of a model on a split of cfg's data set, with the settings of cfg.eval.

    max_images   evaluate the first so many images only; 0 = all
    results_dir  also write bbox_detections.json (class scores) and mask_detections.json (mask scores) there, whole or not at all

    The modes of the model and its parts are as before afterwards. Raises ValueError for an empty data set or one that cannot be read.
    """
    dataset = build_dataset(cfg, split, mask_sizes=[], needs_full_masks=False)
    if results_dir is not None:
        Path(results_dir).mkdir(parents=True, exist_ok=True)  # before the work, so that an unwritable place costs nothing
    started = time.perf_counter()
    image_ids, boxes, masks = collect_results(model, cfg, dataset, device=device, precision=precision, max_images=max_images,
                                              progress=progress)
    if results_dir is not None:
        write_results(results_dir, boxes, masks)
    ground_truth = _ground_truth(dataset, cfg)
    bbox, segm = (coco_metrics(ground_truth, found, iou_type, cfg.eval.max_dets, image_ids=image_ids,
                               category_ids=set(dataset.category_of_label.values()))
                  for found, iou_type in ((boxes, "bbox"), (masks, "segm")))
    return EvalResult(bbox, segm, len(image_ids), time.perf_counter() - started)


def evaluate_files(ground_truth: str | Path | dict, box_file: str | Path, mask_file: str | Path, *, max_dets: int = 100) -> EvalResult:
    """The same metrics from result files that were written before. ValueError where a file is missing, cut off or of another data set."""
    started = time.perf_counter()
    name, content = read_annotations(ground_truth)
    metrics = []
    for path, iou_type in ((box_file, "bbox"), (mask_file, "segm")):
        detections = read_json(Path(path), "result file")
        if not isinstance(detections, list):
            raise ValueError(f"{path}: a COCO result file is a list of detections, this one holds a {type(detections).__name__}")
        try:
            metrics.append(coco_metrics(content, detections, iou_type, max_dets))
        except ValueError as error:
            raise ValueError(f"{path} against {name}: {error}") from None
    return EvalResult(*metrics, images=len(content["images"]), seconds=time.perf_counter() - started)


def collect_results(model: nn.Module, cfg: Config, dataset: CocoDataset, *, device: torch.device | str, precision: str = "float32",
                    max_images: int = 0, progress: bool = True) -> tuple[list, list[dict], list[dict]]:
    """Detections of the data set as COCO results: (ids of the images, box results, mask results), with the file's own ids."""
    image_ids, boxes, masks = [], [], []
    total = min(max_images or len(dataset), len(dataset))
    loader = eval_loader(cfg, dataset, limit=max_images)
    with evaluation_mode(model), tqdm(total=total, unit="image", desc="evaluating", disable=not progress, leave=False) as bar:
        predictor = Predictor(model, cfg, device, precision)
        for batch in loader:
            predictions = predictor.forward(batch.images.to(predictor.device, non_blocking=True))
            for image_id, detections in zip(batch.image_ids, predictor.detect(predictions, batch.original_sizes)):
                box_results, mask_results = coco_results(detections, image_id, dataset.category_of_label)
                image_ids.append(image_id)
                boxes += box_results
                masks += mask_results
            bar.update(len(batch.image_ids))
    return image_ids, boxes, masks


def coco_results(detections: Detections, image_id: int | str, category_of_label: dict[int, int | str]) -> tuple[list[dict], list[dict]]:
    """One image's detections as COCO results: boxes (xywh pixels, to 1/1000) with class scores, masks (RLE) with mask scores.

    Detections of a class that the annotation file has no category for (with label_map) are left out, as COCO leaves out such classes.
    """
    named = torch.tensor([label in category_of_label for label in detections.labels.tolist()], dtype=torch.bool)
    if not named.all():
        detections = detections.select(named.to(detections.labels.device))
    corners = detections.boxes.double().round(decimals=3)
    xywh = torch.cat([corners[:, :2], (corners[:, 2:] - corners[:, :2]).round(decimals=3)], 1).tolist()
    categories = [category_of_label[label] for label in detections.labels.tolist()]
    masks = encode_masks(detections.masks)
    boxes = [{"image_id": image_id, "category_id": category, "bbox": box, "score": score}
             for category, box, score in zip(categories, xywh, detections.scores.tolist())]
    return boxes, [{"image_id": image_id, "category_id": category, "segmentation": mask, "score": score}
                   for category, mask, score in zip(categories, masks, detections.mask_scores.tolist())]


def encode_masks(masks: Tensor) -> list[dict]:
    """(D,h,w) bool on any device -> D compressed COCO RLEs {"size": [h, w], "counts": str}.

    COCO counts runs down the columns. Runs are found where the masks lie, by comparing each pixel with the one before it; only the few
    places where they differ are sorted into column order and leave the device, so that neither a transposed copy nor the masks do.
    """
    d, h, w = masks.shape
    step = max(1, _PIXELS_AT_ONCE // max(1, h * w))
    runs = []
    for part in masks.split(step) if d else ():
        edges = torch.empty_like(part)
        torch.logical_xor(part[:, 1:], part[:, :-1], out=edges[:, 1:])
        torch.logical_xor(part[:, 0, 1:], part[:, -1, :-1], out=edges[:, 0, 1:])  # the top of a column follows the bottom of the last
        edges[:, 0, 0] = part[:, 0, 0]  # counts start with a run of zeros, empty where the first pixel is set
        flat = edges.view(-1)
        # numpy's search of a sparse array is several times faster than torch's on a CPU
        places = flat.nonzero()[:, 0] if flat.is_cuda else torch.from_numpy(np.flatnonzero(flat.numpy()))
        mask, pixel = places // (h * w), places % (h * w)
        starts = (mask * (h * w) + pixel % w * h + pixel // w).sort().values.cpu().numpy()  # (mask, column, row) as one number
        bounds = np.searchsorted(starts, np.arange(1, len(part)) * (h * w))
        runs += [np.diff(s % (h * w), prepend=0, append=h * w).tolist() for s in np.split(starts, bounds)]
    encoded = coco_mask.frPyObjects([{"size": [h, w], "counts": counts} for counts in runs], h, w) if runs else []
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]


def write_results(folder: str | Path, boxes: Sequence[dict], masks: Sequence[dict]) -> tuple[Path, Path]:
    """Write both result files, or neither; returns their paths. OSError where the folder cannot be written, with older files kept."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / BOX_FILE, folder / MASK_FILE
    partial = [path.with_name(f".{path.name}.partial") for path in paths]
    try:
        for path, results in zip(partial, (boxes, masks)):
            with path.open("w", encoding="utf-8") as file:
                json.dump(list(results), file)
                file.flush()
                os.fsync(file.fileno())
        for source, target in zip(partial, paths):
            os.replace(source, target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    return paths


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is as it was (frozen batch normalisation stays in evaluation mode)."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training:
            module.training = was_training


def _ground_truth(dataset: CocoDataset, cfg: Config) -> dict:
    """The annotation file's content; where label_map merges categories, under the one category that results carry."""
    _, content = read_annotations(dataset.annotation_file)
    if not cfg.data.label_map:
        return content
    label_of = {str(category): label for category, label in cfg.data.label_map.items()}

    def merged(category: int | str) -> int | str:
        return dataset.category_of_label[label_of[str(category)]] if str(category) in label_of else category
    return {**content, "annotations": [{**a, "category_id": merged(a["category_id"])} for a in content["annotations"]]}


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def _ruled(columns: list[str], rows: dict[str, list[float]]) -> list[str]:
    rule = "-------+" * (len(columns) + 1)
    lines = [" " * 7 + "|" + "|".join(f"{name:^7}" for name in columns) + "|", rule]
    lines += [f"{name:>6} |" + "|".join(f"{_percent(value):>6} " for value in values) + "|" for name, values in rows.items()]
    return [*lines, rule]
