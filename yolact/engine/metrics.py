"""COCO average precision of boxes and masks, for annotation files with any ids.

Areas and overlaps are pycocotools', and what follows is faster and the same (matching.py), so that
its own numbers are kept exactly: images without detections count, crowds are ignored,
classes without ground truth are left out of means. Only ids are renumbered on the way in: its
matcher stores "unmatched" as 0, so that a detection matched to annotation id 0 counts as false, and
ids that are strings do not fit its arrays.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from data.annotations import SoundContent, check_structure, read_coco, sort_content
from data.results import detection_problem
from data.rules import is_crowd, size_of
from data.segmentation import encoded, mask_lengths
from layers.problems import ProblemError, shown
from yolact.engine.matching import Evaluator

THRESHOLDS = tuple(range(50, 100, 5))  # IoU in percent
IouType = Literal["bbox", "segm"]
# what evaluation needs of an annotation file
_NEEDED = {"bbox": ("id",), "segm": ("id", "width", "height", "segmentation")}


@dataclass(frozen=True)
class Metrics:
    """COCO figures as fractions (0..1), NaN where nothing defines them (no ground truth of that
    class or size).

    ap             mean over IoU .50:.95 and over the classes that have ground truth, at most
                   max_dets detections an image
    per_threshold  {50: AP at IoU .50, 55: ..., 95: ...}
    ar_1, ar_10    average recall with 1 and 10 detections an image; ar_max with max_dets
    small, medium, large    areas below 32^2, between, above 96^2 pixels of the original image
    per_class      {class name: AP}; per_class_thresholds {class name: AP at the ten thresholds}
    ap_at_100      the same AP with COCO's standard 100 detections an image, None where max_dets is
                   100 or less
    """

    iou_type: IouType
    max_dets: int
    ap: float
    per_threshold: dict[int, float]
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_max: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]
    per_class_thresholds: dict[str, tuple[float, ...]]
    ap_at_100: float | None = None

    @property
    def ap50(self) -> float:
        return self.per_threshold[50]

    @property
    def ap75(self) -> float:
        return self.per_threshold[75]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes None."""

        def plain(value):
            if isinstance(value, dict):
                return {str(k): plain(v) for k, v in value.items()}
            if isinstance(value, (tuple, list)):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and math.isnan(value) else value

        return plain(asdict(self) | {"ap50": self.ap50, "ap75": self.ap75})


def coco_metrics(
    ground_truth: str | Path | dict,
    detections: Sequence[dict],
    iou_type: IouType,
    max_dets: int = 100,
    *,
    image_ids: Iterable | None = None,
    category_ids: Iterable | None = None,
) -> Metrics:
    """COCO metrics of a list of COCO results.

    ground_truth   annotation file or its content (left unchanged). As in pycocotools, annotations
                   of images that are not listed are left out. A missing area is computed from the
                   segmentation, else from the box.
    detections     dicts with image_id, category_id, score and bbox (xywh pixels) for 'bbox', or
                   segmentation (RLE) for 'segm'; for 'segm' the area is the mask's. Order decides
                   between equal scores, as in pycocotools.
    image_ids      evaluate these images only
    category_ids   evaluate these categories only (a model may know some of the file's)

    Raises ValueError for an unreadable file, an unknown image or category id, a missing field, or a
    score that is not a number.
    """
    return summarise(
        run_coco(
            ground_truth,
            detections,
            iou_type,
            max_dets,
            image_ids=image_ids,
            category_ids=category_ids,
        )
    )


@dataclass(frozen=True)
class CocoRun:
    """pycocotools after matching, whose images and categories are numbered from 1 in the order of
    image_ids and category_ids."""

    evaluator: Evaluator
    iou_type: IouType
    image_ids: tuple
    category_ids: tuple
    class_names: tuple[str, ...]

    @property
    def max_dets(self) -> int:
        return self.evaluator.params.maxDets[-1]


