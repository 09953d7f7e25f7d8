"""What scripts/bench.py measures of anchor assignment: time of one image by every assigner, and the
share of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from layers.assign import build_assigner
from layers.assigners.atss import MEASURES, POLYGON_OF
from layers.boxes import corners
from yolact.benchmarks.inputs import ground_truth
from yolact.engine.precision import wait_for
from yolact.testing import brute_force

COUNTS = (8, 100)  # ground truths on the image
ASSIGNERS = (
    "max_iou",
    *(f"atss(iou='{measure}')" for measure in MEASURES),
    *(f"atss(iou='{measure}', rounding='exact')" for measure in POLYGON_OF),
)
BRUTE = "brute force"


def assigner_times(
    anchors: torch.Tensor,
    level_sizes: tuple[int, ...],
    size: int,
    device: torch.device,
    seconds: float,
) -> dict[str, dict[str, float]]:
    """{assigner: {"ms at 8": ..., "ms at 100": ...}} for anchors (A,4) cx,cy,w,h relative: the
    fastest of many calls, all assigners in turn, so that a drift of the machine falls on each. The
    brute force sums the mask inside every anchor, once, for 8 ground truths."""
    rects = corners(anchors.cpu()) * size
    rows: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        truth = ground_truth(1, size, objects=count, classes=1)[0]
        boxes, masks = (
            torch.from_numpy(truth["boxes"]) * size,
            torch.from_numpy(truth["masks"]).bool(),
        )
        if count == COUNTS[0]:
            rows[BRUTE] = {
                f"ms at {count}": milliseconds(partial(_count_every_anchor, rects, masks), device)
            }
        calls = {
            name: _call(name, rects.to(device), level_sizes, boxes.to(device), masks.to(device))
            for name in ASSIGNERS
        }
        best = dict.fromkeys(calls, float("inf"))
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < 3 or time.perf_counter() < end:
            for name, call in calls.items():
                best[name] = min(best[name], milliseconds(call, device))
            rounds += 1
        for name, value in best.items():
            rows.setdefault(name, {})[f"ms at {count}"] = value
    return rows


def _call(
    name: str,
    anchors: torch.Tensor,
    level_sizes: tuple[int, ...],
    boxes: torch.Tensor,
    masks: torch.Tensor,
) -> Callable:
    assigner = build_assigner(name)
    valid = torch.ones((1, len(boxes)), dtype=torch.bool, device=boxes.device)
    own = [masks] if assigner.needs_masks else None
    return lambda: assigner.batch(anchors, level_sizes, boxes[None], valid, ~valid, own)


def milliseconds(call: Callable, device: torch.device) -> float:
    """On the CPU the processor's time, which other jobs of the machine do not enter."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    call()
    wait_for(device)
    return 1e3 * (clock() - start)


def _count_every_anchor(anchors: torch.Tensor, masks: torch.Tensor) -> None:
    for mask in masks:
        for anchor in anchors:
            brute_force.pixels_inside(mask, anchor)
