"""Curves of training: losses and validations of arms, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from yolact.study.folder.reading import read_metrics
from yolact.study.report.cells import is_number
from yolact.study.report.data import ArmReport, Report
from yolact.study.report.figures import Dashes, short, styles
from yolact.study.report.palette import INK
from yolact.study.report.svg import drawn, of_arm, plt

SMOOTH = 40  # a curve is smoothed over one so-many-th of its length
Line = tuple[np.ndarray, np.ndarray]  # (steps, values)


def curves(report: Report) -> Figure | None:
    """Losses of all arms, as curve_figure() draws them; None of results files."""
    if not report.trained:
        return None
    lines = {arm.label: _arm_lines(arm) for arm in report.arms if arm.runs}
    batches = {arm.label: arm.config.train.batch_size for arm in report.arms}
    return curve_figure(lines, batches, report.baseline, styles(report))


def curve_figure(
    lines: Mapping[str, Mapping[int, Mapping[str, Line]]],
    batches: Mapping[str, int],
    baseline: str,
    look: Mapping[str, tuple[str, Dashes]],
) -> Figure | None:
    """Means over seeds, smoothed, and the range of the seeds. Mask losses are in units of their
    own, so each is divided by its first value; box and class loss are the same for all arms, and so
    is the AP of the validations. The last panel has its difference to the baseline at the same
    seeds.

    lines: {label: {seed: curves of a run}}; batches: {label: batch size}, of every arm in order."""
    data = {label: _over_seeds(by_seed) for label, by_seed in lines.items()}
    for label, by_seed in lines.items():
        if label != baseline:
            data[label] |= _gain(by_seed, lines.get(baseline, {}))
    panels = [
        ("mask", "mask loss / its first value"),
        ("box", "box loss"),
        ("class", "class loss"),
        ("ap", "mask AP at validations"),
        ("gain", f"its difference to {short(baseline)}"),
    ]
    panels = [
        (key, title)
        for key, title in panels
        if any(key in found and found[key][0].size > 1 for found in data.values())
    ]
    if not panels:
        return None
    of_images = len(set(batches.values())) > 1
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels), 3.9), layout="constrained", squeeze=False
    )
    for panel, (key, title) in zip(axes[0], panels):
        for number, label in enumerate(batches):
            if key not in data.get(label, {}):
                continue
            steps, mean, low, high = data[label][key]
            x = steps * batches[label] if of_images else steps
            colour, dashes = look[label]
            marker = "o" if key in ("ap", "gain") else None
            line: dict[str, Any] = {"linestyle": dashes, "linewidth": 1.5, "marker": marker}
            with of_arm(panel, number):
                panel.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
                panel.plot(x, mean, color=colour, markersize=3, **line)
        panel.set(
            title=title,
            xlabel="images seen" if of_images else "iteration",
            yscale="linear" if key in ("ap", "gain") else "log",
        )
        if key == "gain":
            panel.axhline(0, color=INK, linewidth=0.8)
        elif key != "ap":
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        else:
            panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
    handles = [
        Line2D([], [], color=look[label][0], linestyle=look[label][1], label=short(label))
        for label in data
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=9
    )
    return drawn(figure)


def _arm_lines(arm: ArmReport) -> dict[int, dict[str, Line]]:
    """{seed: {curve: line}} of one arm."""
    return {
        seed: run_curves(run.folder, run.config.train.iterations)
        for seed, run in sorted(arm.runs.items())
    }


def _over_seeds(by_seed: Mapping[int, Mapping[str, Line]]) -> dict[str, tuple[np.ndarray, ...]]:
    """{curve: (steps, mean over seeds, lowest, highest)}, as far as every seed has come."""
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for key in dict.fromkeys(key for lines in by_seed.values() for key in lines):
        lines = [lines[key] for lines in by_seed.values() if key in lines]
        steps = lines[0][0]
        steps = steps[steps <= min(line[0][-1] for line in lines)]
        values = np.stack([np.interp(steps, *line) for line in lines])
        found[key] = (steps, values.mean(0), values.min(0), values.max(0))
    return found


def _gain(
    arm: Mapping[int, Mapping[str, Line]], base: Mapping[int, Mapping[str, Line]]
) -> dict[str, tuple[np.ndarray, ...]]:
    """{"gain": AP of the validations less the baseline's at the same seed}; empty where they were
    not made at the same steps."""
    gains: dict[int, dict[str, Line]] = {}
    for seed, lines in arm.items():
        pair = [found["ap"] for found in (lines, base.get(seed, {})) if "ap" in found]
        if len(pair) == 2 and np.array_equal(pair[0][0], pair[1][0]):
            gains[seed] = {"gain": (pair[0][0], pair[0][1] - pair[1][1])}
    return _over_seeds(gains)


def run_curves(folder: Path, iterations: int) -> dict[str, Line]:
    """{mask, box, class, ap: (steps, values)} of one run, losses smoothed; mask loss divided by its
    first value, AP in percent."""
    lines = read_metrics(folder)
    found = {}
    for key in ("mask", "box", "class"):
        points = [
            (line["step"], line["losses"][key])
            for line in lines
            if line["kind"] == "train" and is_number((line.get("losses") or {}).get(key))
        ]
        if len(points) > 1:
            steps, values = np.array(points, float).T
            values = _smooth(values)
            found[key] = (steps, values / values[0] if key == "mask" and values[0] > 0 else values)
    points = [
        (line["step"], 100 * line["segm"]["ap"])
        for line in lines
        if line["kind"] == "validation"
        and line["step"] <= iterations
        and is_number(line.get("segm", {}).get("ap"))
    ]
    if points:
        found["ap"] = tuple(np.array(points, float).T)
    return found


def _smooth(values: np.ndarray) -> np.ndarray:
    """A moving mean over a window that shrinks at both ends."""
    half = max(1, len(values) // SMOOTH) // 2
    total = np.concatenate([[0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (total[at + reach + 1] - total[at - reach]) / (2 * reach + 1)
