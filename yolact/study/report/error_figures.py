"""The figures of the Errors tab: kinds of errors, precision against recall, AP by size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from yolact.engine.records import AREAS
from yolact.study.report.cells import is_number
from yolact.study.report.data import ArmReport, Report, shape_of
from yolact.study.report.estimates import Estimate, estimate
from yolact.study.report.figures import arm_numbers, short, styles
from yolact.study.report.svg import drawn, of_arm, plt
from yolact.study.report.tables import metric_title
from yolact.study.statistics.ap import RECALLS
from yolact.study.statistics.curves import errors_of_runs, precision_at_recalls
from yolact.study.statistics.errors import WRONG


def kinds_of_errors(report: Report) -> Figure | None:
    """A panel a kind: how many per 100 instances each arm makes, with intervals over seeds and
    images."""
    shape = shape_of(report.metric)
    arms = [arm for arm in report.arms if arm.runs]
    found = {arm.label: errors_of_runs(list(arm.runs.values()), shape) for arm in arms}

    def value(arm: ArmReport, kind: str) -> Estimate | None:
        return estimate(*found[arm.label][kind], least=0)

    return _panels(report, arms, WRONG, value, "per 100 instances")


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
) -> Figure | None:
    if not arms or not names:
        return None
    size = (max(4.0, 1.6 + 2.1 * len(names)), 1.3 + 0.32 * len(arms))
    figure, axes = plt.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False)
    for place, (panel, name) in enumerate(zip(axes[0], names)):
        for y, arm in enumerate(arms):
            found = value(arm, name)
            if found is not None and is_number(found.mean):
                _dot(report, panel, y, arm, found)
        panel.set_yticks(range(len(arms)), [short(arm.label) if not place else "" for arm in arms])
        panel.set(ylim=(len(arms) - 0.4, -0.6), title=metric_title(name), xlabel=unit)
        panel.grid(axis="x", alpha=0.25)
    return drawn(figure)


def _dot(report: Report, panel: Axes, y: int, arm: ArmReport, found: Estimate) -> None:
    colour = styles(report)[arm.label][0]
    with of_arm(panel, arm_numbers(report)[arm.label]):
        if is_number(found.half):
            panel.plot([found.low, found.high], [y, y], color=colour, linewidth=1.4)
        panel.plot(found.mean, y, "o", color=colour, markersize=6)


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
