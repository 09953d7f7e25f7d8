"""The figures of the Errors tab: kinds of errors, what mending them gains, precision against
recall, AP by size and class, boundary AP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tqdm import tqdm

from yolact.engine.records import AREAS
from yolact.study.report.cells import is_number
from yolact.study.report.data import ArmReport, Report, shape_of
from yolact.study.report.errors.classes import class_ap_of_runs
from yolact.study.report.errors.gains import GAINS, gains_of_runs
from yolact.study.report.estimates import Estimate, estimate, over_seeds
from yolact.study.report.figures import arm_numbers, short, styles
from yolact.study.report.svg import drawn, of_arm, plt
from yolact.study.report.tables import metric_title
from yolact.study.statistics.ap import RECALLS
from yolact.study.statistics.beside import quality_of
from yolact.study.statistics.curves import errors_of_runs, precision_at_recalls
from yolact.study.statistics.errors import MISSED, WRONG

MOST_ROWS = 120  # dots of a figure of classes


def kinds_of_errors(report: Report) -> Figure | None:
    """A panel a kind: how many per 100 instances each arm makes, with intervals over seeds and
    images."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    found = {arm.label: errors_of_runs(list(arm.runs.values()), shape) for arm in arms}

    def value(arm: ArmReport, kind: str) -> Estimate | None:
        most = 100 if kind == MISSED else math.inf  # an instance is missed once
        return estimate(*found[arm.label][kind], least=0, most=most)

    return _panels(report, arms, WRONG, value, "per 100 instances")


def gains_by_kind(report: Report) -> Figure | None:
    """A panel a kind: AP50 that each arm would gain without errors of it, with intervals. None for
    records that do not tell kinds apart."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    found = {}
    for arm in tqdm(arms, desc="dAP", unit="arm", leave=False, disable=None):
        gained = gains_of_runs(list(arm.runs.values()), shape)
        if gained is None:
            return None
        found[arm.label] = gained

    def value(arm: ArmReport, kind: str) -> Estimate | None:
        return estimate(*found[arm.label][kind], least=0, most=100)

    return _panels(report, arms, GAINS, value, "points of AP50", columns=4)


def by_class(report: Report) -> Figure | None:
    """A row a class, a dot an arm: AP with intervals. Where they are too many, the classes in which
    arms lie furthest apart. None for one class, whose AP is the AP."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    names = report.runs[0][2].records().class_names if report.runs else ()
    if len(names) < 2 or not arms:
        return None
    found = {}
    for arm in tqdm(arms, desc="AP by class", unit="arm", leave=False, disable=None):
        values = class_ap_of_runs(list(arm.runs.values()), shape)
        found[arm.label] = [estimate(*one, least=0, most=100) for one in values]
    means = np.array([[one.mean for one in found[arm.label]] for arm in arms])  # (arms, classes)
    rows = shown_classes(means, max(1, MOST_ROWS // len(arms)))
    size = (9.5, 1.2 + 0.13 * len(rows) * (len(arms) + 1))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    step = 0.8 / len(arms)
    for y, row in enumerate(rows):
        for place, arm in enumerate(arms):
            _dot(report, axes, y - 0.4 + step * (place + 0.5), arm, found[arm.label][row], 4)
    axes.set_yticks(range(len(rows)), [short(names[row]) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"{shape} AP")
    axes.grid(axis="x", alpha=0.25)
    _name_arms(figure, report, arms)
    return drawn(figure)


def shown_classes(means: np.ndarray, most: int) -> list[int]:
    """Rows of classes that have instances, in order: those in which arms lie furthest apart where
    there are more than `most`. means: (arms, classes)"""
    there = np.flatnonzero(~np.isnan(means).any(0))
    apart = np.ptp(means[:, there], axis=0)
    return sorted(there[np.argsort(-apart, kind="stable")[:most]].tolist())


def by_boundary(report: Report) -> Figure | None:
    """Boundary AP of each arm, with intervals over seeds; None where no arm's was measured."""
    arms = [arm for arm in report.arms if arm.runs]
    names = ("boundary_ap", "boundary_ap50", "boundary_ap75")

    def value(arm: ArmReport, name: str) -> Estimate | None:
        values = [quality_of(run).get(name) for run in arm.runs.values()]
        there = [one for one in values if is_number(one)]
        return over_seeds(there) if there else None

    if not any(value(arm, names[0]) for arm in arms):
        return None
    return _panels(report, arms, names, value, "AP")


def by_size(report: Report) -> Figure | None:
    """A panel a range of areas: AP of each arm, with intervals."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    names = [f"{shape}_ap_{size}" for size in AREAS[1:]]
    there = [n for n in names if any(_known(arm.estimates.get(n)) for arm in arms)]
    return _panels(report, arms, there, lambda arm, name: arm.estimates.get(name), "AP")


def _known(found: Estimate | None) -> bool:
    return found is not None and is_number(found.mean)


def _panels(
    report: Report,
    arms: Sequence[ArmReport],
    names: Sequence[str],
    value: Callable[[ArmReport, str], Estimate | None],
    unit: str,
    columns: int = 6,
) -> Figure | None:
    if not arms or not names:
        return None
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    size = (max(6.5, 1.6 + 2.1 * columns), lines * (1.3 + 0.32 * len(arms)))
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    labels = [short(arm.label) for arm in arms]
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for place, (panel, name) in enumerate(zip(axes.flat, names)):
        for y, arm in enumerate(arms):
            found = value(arm, name)
            if found is not None and is_number(found.mean):
                _dot(report, panel, y, arm, found)
        panel.set_yticks(range(len(arms)), labels if place % columns == 0 else [""] * len(arms))
        panel.set(ylim=(len(arms) - 0.4, -0.6), title=metric_title(name), xlabel=unit)
        if max(np.abs(panel.dataLim.intervalx)) == 0:  # none anywhere
            panel.set_xlim(-0.02, 1)
        panel.grid(axis="x", alpha=0.25)
    return drawn(figure)


def _dot(
    report: Report, panel: Axes, y: float, arm: ArmReport, found: Estimate, size: float = 6
) -> None:
    colour = styles(report)[arm.label][0]
    with of_arm(panel, arm_numbers(report)[arm.label]):
        if is_number(found.half):
            panel.plot([found.low, found.high], [y, y], color=colour, linewidth=1.4)
        panel.plot(found.mean, y, "o", color=colour, markersize=size)


def _name_arms(figure: Figure, report: Report, arms: Sequence[ArmReport]) -> None:
    look = styles(report)
    handles = [
        Line2D([], [], color=look[arm.label][0], marker="o", label=short(arm.label)) for arm in arms
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=9
    )


def precision_recall(report: Report) -> Figure | None:
    """Precision against recall at IoU .50 and .75: the mean of an arm's runs."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    if not arms:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharey=True)
    look, numbers = styles(report), arm_numbers(report)
    for arm in arms:
        records = [run.records() for run in arm.runs.values()]
        colour, dashes = look[arm.label]
        for panel, threshold in zip(axes, (0, 5)):
            mean = np.mean([precision_at_recalls(one, shape, threshold) for one in records], 0)
            with of_arm(panel, numbers[arm.label]):
                label = short(arm.label) if not threshold else "_"
                panel.plot(RECALLS, mean, color=colour, linestyle=dashes, label=label)
    for panel, title in zip(axes, ("IoU .50", "IoU .75")):
        panel.set(title=title, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("precision")
    figure.legend(loc="outside right upper", fontsize=9)
    return drawn(figure)
