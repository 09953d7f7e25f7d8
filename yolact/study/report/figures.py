"""The figures of a report: differences with verdicts, seeds, AP against IoU, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from yolact.bound import Rule
from yolact.engine.metrics import THRESHOLDS
from yolact.study.report.bounds import Bounds
from yolact.study.report.cells import is_number
from yolact.study.report.data import Report, shape_of
from yolact.study.report.estimates import Estimate, mean_over_seeds, width
from yolact.study.report.palette import ARMS, GREY, INK, LIGHT, PAPER, VERDICTS
from yolact.study.report.published import BASELINE, baseline
from yolact.study.report.svg import drawn, of_arm, of_run, plt
from yolact.study.report.tables import metric_title
from yolact.study.statistics.comparison import Comparison, Interval
from yolact.study.statistics.quality import pooled

MARGIN = LIGHT["margin"]
PUBLISHED_DOT: dict[str, Any] = {
    "marker": "D",
    "markerfacecolor": PAPER,
    "markeredgecolor": GREY,
    "markersize": 5,
    "linestyle": "",
}
Dashes = Literal["-", "--", ":"]
_DASHES: tuple[Dashes, ...] = ("-", "--", ":")
LABEL = 30  # letters of an arm's label in a figure


def styles(report: Report) -> dict[str, tuple[str, Dashes]]:
    """{label: (colour, dashes)} of its arms."""
    return styles_of([arm.label for arm in report.arms], report.baseline)


def styles_of(labels: Sequence[str], baseline: str) -> dict[str, tuple[str, Dashes]]:
    """{label: (colour, dashes)}: the baseline black, the others apart from each other."""
    others = [label for label in labels if label != baseline]
    found = {
        label: (LIGHT[ARMS[i % len(ARMS)]], _DASHES[i // len(ARMS) % len(_DASHES)])
        for i, label in enumerate(others)
    }
    return {baseline: (INK, "-"), **found}


def arm_numbers(report: Report) -> dict[str, int]:
    """{label: the arm's number, as the page counts}."""
    return {arm.label: number for number, arm in enumerate(report.arms)}


def short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


# -------------------------------------------------------------------------------------- differences


def forest(report: Report) -> Figure | None:
    """Differences to the baseline with 95 % (thin) and 90 % (thick) intervals, coloured by verdict;
    the margin is shaded."""
    arms = [
        (arm, arm.comparison)
        for arm in report.arms
        if arm.comparison is not None and is_number(arm.comparison.interval.difference)
    ]
    if not arms:
        return None
    figure, axes = plt.subplots(figsize=(9.5, 1.5 + 0.42 * len(arms)), layout="constrained")
    margin, numbers = report.study.margin, arm_numbers(report)
    axes.axvspan(-margin, margin, color=MARGIN, alpha=0.16, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    theirs = report.base.published == baseline() and report.metric == "mask_ap"
    for y, (arm, found) in enumerate(arms):
        with of_arm(axes, numbers[arm.label]):
            _difference(axes, y, found)
            if theirs and arm.published and arm.published.name != BASELINE:
                axes.plot(arm.published.ap - baseline().ap, y - 0.25, **PUBLISHED_DOT)
    _forest_limits(axes, [found.interval for _, found in arms], margin)
    axes.set_yticks(range(len(arms)), [short(arm.label) for arm, _ in arms])
    axes.set_ylim(len(arms) - 0.4, -0.7)
    axes.set_xlabel(
        f"difference of {metric_title(report.metric)} to {short(report.baseline)}, points"
    )
    axes.grid(axis="x", alpha=0.25)
    handles: list[Artist] = [
        Line2D([], [], color=look.light, marker=look.marker, linewidth=1.4, label=name)
        for name, look in VERDICTS.items()
        if any(found.verdict == name for _, found in arms)
    ]
    handles.append(Patch(color=MARGIN, alpha=0.2, label=f"margin ±{margin:g}"))
    if theirs and any(arm.published and arm.published.name != BASELINE for arm, _ in arms):
        handles.append(Line2D([], [], label="published, one run", **PUBLISHED_DOT))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return drawn(figure)


def _difference(axes: Axes, y: float, found: Comparison) -> None:
    """An interval of 95 % and, thick, of 90 %; the dot has the verdict's colour and marker."""
    look, interval, narrow = VERDICTS[found.verdict], found.interval, _narrow(found)
    thin: dict[str, Any] = {"color": look.light, "solid_capstyle": "butt"}
    axes.plot([interval.low, interval.high], [y, y], linewidth=1.4, **thin)
    ends = [interval.difference - narrow, interval.difference + narrow]
    axes.plot(ends, [y, y], linewidth=4.5, alpha=0.55, **thin)
    axes.plot(interval.difference, y, look.marker, color=look.light, markersize=8)
    axes.annotate(
        f"{interval.difference:+.2f}  [{interval.low:+.2f}, {interval.high:+.2f}]  "
        f"n={len(found.seeds)}  {look.sign} {found.label}",
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        color=look.light,
        annotation_clip=False,
    )


def _narrow(found: Comparison) -> float:
    """Half of the 90 % interval, which is what equivalence is about."""
    return width(found.v, found.image_sd**2, len(found.seeds), found.df, 0.1)


def _forest_limits(axes: Axes, intervals: Sequence[Interval], margin: float) -> None:
    """Room for every interval, but not for one that is so wide that the others could no longer be
    read; nor for far published points."""
    ends = [end for interval in intervals for end in (interval.low, interval.high)]
    middles = [interval.difference for interval in intervals]
    spread = 8 * float(np.median([found.high - found.low for found in intervals])) + margin
    low, high = max(min(ends), min(middles) - spread), min(max(ends), max(middles) + spread)
    low, high = min(low, -1.3 * margin), max(high, 1.3 * margin)
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def seeds(report: Report) -> Figure | None:
    """One dot a run; grey lines join the runs of one seed, bars are means with 95 % intervals."""
    arms = [arm for arm in report.arms if arm.runs]
    if not arms:
        return None
    figure, axes = plt.subplots(
        figsize=(max(5.5, 1.6 + 1.0 * len(arms)), 4.2), layout="constrained"
    )
    look, numbers = styles(report), arm_numbers(report)
    values = [
        {seed: run.resampled.point[report.metric] for seed, run in arm.runs.items()} for arm in arms
    ]
    for seed in sorted({seed for found in values for seed in found}):
        line = [found.get(seed, math.nan) for found in values]
        axes.plot(range(len(arms)), line, color=GREY, alpha=0.45, linewidth=0.8, zorder=1)
    for x, (arm, found) in enumerate(zip(arms, values)):
        with of_arm(axes, numbers[arm.label]):
            _runs_of(axes, x, found, arm.estimates[report.metric], look[arm.label][0])
        for dot, seed in zip(axes.lines[-len(found) :], found):
            of_run(dot, numbers[arm.label], seed)
    axes.set_xticks(
        range(len(arms)),
        [short(arm.label) for arm in arms],
        rotation=25 if len(arms) > 3 else 0,
        ha="right" if len(arms) > 3 else "center",
    )
    axes.set(ylabel=f"{metric_title(report.metric)}, points", xlim=(-0.5, len(arms) - 0.2))
    axes.grid(axis="y", alpha=0.25)
    return drawn(figure)


def _runs_of(axes: Axes, x: float, found: Mapping[int, float], mean: Estimate, colour: str) -> None:
    """The mean of an arm with its interval, then the dots of its runs, the last lines of the
    axes."""
    low, high = mean.mean - mean.low, mean.high - mean.mean
    axes.errorbar(
        x + 0.2,
        mean.mean,
        yerr=[[low], [high]] if is_number(mean.half) else None,
        color=colour,
        capsize=3,
        marker="_",
        markersize=13,
        linewidth=1.6,
        zorder=2,
    )
    for value in found.values():
        axes.plot(x, value, "o", color=colour, markersize=7, markeredgecolor=PAPER, zorder=3)


# ----------------------------------------------------------------------------------- AP against IoU


def thresholds(report: Report) -> Figure | None:
    """A panel an arm: its AP at IoU .50 ... .95 with a 95 % band over the baseline's, and their
    paired difference below. Dashed: what masks can reach, where it is known."""
    shape = shape_of(report.metric)
    base = report.base
    arms = [arm for arm in report.arms if arm.runs and arm is not base] or (
        [base] if base.runs else []
    )
    if not arms or not base.runs:
        return None
    look, x, numbers = styles(report), np.array(THRESHOLDS) / 100, arm_numbers(report)
    columns = min(4, len(arms))
    blocks = math.ceil(len(arms) / columns)
    figure = plt.figure(figsize=(max(4.5, 3.1 * columns), 4.3 * blocks), layout="constrained")
    grid = figure.add_gridspec(2 * blocks, columns, height_ratios=[2.2, 1] * blocks)
    upper = None
    for i, arm in enumerate(arms):
        row, column = divmod(i, columns)
        upper = figure.add_subplot(grid[2 * row, column], sharey=upper)
        lower = figure.add_subplot(grid[2 * row + 1, column], sharex=upper)
        for one in dict.fromkeys((base.label, arm.label)):
            which = base if one == base.label else arm
            values = [which.estimates[f"{shape}_ap{t}"] for t in THRESHOLDS]
            with of_arm(upper, numbers[one]):
                _band(upper, x, values, *look[one], short(one))
        _bounds(
            upper,
            x,
            report.bounds,
            {Rule.of(base.config): INK, Rule.of(arm.config): look[arm.label][0]},
        )
        common = [seed for seed in arm.runs if seed in base.runs]
        if arm is not base and common:
            gaps = [
                mean_over_seeds(
                    [arm.runs[s] for s in common],
                    f"{shape}_ap{t}",
                    [base.runs[s] for s in common],
                )
                for t in THRESHOLDS
            ]
            with of_arm(lower, numbers[arm.label]):
                _band(lower, x, gaps, *look[arm.label], "")
        lower.axhline(0, color=INK, linewidth=0.8)
        # no smaller, so that noise does not look like a difference
        limit = max(report.study.margin, *np.abs(lower.get_ylim()))
        lower.set_ylim(-limit, limit)
        lower.axhspan(
            -report.study.margin, report.study.margin, color=MARGIN, alpha=0.16, linewidth=0
        )
        upper.set_title(short(arm.label))
        upper.tick_params(labelbottom=False)
        upper.set_ylim(bottom=0)
        for axes, label in ((upper, f"{shape} AP"), (lower, "difference")):
            axes.grid(alpha=0.25)
            axes.set_ylabel(label if column == 0 else "")
        if i >= len(arms) - columns:
            lower.set_xlabel("IoU threshold")
    _name_lines(figure, [base.label, *(arm.label for arm in arms)], look, bool(report.bounds))
    return drawn(figure)


def _name_lines(
    figure: Figure, labels: Sequence[str], look: Mapping[str, tuple[str, Dashes]], bounds: bool
) -> None:
    """A legend of arms, and of the bounds, below the panels."""
    handles = [
        Line2D([], [], color=look[one][0], linestyle=look[one][1], label=short(one))
        for one in dict.fromkeys(labels)
    ]
    if bounds:
        handles.append(
            Line2D([], [], color=GREY, linestyle=(0, (4, 2)), linewidth=1, label="learnt exactly")
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=9
    )


def _bounds(axes: Axes, x: np.ndarray, bounds: Bounds, colours: Mapping[Rule, str]) -> None:
    """A line for each rule whose bound is known; grey where there is one rule."""
    for rule, colour in colours.items():
        if rule in bounds:
            axes.plot(
                x,
                [100 * bounds[rule][f"AP{t}"] for t in THRESHOLDS],
                color=colour if len(colours) > 1 else GREY,
                linestyle=(0, (4, 2)),
                linewidth=1,
                label="learnt exactly",
            )


def _band(
    axes: Axes,
    x: np.ndarray,
    values: Sequence[Estimate],
    colour: str,
    dashes: Dashes,
    label: str,
) -> None:
    mean = np.array([value.mean for value in values])
    low, high = (np.array([getattr(v, end) for v in values]) for end in ("low", "high"))
    low, high = np.where(np.isnan(low), mean, low), np.where(np.isnan(high), mean, high)
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        x,
        mean,
        color=colour,
        linestyle=dashes,
        linewidth=1.6,
        marker="o",
        markersize=2.5,
        label=label,
    )


def reliability(report: Report) -> Figure | None:
    """Mean mask IoU of the detections in each bin of score, all seeds of an arm together, beside
    the diagonal."""
    arms = [arm for arm in report.arms if any("mask" in run.quality for run in arm.runs.values())]
    if not arms:
        return None
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    look, numbers = styles(report), arm_numbers(report)
    for arm in arms:
        found = pooled(
            [run.quality["mask"][1] for run in arm.runs.values() if "mask" in run.quality]
        )
        there = found.count > 0
        colour, dashes = look[arm.label]
        x, y = found.score[there], found.iou[there]
        sizes = 6 + 60 * found.count[there] / found.count.max()
        with of_arm(axes, numbers[arm.label]):
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.4, label=short(arm.label))
            axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidth=0)
    axes.set(xlabel="score", ylabel="mask IoU", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=9)
    return drawn(figure)
