"""The figures of a report, as PNG: differences with verdicts, seeds, AP against IoU, loss
curves."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: E402

from yolact.bound import Rule  # noqa: E402
from yolact.engine.metrics import THRESHOLDS  # noqa: E402
from yolact.study.folder.reading import read_metrics  # noqa: E402
from yolact.study.report.bounds import Bounds  # noqa: E402
from yolact.study.report.cells import is_number  # noqa: E402
from yolact.study.report.data import ArmReport, Estimate, Report, mean_over_seeds, shape_of, width  # noqa: E402
from yolact.study.report.published import BASELINE, baseline  # noqa: E402
from yolact.study.report.tables import metric_title  # noqa: E402
from yolact.study.statistics.comparison import Comparison, Interval  # noqa: E402
from yolact.study.statistics.quality import pooled  # noqa: E402
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, IDENTICAL, NONE, UNDECIDED, WORSE  # noqa: E402

VERDICTS = {
    BETTER: "#1a7f4b",
    EQUIVALENT: "#1f6fb4",
    UNDECIDED: "#757575",
    WORSE: "#c8501e",
    IDENTICAL: "#757575",
    NONE: "#8f8f8f",
}
BLACK, GREY = "#222222", "#9a9a9a"
Dashes = Literal["-", "--", ":"]
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#7a3db8",
    "#8c564b",
    "#5f9e00",
    "#e0457b",
)
_DASHES: tuple[Dashes, ...] = ("-", "--", ":")
LABEL = 30  # letters of an arm's label in a figure
SMOOTH = 40  # a curve is smoothed over one so-many-th of its length

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
    }
)


def styles(report: Report) -> dict[str, tuple[str, Dashes]]:
    """{label: (colour, dashes)}: the baseline black, the others apart from each other."""
    others = [arm.label for arm in report.arms if arm.label != report.baseline]
    found = {
        label: (_COLOURS[i % len(_COLOURS)], _DASHES[i // len(_COLOURS) % len(_DASHES)])
        for i, label in enumerate(others)
    }
    return {report.baseline: (BLACK, "-"), **found}


def short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


def png(figure: Figure, dpi: int = 130) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    plt.close(figure)
    return content.getvalue()


# -------------------------------------------------------------------------------------- differences


def forest(report: Report) -> bytes | None:
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
    margin, used = report.study.margin, dict[str, str]()
    axes.axvspan(-margin, margin, color="#1f6fb4", alpha=0.08, linewidth=0)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    theirs = report.base.published == baseline() and report.metric == "mask_ap"
    for y, (arm, found) in enumerate(arms):
        colour = used[found.verdict] = VERDICTS.get(found.verdict, GREY)
        interval, narrow = found.interval, _narrow(found)
        axes.plot(
            [interval.low, interval.high],
            [y, y],
            color=colour,
            linewidth=1.4,
            solid_capstyle="butt",
        )
        axes.plot(
            [interval.difference - narrow, interval.difference + narrow],
            [y, y],
            color=colour,
            linewidth=4.5,
            solid_capstyle="butt",
            alpha=0.55,
        )
        axes.plot(interval.difference, y, "o", color=colour, markersize=7)
        axes.annotate(
            f"{interval.difference:+.2f}  [{interval.low:+.2f}, {interval.high:+.2f}]  "
            f"n={len(found.seeds)}  {found.label}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
        if theirs and arm.published and arm.published.name != BASELINE:
            axes.plot(
                arm.published.ap - baseline().ap,
                y - 0.25,
                "D",
                markerfacecolor="white",
                markeredgecolor=GREY,
                markersize=5,
                clip_on=True,
            )
    _forest_limits(axes, [found.interval for _, found in arms], margin)
    axes.set_yticks(range(len(arms)), [short(arm.label) for arm, _ in arms])
    axes.set_ylim(len(arms) - 0.4, -0.7)
    axes.set_xlabel(
        f"difference of {metric_title(report.metric)} to {short(report.baseline)}, points"
    )
    axes.grid(axis="x", alpha=0.25)
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker="o", linewidth=1.4, label=name)
        for name, colour in used.items()
    ]
    handles.append(Patch(color="#1f6fb4", alpha=0.12, label=f"margin ±{margin:g}"))
    if theirs and any(arm.published and arm.published.name != BASELINE for arm, _ in arms):
        handles.append(
            Line2D(
                [],
                [],
                marker="D",
                markerfacecolor="white",
                markeredgecolor=GREY,
                linestyle="",
                label="published, one run",
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return png(figure)


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


def seeds(report: Report) -> bytes | None:
    """One dot a run; grey lines join the runs of one seed, bars are means with 95 % intervals."""
    arms = [arm for arm in report.arms if arm.runs]
    if not arms:
        return None
    figure, axes = plt.subplots(
        figsize=(max(5.5, 1.6 + 1.0 * len(arms)), 4.2), layout="constrained"
    )
    look = styles(report)
    values = [
        {seed: run.resampled.point[report.metric] for seed, run in arm.runs.items()} for arm in arms
    ]
    for seed in sorted({seed for found in values for seed in found}):
        line = [found.get(seed, math.nan) for found in values]
        axes.plot(range(len(arms)), line, color=GREY, alpha=0.45, linewidth=0.8, zorder=1)
    for x, (arm, found) in enumerate(zip(arms, values)):
        colour, mean = look[arm.label][0], arm.estimates[report.metric]
        axes.scatter(
            [x] * len(found),
            list(found.values()),
            s=30,
            color=colour,
            alpha=0.85,
            zorder=3,
            edgecolor="white",
            linewidth=0.6,
        )
        axes.errorbar(
            x + 0.2,
            mean.mean,
            yerr=mean.half if is_number(mean.half) else None,
            color=colour,
            capsize=3,
            marker="_",
            markersize=13,
            linewidth=1.6,
            zorder=2,
        )
    axes.set_xticks(
        range(len(arms)),
        [short(arm.label) for arm in arms],
        rotation=25 if len(arms) > 3 else 0,
        ha="right" if len(arms) > 3 else "center",
    )
    axes.set(ylabel=f"{metric_title(report.metric)}, points", xlim=(-0.5, len(arms) - 0.2))
    axes.grid(axis="y", alpha=0.25)
    return png(figure)


# ----------------------------------------------------------------------------------- AP against IoU


def thresholds(report: Report) -> bytes | None:
    """A panel an arm: its AP at IoU .50 ... .95 with a 95 % band over the baseline's, and their
    paired difference below. Dashed: what masks can reach, where it is known."""
    shape = shape_of(report.metric)
    base = report.base
    arms = [arm for arm in report.arms if arm.runs and arm is not base] or (
        [base] if base.runs else []
    )
    if not arms or not base.runs:
        return None
    look, x = styles(report), np.array(THRESHOLDS) / 100
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
            _band(
                upper,
                x,
                [which.estimates[f"{shape}_ap{t}"] for t in THRESHOLDS],
                *look[one],
                short(one),
            )
        _bounds(
            upper,
            x,
            report.bounds,
            {Rule.of(base.config): BLACK, Rule.of(arm.config): look[arm.label][0]},
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
            _band(lower, x, gaps, *look[arm.label], "")
        lower.axhline(0, color=BLACK, linewidth=0.8)
        # no smaller, so that noise does not look like a difference
        limit = max(report.study.margin, *np.abs(lower.get_ylim()))
        lower.set_ylim(-limit, limit)
        lower.axhspan(
            -report.study.margin, report.study.margin, color="#1f6fb4", alpha=0.08, linewidth=0
        )
        upper.legend(fontsize=8, loc="lower left")
        upper.tick_params(labelbottom=False)
        upper.set_ylim(bottom=0)
        for axes, label in ((upper, f"{shape} AP"), (lower, "difference")):
            axes.grid(alpha=0.25)
            axes.set_ylabel(label if column == 0 else "")
        if i >= len(arms) - columns:
            lower.set_xlabel("IoU threshold")
    return png(figure)


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
    half = np.nan_to_num([value.half for value in values])
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.16, linewidth=0)
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


def reliability(report: Report) -> bytes | None:
    """Mean mask IoU of the detections in each bin of score, all seeds of an arm together, beside
    the diagonal."""
    arms = [arm for arm in report.arms if any("mask" in run.quality for run in arm.runs.values())]
    if not arms:
        return None
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    for arm in arms:
        found = pooled(
            [run.quality["mask"][1] for run in arm.runs.values() if "mask" in run.quality]
        )
        there = found.count > 0
        colour, dashes = styles(report)[arm.label]
        axes.plot(
            found.score[there],
            found.iou[there],
            color=colour,
            linestyle=dashes,
            linewidth=1.4,
            label=short(arm.label),
        )
        axes.scatter(
            found.score[there],
            found.iou[there],
            s=6 + 60 * found.count[there] / found.count.max(),
            color=colour,
            alpha=0.7,
            linewidth=0,
        )
    axes.set(xlabel="score", ylabel="mask IoU", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=9)
    return png(figure)


# -------------------------------------------------------------------------------------- loss curves


def curves(report: Report) -> bytes | None:
    """Losses of all arms: means over seeds, smoothed, and the range of the seeds. Mask losses are
    in units of their own, so each is divided by its first value; box and class loss are the same
    for all arms, and so is the AP of the validations. The last panel has its difference to the
    baseline at the same seeds."""
    lines = {arm.label: _arm_lines(arm) for arm in report.arms if arm.runs}
    data = {label: _over_seeds(by_seed) for label, by_seed in lines.items()}
    for label, by_seed in lines.items():
        if label != report.baseline:
            data[label] |= _gain(by_seed, lines.get(report.baseline, {}))
    panels = [
        ("mask", "mask loss / its first value"),
        ("box", "box loss"),
        ("class", "class loss"),
        ("ap", "mask AP at validations"),
        ("gain", f"its difference to {short(report.baseline)}"),
    ]
    panels = [
        (key, title)
        for key, title in panels
        if any(key in found and found[key][0].size > 1 for found in data.values())
    ]
    if not panels:
        return None
    batches = {arm.config.train.batch_size for arm in report.arms}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels), 3.9), layout="constrained", squeeze=False
    )
    look = styles(report)
    for panel, (key, title) in zip(axes[0], panels):
        for arm in report.arms:
            if key not in data.get(arm.label, {}):
                continue
            steps, mean, low, high = data[arm.label][key]
            x = steps * arm.config.train.batch_size if len(batches) > 1 else steps
            colour, dashes = look[arm.label]
            panel.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
            panel.plot(
                x,
                mean,
                color=colour,
                linestyle=dashes,
                linewidth=1.5,
                marker="o" if key in ("ap", "gain") else None,
                markersize=3,
            )
        panel.set(
            title=title,
            xlabel="images seen" if len(batches) > 1 else "iteration",
            yscale="linear" if key in ("ap", "gain") else "log",
        )
        if key == "gain":
            panel.axhline(0, color=BLACK, linewidth=0.8)
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
    return png(figure)


Line = tuple[np.ndarray, np.ndarray]  # (steps, values)


def _arm_lines(arm: ArmReport) -> dict[int, dict[str, Line]]:
    """{seed: {curve: line}} of one arm."""
    return {
        seed: _run_curves(run.folder, run.config.train.iterations)
        for seed, run in sorted(arm.runs.items())
    }


def _over_seeds(by_seed: Mapping[int, Mapping[str, Line]]) -> dict[str, tuple[np.ndarray, ...]]:
    """{curve: (steps, mean over seeds, lowest, highest)}."""
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for key in dict.fromkeys(key for lines in by_seed.values() for key in lines):
        lines = [lines[key] for lines in by_seed.values() if key in lines]
        steps = lines[0][0]
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


def _run_curves(folder: Path, iterations: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
