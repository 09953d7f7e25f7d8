"""Comparisons as text: a table, the verdicts in plain words, and what stands beside AP."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from yolact.study.statistics.boundary import boundary_of_run
from yolact.study.statistics.comparison import Comparison, baseline_label
from yolact.study.statistics.finished import Run
from yolact.study.statistics.quality import BINS, calibration, olrp
from yolact.study.statistics.verdict import EQUIVALENT, IDENTICAL, LEAST_SEEDS, NONE, UNDECIDED

_NOT_FINITE = "had steps whose loss or gradient was not finite"


def main_table(records: Sequence[Comparison], arms: Mapping[str, Mapping[int, Run]]) -> str:
    """One line an arm: AP, difference with its interval, p, spread over seeds and over images,
    verdict."""
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
        cells = [
            f"{_number(r.others[name].difference, '+')} {_span(r.others[name])}" for r in records
        ]
        if any(cell.strip() != "-" for cell in cells):
            rows.append([name, *cells])
    return align(rows)


def quality_table(arms: Mapping[str, Mapping[int, Run]]) -> str:
    """oLRP with its parts, and calibration, of each arm: means over its seeds."""
    rows = [
        [
            "",
            "",
            "oLRP",
            "localisation",
            "false pos.",
            "false neg.",
            "calibration error",
            "score - IoU",
        ]
    ]
    for label, runs in arms.items():
        columns: dict[str, list[list[float]]] = {}
        for run in runs.values():
            records = run.records()
            for shape in records.found:
                error, found = olrp(records, shape), calibration(records, shape)
                columns.setdefault(shape, []).append(
                    [
                        100 * error.olrp,
                        100 * error.localisation,
                        100 * error.false_positive,
                        100 * error.false_negative,
                        found.error,
                        found.bias,
                    ]
                )
        for shape, values in columns.items():
            means = [float(np.mean(column)) for column in zip(*values)]
            rows.append(
                [
                    label,
                    shape,
                    *(_number(value) for value in means[:4]),
                    _number(means[4], digits=3),
                    _number(means[5], "+", 3),
                ]
            )
    return align(rows)


def reliability_table(arms: Mapping[str, Mapping[int, Run]], shape: str = "mask") -> str:
    """Mean IoU of the detections in ten bins of score, all seeds of an arm together."""
    rows = [["score", *(f"{k / BINS:.1f}" for k in range(BINS))]]
    for label, runs in ((label, runs) for label, runs in arms.items() if runs):
        found = [calibration(run.records(), shape) for run in runs.values()]
        count = sum(c.count for c in found)
        total = sum(np.where(c.count > 0, c.count * np.nan_to_num(c.iou), 0) for c in found)
        rows.append([label, *(f"{t / n:.2f}" if n else "-" for t, n in zip(total, count))])
    return align(rows)


def boundary_table(
    arms: Mapping[str, Mapping[int, Run]], ground_truth: str | Path | None = None
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


def unstable_baseline(baseline: str, runs: Iterable[Run]) -> str:
    """A sentence where runs of the baseline diverged, which every difference to it is made of; else
    nothing."""
    runs = list(runs)
    unstable = sum(run.diverged for run in runs)
    return (
        f"{baseline}, the baseline, is unstable: {unstable} of {len(runs)} runs {_NOT_FINITE}"
        if unstable
        else ""
    )


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


def _span(interval) -> str:
    return "" if math.isnan(interval.low) else f"[{interval.low:+.2f}, {interval.high:+.2f}]"


def _probability(p: float) -> str:
    return "<.0001" if p < 1e-4 else f"{p:.4f}"


def sentence(record: Comparison) -> str:
    """The verdict in plain words."""
    if not record.seeds:
        return f"{record.arm} {record.notes[0]}"
    at = "for these two checkpoints" if len(record.seeds) == 1 else f"on {len(record.seeds)} seeds"
    d, size = record.interval.difference, abs(record.interval.difference)
    spread = f"95 % interval {record.interval.low:+.2f} to {record.interval.high:+.2f}"
    found = {
        IDENTICAL: f"has the same AP as {record.baseline} at every seed: identical runs, which "
        "says nothing about equivalence",
        EQUIVALENT: f"is equivalent to {record.baseline}: the difference of {d:+.2f} ({spread}) is "
        f"smaller than {record.margin:g} AP",
        UNDECIDED: f"is not decided: {d:+.2f} to {record.baseline} ({spread}) may be a difference "
        "or none",
        NONE: f"has {d:+.2f} to {record.baseline} {at} ({spread}): no verdict below {LEAST_SEEDS} "
        "seeds",
    }.get(
        record.verdict,
        f"is {record.verdict} than {record.baseline} by {size:.2f} AP ({spread})"
        + (f", less than the margin of {record.margin:g}" if record.small else ""),
    )
    parts = [f"{record.arm} {found}"]
    if record.decided_at and record.decided_at < len(record.seeds):
        parts.append(f"decided at the look of {record.decided_at} seeds")
    if record.needed is not None:
        parts.append(str(record.needed))
    if record.exploratory and record.verdict != NONE:
        parts.append(f"exploratory: {record.exploratory}")
    if record.unstable:
        parts.append(f"unstable: {record.unstable} of {len(record.seeds)} runs {_NOT_FINITE}")
    return "; ".join([*parts, *record.notes])
