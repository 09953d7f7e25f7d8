"""Evaluation of a model on a data set: detections, COCO result files, and the table of box and mask
AP."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from data.annotations import read_sound
from data.coco import CocoDataset
from data.contents import parse_json
from data.loader import build_dataset, eval_loader
from data.results import read_results
from data.rules import Id, is_id
from data.schema import Config
from layers.problems import DataWarning
from yolact.engine.datasets import OwnItems
from yolact.engine.metrics import (
    THRESHOLDS,
    CocoRun,
    IouType,
    Metrics,
    run_coco,
    summarise,
)
from yolact.engine.precision import Choice, choose
from yolact.engine.predict import Predictor
from yolact.engine.records import coco_records, write_records
from yolact.files import writing
from yolact.finite import Diverged
from yolact.model import Yolact
from yolact.outputs import Detections, Predictions
from yolact.run_files import BOX_FILE, MASK_FILE


@dataclass(frozen=True)
class EvalResult:
    """Box and mask metrics (fractions), and what they were measured on. seconds covers everything
    but opening the data set."""

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

    def threshold_table(self) -> str:
        """YOLACT's table: AP in percent, over all IoU thresholds and at each."""
        rows = {name: [m.ap, *m.per_threshold.values()] for name, m in self._rows()}
        return "\n".join(_ruled(["all", *map(str, THRESHOLDS)], rows))

    def table(self, *, per_class: bool = False) -> str:
        """YOLACT's table, then AP by size, average recall, and on request AP of every class."""
        lines = [self.threshold_table()]
        lines += [
            "",
            *_ruled(
                [
                    "AP_S",
                    "AP_M",
                    "AP_L",
                    "AR_1",
                    "AR_10",
                    f"AR_{self.segm.max_dets}",
                    "AR_S",
                    "AR_M",
                    "AR_L",
                ],
                {
                    name: [
                        m.ap_small,
                        m.ap_medium,
                        m.ap_large,
                        m.ar_1,
                        m.ar_10,
                        m.ar_max,
                        m.ar_small,
                        m.ar_medium,
                        m.ar_large,
                    ]
                    for name, m in self._rows()
                },
            ),
        ]
        if self.segm.ap_at_100 is not None and self.bbox.ap_at_100 is not None:
            lines += [
                "",
                f"with at most 100 detections an image (above: {self.segm.max_dets}): "
                f"box AP {_percent(self.bbox.ap_at_100)}, mask AP {_percent(self.segm.ap_at_100)}",
            ]
        if per_class:
            width = max(map(len, self.segm.per_class), default=0)
            lines += ["", f"{'class':<{width}}   box AP   mask AP"]
            lines += [
                f"{name:<{width}}   {_percent(self.bbox.per_class[name]):>6}   {_percent(ap):>7}"
                for name, ap in self.segm.per_class.items()
            ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; fractions, None where undefined."""
        return {
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "bbox": self.bbox.to_dict(),
            "segm": self.segm.to_dict(),
        }

    def _rows(self) -> tuple[tuple[str, Metrics], ...]:
        return ("box", self.bbox), ("mask", self.segm)


def evaluate(
    model: Yolact,
    cfg: Config,
    *,
    device: torch.device | str,
    precision: str | None = None,
    choice: Choice | None = None,
    max_images: int = 0,
    results_dir: str | Path | None = None,
    result_files: tuple[Path, Path] | None = None,
    records_file: str | Path | None = None,
    note: Mapping[str, Any] | None = None,
    progress: bool = True,
    split: str = "val",
    dataset: CocoDataset | OwnItems | None = None,
) -> EvalResult:
    """COCO metrics of a model on a split of cfg's data set, with the settings of cfg.eval.

    precision     as of yolact.engine.precision.choose; None = cfg.eval's, or float32
    choice        what that made of it before, in its place
    dataset       evaluate on this one instead; it names its annotation file
    max_images    evaluate the first so many images only; 0 = all
    results_dir   also write bbox_detections.json (class scores) and mask_detections.json (mask
                  scores) there, whole or not at all
    result_files  the same under other names: (box file, mask file)
    records_file  also write per-image records there (yolact.engine.records), with `note` on what
                  was evaluated

    The modes of the model and its parts are as before afterwards. Raises ValueError for an empty
    data set or one that cannot be read.
    """
    if dataset is None:
        dataset = build_dataset(cfg, split, mask_sizes=[], needs_full_masks=False)
    _needs_truth(dataset)
    if results_dir is not None:
        result_files = Path(results_dir) / BOX_FILE, Path(results_dir) / MASK_FILE
    for path in (*(result_files or ()), *([Path(records_file)] if records_file else ())):
        # before the work, so that an unwritable place costs nothing
        path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    choice = choice or choose(torch.device(device), precision or cfg.eval.precision)
    image_ids, boxes, masks = collect_results(
        model,
        cfg,
        dataset,
        device=device,
        choice=choice,
        max_images=max_images,
        progress=progress,
    )
    if result_files is not None:
        write_results(
            *result_files, boxes, masks, image_ids if len(image_ids) < len(dataset) else None
        )
    box_run, mask_run = _runs(dataset, cfg, image_ids, boxes, masks)
    if records_file is not None:
        settings = {
            "data": cfg.data.name,
            "split": split,
            "eval": cfg.eval.model_dump(mode="json", exclude={"precision"}),
            "precision": choice.short,
        }
        write_records(
            records_file,
            coco_records({"mask": mask_run, "box": box_run}, {**settings, **(note or {})}),
        )
    return EvalResult(
        summarise(box_run), summarise(mask_run), len(image_ids), time.perf_counter() - started
    )


def write_detections(
    model: Yolact,
    cfg: Config,
    *,
    device: torch.device | str,
    result_files: tuple[Path, Path],
    precision: str | None = None,
    choice: Choice | None = None,
    max_images: int = 0,
    progress: bool = True,
) -> int:
    """Detections on the validation images as COCO results in (box file, mask file), whole or not at
    all: what an evaluation server takes of a set whose ground truth it keeps. Returns the number of
    images; precision, choice, max_images and errors as of evaluate()."""
    dataset = build_dataset(cfg, "val", mask_sizes=[], needs_full_masks=False)
    for path in result_files:
        path.parent.mkdir(parents=True, exist_ok=True)
    image_ids, boxes, masks = collect_results(
        model,
        cfg,
        dataset,
        device=device,
        choice=choice or choose(torch.device(device), precision or cfg.eval.precision),
        max_images=max_images,
        progress=progress,
    )
    some = image_ids if len(image_ids) < len(dataset) else None
    write_results(*result_files, boxes, masks, some)
    return len(image_ids)


def evaluate_files(
    cfg: Config,
    box_file: str | Path,
    mask_file: str | Path,
    *,
    max_images: int = 0,
    split: str = "val",
) -> EvalResult:
    """The same metrics from result files that were written before, on the images that they were
    made from.

    max_images: score the first so many of them only; 0 = all. ValueError where a file is missing,
    cut off or of another data set.
    """
    dataset = build_dataset(cfg, split)
    _needs_truth(dataset)
    started = time.perf_counter()
    image_ids = dataset.image_ids
    if images_file(box_file).exists():
        image_ids = _read_ids(images_file(box_file))
    image_ids = image_ids[: max_images or None]
    boxes, masks = (read_results(path) for path in (box_file, mask_file))
    try:
        bbox, segm = map(summarise, _runs(dataset, cfg, image_ids, boxes, masks))
    except ValueError as error:
        raise ValueError(
            f"{box_file} and {mask_file} against {dataset.annotation_file}: {error}"
        ) from None
    return EvalResult(bbox, segm, len(image_ids), time.perf_counter() - started)


def _read_ids(path: Path) -> list[Id]:
    content = parse_json(path, "list of evaluated images")
    if not isinstance(content, list) or not all(map(is_id, content)):
        raise ValueError(f"{path} holds no list of image ids: give the file that evaluation wrote")
    return content


def _runs(
    dataset: CocoDataset | OwnItems,
    cfg: Config,
    image_ids: Sequence[Id],
    boxes: list[dict],
    masks: list[dict],
) -> list[CocoRun]:
    """Boxes and masks of COCO results, matched on the given images."""
    ground_truth = coco_ground_truth(dataset, cfg)
    kinds: tuple[tuple[list[dict], IouType], ...] = ((boxes, "bbox"), (masks, "segm"))
    return [
        run_coco(
            ground_truth,
            found,
            iou_type,
            cfg.eval.max_dets,
            image_ids=image_ids,
            category_ids=set(dataset.category_of_label.values()),
        )
        for found, iou_type in kinds
    ]


def collect_results(
    model: Yolact,
    cfg: Config,
    dataset: CocoDataset | OwnItems,
    *,
    device: torch.device | str,
    choice: Choice,
    max_images: int = 0,
    progress: bool = True,
) -> tuple[list, list[dict], list[dict]]:
    """Detections of the data set as COCO results: (ids of the images, box results, mask results),
    with the file's own ids.

    Diverged, a ValueError, where the predictions are not finite. Under train.on_nonfinite=skip, by
    which diverged runs reach their end, a DataWarning says so, and their images have no detections.
    """
    image_ids, boxes, masks = [], [], []
    total = min(max_images or len(dataset), len(dataset))
    loader = eval_loader(
        cfg, dataset, limit=max_images, pin_memory=torch.device(device).type == "cuda"
    )
    with (
        evaluation_mode(model),
        tqdm(
            total=total, unit="image", desc="evaluating", disable=not progress, leave=False
        ) as bar,
    ):
        predictor = Predictor(model, cfg, device, choice=choice)
        for batch in loader:
            predictions = predictor.forward(batch.images.to(predictor.device, non_blocking=True))
            image_ids += batch.image_ids
            for image_id, detections in zip(
                batch.image_ids, _detected(predictor, predictions, batch.original_sizes)
            ):
                box_results, mask_results = coco_results(
                    detections, image_id, dataset.category_of_label
                )
                boxes += box_results
                masks += mask_results
            bar.update(len(batch.image_ids))
    return image_ids, boxes, masks


def _detected(
    predictor: Predictor, predictions: Predictions, sizes: Sequence[tuple[int, int]]
) -> list[Detections]:
    """Detections of a batch, none of it where collect_results() tolerates divergence."""
    try:
        return predictor.detect(predictions, sizes)
    except Diverged as error:
        if predictor.cfg.train.on_nonfinite == "stop":
            raise
        warnings.warn(f"{error}; it detects nothing", DataWarning, stacklevel=2)
        return []


def coco_results(
    detections: Detections, image_id: int | str, category_of_label: dict[int, int | str]
) -> tuple[list[dict], list[dict]]:
    """One image's detections as COCO results: boxes (xywh pixels, to 1/1000) with class scores,
    masks (RLE) with mask scores.

    Detections of a class that the annotation file has no category for (with label_map) are left
    out, as COCO leaves out such classes.
    """
    boxes, masks = (
        detections.to_coco(image_id=image_id, kind=kind, categories=category_of_label)
        for kind in ("box", "mask")
    )
    return boxes, masks


def write_results(
    box_file: str | Path,
    mask_file: str | Path,
    boxes: Sequence[dict],
    masks: Sequence[dict],
    image_ids: Sequence[Id] | None = None,
) -> None:
    """Write both result files, or neither. OSError where they cannot be written, with older files
    kept; ValueError for one path twice.

    image_ids: the images that were evaluated, where these are not all of the set. They are kept
    beside the box file, in images_file(), since results do not tell an image without detections
    from one that was not looked at.
    """
    contents: dict[Path, Sequence] = {Path(box_file): boxes, Path(mask_file): masks}
    if len(contents) < 2:
        raise ValueError(f"{box_file}: boxes and masks need a file each: give two names")
    if image_ids is not None:
        contents[images_file(box_file)] = image_ids
    partial = {path: path.with_name(f".{path.name}.partial") for path in contents}
    try:
        for path, content in contents.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial[path].open("w", encoding="utf-8") as file:
                    json.dump(list(content), file)
                    file.flush()
                    os.fsync(file.fileno())
        for target, source in partial.items():
            os.replace(source, target)
        if image_ids is None:
            images_file(box_file).unlink(missing_ok=True)  # of an earlier evaluation
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def images_file(box_file: str | Path) -> Path:
    """Where write_results() keeps the ids of the evaluated images: bbox_detections.json ->
    bbox_detections.images.json."""
    return Path(box_file).with_suffix(".images.json")


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is as it was (frozen batch normalisation stays
    in evaluation mode)."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training:
            module.training = was_training


def _needs_truth(dataset: CocoDataset | OwnItems) -> None:
    """ValueError where AP cannot be found on a data set."""
    if dataset.annotation_file is None:
        raise ValueError(
            "COCO's AP needs the data set's annotation file: give the data set an annotation_file"
        )
    if not dataset.has_truth:
        raise ValueError(
            f"{dataset.annotation_file} lists images without annotations (data.val_truth=false), "
            "so there is no AP: write the detections with eval.py, for the server that keeps the "
            "ground truth"
        )


def coco_ground_truth(dataset: CocoDataset | OwnItems, cfg: Config) -> dict:
    """The annotation file's content; with label_map, its classes instead of the file's categories,
    under the ids that results carry."""
    _needs_truth(dataset)
    assert dataset.annotation_file is not None, "it has the ground truth"
    label_map, category_of_label = cfg.data.label_map, dataset.category_of_label
    sound = read_sound(dataset.annotation_file, more_categories=label_map or ())
    content = {
        "images": list(sound.images.values()),
        "categories": sound.categories,
        "annotations": sound.annotations,
    }
    if label_map is None:
        return content
    return {
        **content,
        "categories": [
            {"id": key, "name": cfg.data.class_names[label]}
            for label, key in category_of_label.items()
        ],
        "annotations": [
            {**a, "category_id": category_of_label[label_map[a["category_id"]]]}
            for a in sound.annotations
            if label_map.get(a["category_id"]) in category_of_label
        ],
    }


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def _ruled(columns: list[str], rows: dict[str, list[float]]) -> list[str]:
    rule = "-------+" * (len(columns) + 1)
    lines = [" " * 7 + "|" + "|".join(f"{name:^7}" for name in columns) + "|", rule]
    lines += [
        f"{name:>6} |" + "|".join(f"{_percent(value):>6} " for value in values) + "|"
        for name, values in rows.items()
    ]
    return [*lines, rule]