def run_coco(
    ground_truth: str | Path | dict,
    detections: Sequence[dict],
    iou_type: IouType,
    max_dets: int = 100,
    *,
    image_ids: Iterable | None = None,
    category_ids: Iterable | None = None,
) -> CocoRun:
    """The matching behind coco_metrics(), which takes and raises the same."""
    if max_dets < 1:
        raise ValueError(f"max_dets={max_dets}: use at least 1")
    ids, gt, results = coco_inputs(
        ground_truth, detections, iou_type, image_ids=image_ids, category_ids=category_ids
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = Evaluator(_as_coco(gt), _as_coco(results), iou_type)
        evaluator.params.maxDets = sorted(
            {limit for limit in (1, 10, 100) if limit < max_dets} | {max_dets}
        )
        evaluator.evaluate()
    return CocoRun(evaluator, iou_type, tuple(ids.images), tuple(ids.categories), ids.class_names)


def coco_inputs(
    ground_truth: str | Path | dict,
    detections: Sequence[dict],
    iou_type: IouType,
    *,
    image_ids: Iterable | None = None,
    category_ids: Iterable | None = None,
) -> tuple[Ids, dict, dict]:
    """Ground truth and detections as COCO data sets that any of COCO's evaluators takes: ids from
    1, areas filled in.

    Takes and raises what coco_metrics() does.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type={iou_type!r}: use 'bbox' or 'segm'")
    name, content = read_annotations(ground_truth)
    sound = sort_content(content, needed=_NEEDED[iou_type])
    sound.check(name)
    ids = _new_ids(name, sound, image_ids, category_ids)
    gt = _renumber(name, sound, iou_type, ids)
    found = _renumber_detections(name, sound, detections, iou_type, ids)
    return ids, gt, {**gt, "annotations": found}


def read_annotations(ground_truth: str | Path | dict) -> tuple[str, dict]:
    """(name for messages, content) of a COCO-format annotation file or dict; ValueError when it is
    missing, cut off or of another form."""
    if isinstance(ground_truth, dict):
        name, content = "the ground truth", ground_truth
        check_structure(content, name)
    else:
        name, content = str(ground_truth), read_coco(ground_truth)
    if not content["images"]:
        raise ValueError(
            f"{name}: lists no images, so there is nothing to evaluate: give an annotation file "
            "with at least one image"
        )
    return name, content


@dataclass(frozen=True)
class Ids:
    """Original id -> 1..n of what is evaluated, and the ids of the file that are not."""

    images: dict
    categories: dict
    class_names: tuple[str, ...]
    other_images: frozenset
    other_categories: frozenset


def _new_ids(
    name: str,
    sound: SoundContent,
    image_ids: Iterable | None,
    category_ids: Iterable | None,
) -> Ids:
    def number(what: str, listed: Collection, wanted: set) -> tuple[dict, frozenset]:
        unknown = wanted - set(listed)
        if unknown:
            raise ValueError(
                f"{name}: {len(unknown)} of the {what} ids to evaluate are not in it, such as "
                f"{next(iter(unknown))!r}"
            )
        if not wanted:
            raise ValueError(f"{name}: no {what} ids to evaluate: give at least one")
        # in the order of the original ids, as pycocotools goes through them: it decides between
        # equal scores of two images
        ordered = sorted(wanted, key=lambda i: (isinstance(i, str), i))
        return {original: new for new, original in enumerate(ordered, 1)}, frozenset(
            listed
        ) - wanted

    listed = [category["id"] for category in sound.categories]
    images, other_images = number(
        "image",
        sound.images,
        sound.images.keys() - sound.spoiled if image_ids is None else set(image_ids),
    )
    categories, other_categories = number(
        "category", listed, set(listed if category_ids is None else category_ids)
    )
    return Ids(
        images,
        categories,
        _class_names(sound.categories, categories),
        other_images,
        other_categories,
    )


def _renumber(name: str, sound: SoundContent, iou_type: IouType, ids: Ids) -> dict:
    """The ground truth with new ids, of the chosen images and categories."""
    annotations: list[dict] = []
    sizes = {original: size_of(sound.images[original]) for original in ids.images}
    for annotation in sound.annotations:
        image = annotation["image_id"]
        if image in ids.images and annotation["category_id"] in ids.categories:
            number = len(annotations) + 1
            annotations.append(_annotation(name, annotation, iou_type, ids, sizes[image], number))
    return {
        "images": [
            {"id": new, "height": size and size[0], "width": size and size[1]}
            for new, size in zip(ids.images.values(), sizes.values())
        ],
        "annotations": annotations,
        "categories": [{"id": new} for new in ids.categories.values()],
    }


def _annotation(
    name: str,
    annotation: dict,
    iou_type: IouType,
    ids: Ids,
    size: tuple[int, int] | None,
    number: int,
) -> dict:
    """A copy with new ids, and with area and box filled in where they are missing."""
    # a segmentation reaches C code only where its size was compared with the image's
    keys = ("bbox", "area") if size is None else ("segmentation", "bbox", "area")
    kept = {key: annotation[key] for key in keys if annotation.get(key) not in (None, [])}
    kept |= {
        "id": number,
        "image_id": ids.images[annotation["image_id"]],
        "category_id": ids.categories[annotation["category_id"]],
        "iscrowd": int(is_crowd(annotation)),
    }
    if "area" in kept and (iou_type == "segm" or "bbox" in kept):
        return kept
    if size is not None and "segmentation" in kept:
        mask = encoded(kept["segmentation"], *size)
        kept.setdefault("area", float(rle.area(mask)))
        kept.setdefault("bbox", rle.toBbox(mask).tolist())
    elif "bbox" in kept:
        kept["area"] = float(kept["bbox"][2] * kept["bbox"][3])
    else:
        raise ValueError(
            f"{name}: annotation {annotation.get('id')!r} (image {annotation['image_id']!r}) has "
            "neither a bbox nor a segmentation in an image of known height and width: add one or "
            "remove the annotation"
        )
    return kept


def _renumber_detections(
    name: str, sound: SoundContent, detections: Sequence[dict], iou_type: IouType, ids: Ids
) -> list[dict]:
    """Results as pycocotools' loadRes makes them, with new ids. (loadRes refuses an empty list, and
    takes a box's area for a mask's.)"""
    field = "bbox" if iou_type == "bbox" else "segmentation"
    lengths = mask_lengths(detections) if iou_type == "segm" else [None] * len(detections)
    results: list[dict] = []
    for index, (detection, pixels) in enumerate(zip(detections, lengths)):
        missing = [
            key for key in ("image_id", "category_id", "score", field) if key not in detection
        ]
        if missing:
            raise ValueError(
                f"detection {index} has no {' and no '.join(missing)}: {iou_type} results need "
                f"image_id, category_id, score and {field}"
            )
        if (
            detection["image_id"] in ids.other_images
            or detection["category_id"] in ids.other_categories
        ):
            continue
        for key, known in (("image_id", ids.images), ("category_id", ids.categories)):
            if detection[key] not in known:
                raise ValueError(
                    f"detection {index} has {key} {detection[key]!r}, which is not in {name}: "
                    "these results belong to another annotation file, or their ids are of another "
                    "type (a number is not a string)"
                )
        size = size_of(sound.images[detection["image_id"]])
        found = detection_problem(detection, field, size, pixels)
        if found is not None:
            image = shown(detection["image_id"])
            raise ProblemError(found.at(f"detection {index} (image {image})"))
        if size is not None and iou_type == "segm":
            described = encoded(detection["segmentation"], *size)
            # one mask at a time: pycocotools 2.0.11 with numpy 2 fails on the areas of more than
            # 255
            area = int(rle.area(described))
        else:
            described = detection["bbox"]
            area = described[2] * described[3]
        results.append(
            {
                "id": len(results) + 1,
                "image_id": ids.images[detection["image_id"]],
                "category_id": ids.categories[detection["category_id"]],
                "iscrowd": 0,
                "score": detection["score"],
                field: described,
                "area": area,
            }
        )
    return results


def _as_coco(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _class_names(categories: list[dict], chosen: Iterable) -> tuple[str, ...]:
    """Names of the chosen ids; the id is added where two categories share a name."""
    by_id = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    names = {original: by_id[original] for original in chosen}
    repeated = Counter(names.values())
    return tuple(
        name if repeated[name] == 1 else f"{name} ({original})" for original, name in names.items()
    )


def summarise(run: CocoRun) -> Metrics:
    """COCO's figures of a matching."""
    evaluator, limits = run.evaluator, run.evaluator.params.maxDets
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    # (T,R,C,areas,limits)
    precision = np.where(evaluator.eval["precision"] < 0, np.nan, evaluator.eval["precision"])
    # (T,C,areas,limits)
    recall = np.where(evaluator.eval["recall"] < 0, np.nan, evaluator.eval["recall"])

    def mean(values: np.ndarray) -> float:
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else math.nan

    def average_recall(limit: int, area: int = 0) -> float:
        return mean(recall[:, :, area, limits.index(min(limit, limits[-1]))])

    return Metrics(
        iou_type=run.iou_type,
        max_dets=limits[-1],
        ap=mean(precision[..., 0, -1]),
        per_threshold={t: mean(precision[i, :, :, 0, -1]) for i, t in enumerate(THRESHOLDS)},
        ap_small=mean(precision[..., 1, -1]),
        ap_medium=mean(precision[..., 2, -1]),
        ap_large=mean(precision[..., 3, -1]),
        ar_1=average_recall(1),
        ar_10=average_recall(10),
        ar_max=average_recall(limits[-1]),
        ar_small=average_recall(limits[-1], 1),
        ar_medium=average_recall(limits[-1], 2),
        ar_large=average_recall(limits[-1], 3),
        per_class={name: mean(precision[:, :, c, 0, -1]) for c, name in enumerate(run.class_names)},
        per_class_thresholds={
            name: tuple(mean(precision[i, :, c, 0, -1]) for i in range(len(THRESHOLDS)))
            for c, name in enumerate(run.class_names)
        },
        ap_at_100=mean(precision[..., 0, limits.index(100)]) if limits[-1] > 100 else None,
    )
