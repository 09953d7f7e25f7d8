"""Boundary AP (Cheng et al., Boundary IoU, CVPR 2021) by faster-coco-eval, where it is installed:
pip install -e ".[boundary]"."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from data.loader import build_dataset
from data.results import read_results
from yolact.engine.evaluate import coco_ground_truth
from yolact.engine.metrics import coco_inputs
from yolact.run_files import MASK_DETECTIONS
from yolact.study.statistics.finished import FinishedRun

DILATION = 0.02  # of the image's diagonal


LEFT_OUT = (
    "--boundary: faster-coco-eval is not installed, so boundary AP is left out (pip install -e "
    '".[boundary]")'
)


def available() -> bool:
    return find_spec("faster_coco_eval") is not None


def boundary_ap(
    ground_truth: str | Path | dict,
    results: Sequence[dict],
    max_dets: int = 100,
    *,
    image_ids: Iterable | None = None,
    category_ids: Iterable | None = None,
) -> dict[str, float]:
    """{'boundary_ap', 'boundary_ap50', 'boundary_ap75'} of mask results, in AP points; NaN without
    ground truth.

    An instance is found where min(mask IoU, IoU of the two bands of width .02 of the diagonal along
    the inner edge) reaches the threshold. Raises ModuleNotFoundError where faster-coco-eval is not
    installed, and ValueError as coco_metrics() does.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    _, gt, found = coco_inputs(
        ground_truth, results, "segm", image_ids=image_ids, category_ids=category_ids
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval_faster(
            _coco(COCO, gt),
            _coco(COCO, found),
            "boundary",
            boundary_dilation_ratio=DILATION,
            boundary_cpu_count=1,
            print_function=lambda *_: None,
        )
        evaluator.params.maxDets = [1, min(10, max_dets), max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    # (T,R,C)
    precision = np.where(evaluator.eval["precision"] < 0, np.nan, evaluator.eval["precision"])[
        ..., 0, -1
    ]

    def points(values: np.ndarray) -> float:
        return 100 * float(np.nanmean(values)) if (~np.isnan(values)).any() else float("nan")

    return {
        "boundary_ap": points(precision),
        "boundary_ap50": points(precision[0]),
        "boundary_ap75": points(precision[5]),
    }


def boundary_of_run(run: FinishedRun, ground_truth: str | Path | None = None) -> dict[str, float]:
    """boundary_ap() of a run, from results/mask_detections.json of its last validation, or of a
    COCO results file on `ground_truth`.

    ValueError where the run keeps no mask results, or its data set cannot be read.
    """
    if run.path.suffix == ".json":
        if ground_truth is None:
            raise ValueError(f"{run.path}: results need their ground truth, an annotation file")
        return boundary_ap(ground_truth, read_results(run.path), run.max_dets)
    dataset = build_dataset(run.config, run.note.get("split", "val"))
    return boundary_ap(
        coco_ground_truth(dataset, run.config),
        read_results(run.folder / MASK_DETECTIONS),
        run.max_dets,
        image_ids=run.records().image_ids,
        category_ids=set(dataset.category_of_label.values()),
    )


def _coco(kind, dataset: dict):
    coco = kind()
    coco.dataset = dataset
    coco.createIndex()
    return coco
