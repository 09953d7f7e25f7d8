"""Comparisons as tables of plain text, and what stands beside AP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from yolact.study.statistics.beside import mean_quality
from yolact.study.statistics.boundary import boundary_of_run
from yolact.study.statistics.comparison import Comparison, Interval, baseline_label
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.quality import BINS, pooled
from yolact.study.statistics.shared import shared_iou
from yolact.study.statistics.verdict import LEAST_SEEDS

# {key of quality_of(): (title, sign, decimals)}
QUALITY = {
    "olrp": ("oLRP", "", 2),
    "olrp_localisation": ("localisation", "", 2),
    "olrp_false_positives": ("false pos.", "", 2),
    "olrp_false_negatives": ("false neg.", "", 2),
    "calibration_error": ("calibration error", "", 3),
    "score_minus_iou": ("score - IoU", "+", 3),
}


def main_table(records: Sequence[Comparison], arms: Mapping[str, Mapping[int, FinishedRun]]) -> str:
    """One line an arm: AP, difference with its interval, p, the plain paired t as a check, spread
    over seeds and over images, verdict."""
    first = records[0]
    base = arms[first.baseline]
    ap = (
        float(np.mean([run.resampled.point[first.metric] for run in base.values()]))
        if base
        else math.nan
    )
    rows = [
        [
            "",
            first.metric,
            "seeds",
            "difference",
            "95 % interval",
            "p (Holm)",
            "paired t p",
            "seed sd",
            "image sd",
            "verdict",
        ],
        [
            first.baseline,
            _number(ap),
            str(len(base)),
            "",
            "",
            "",
            "",
            "",
            "",
            baseline_label(base.values()),
        ],
    ]
    for r in records:
        flip = f", sign-flip p {r.sign_flip:.3g} on these images" if r.sign_flip is not None else ""
        p = _probability(r.p_holm) if len(r.seeds) >= LEAST_SEEDS else "-"
        rows.append(
            [
                r.arm,
                _number(r.ap),
                str(len(r.seeds)),
                _number(r.interval.difference, "+"),
                _span(r.interval),
                p,
                "-" if r.paired_t is None else _probability(r.paired_t),
                _number(r.seed_sd),
                _number(r.image_sd),
                r.label + flip,
            ]
        )
    return align(rows)


def others_table(records: Sequence[Comparison], metrics: Sequence[str] | None = None) -> str:
    """Differences and 95 % intervals of the other metrics, which get no verdict. metrics: these
    only."""
    records = [r for r in records if r.others]
    names = [
        name
        for name in (records[0].others if records else ())
        if metrics is None or name in metrics
    ]
    rows = [["", *(r.arm for r in records)]]
    for name in names:
        found = [r.others[name] for r in records]
        if any(not math.isnan(gap.difference) for gap in found):
            rows.append([name, *(f"{_number(g.difference, '+')} {_span(g)}" for g in found)])
    return align(rows)


def quality_table(arms: Mapping[str, Mapping[int, FinishedRun]]) -> str:
    """oLRP with its parts, and calibration, of each arm: means over its seeds."""
    rows = [["", "", *(title for title, _, _ in QUALITY.values())]]
    for label, runs in arms.items():
        for shape in dict.fromkeys(shape for run in runs.values() for shape in run.quality):
            found = mean_quality(runs.values(), shape)
            figures = (
                _number(found[name], sign, digits) for name, (_, sign, digits) in QUALITY.items()
            )
            rows.append([label, shape, *figures])
    return align(rows)


def shared_table(
    records: Sequence[Comparison], arms: Mapping[str, Mapping[int, FinishedRun]]
) -> str:
    """Mask IoU of the instances that an arm and the baseline both find; empty where no records say
    which these are."""
    rows = [["", "instances", f"IoU of {records[0].baseline}", "IoU", "difference", ""]]
    for record in records:
        if (found := shared_iou(record, arms)) is not None:
            figures = (found.instances, found.baseline_iou, found.iou)
            rows.append(
                [
                    record.arm,
                    *(_number(v, "", d) for v, d in zip(figures, (0, 2, 2))),
                    _number(found.interval.difference, "+"),
                    _span(found.interval),
                ]
            )
    return align(rows) if len(rows) > 1 else ""


def reliability_table(arms: Mapping[str, Mapping[int, FinishedRun]], shape: str = "mask") -> str:
    """Mean IoU of the detections in ten bins of score, all seeds of an arm together."""
    rows = [["score", *(f"{k / BINS:.1f}" for k in range(BINS))]]
    for label, runs in ((label, runs) for label, runs in arms.items() if runs):
        found = pooled([run.quality[shape][1] for run in runs.values()])
        rows.append([label, *map(_number, found.iou)])
    return align(rows)


def boundary_table(
    arms: Mapping[str, Mapping[int, FinishedRun]], ground_truth: str | Path | None = None
) -> str:
    """Boundary AP of each arm, means over its seeds."""
    rows = [["", "boundary AP", "AP50", "AP75"]]
    for label, runs in arms.items():
        found = [list(boundary_of_run(run, ground_truth).values()) for run in runs.values()]
        rows.append(
            [label, *(_number(float(np.mean(column))) for column in zip(*found))]
            if found
            else [label, "-", "-", "-"]
        )
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first and the last to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in (0, last) and last else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def _number(value: float, sign: str = "", digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _span(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"[{interval.low:+.2f}, {interval.high:+.2f}]"


def _probability(p: float) -> str:
    return "<.0001" if p < 1e-4 else f"{p:.4f}"
