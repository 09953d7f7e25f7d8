"""Curves of runs, from their metrics.jsonl: losses and AP of one, or totals of several over each
other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from yolact.files import writing  # noqa: E402
from yolact.run_files import METRICS  # noqa: E402
from yolact.study.folder.reading import read_metrics  # noqa: E402
from yolact.study.report.palette import LINES  # noqa: E402

plt.rcParams["axes.prop_cycle"] = plt.cycler(color=LINES)

Lines = list[dict[str, Any]]

TERMS = {
    "box": "box",
    "class": "class",
    "mask": "mask",
    "semantic": "semantic",
    "mask_iou": "mask IoU",
}
CURVES = (("segm", "ap", "mask AP"), ("segm", "ap50", "mask AP50"), ("bbox", "ap", "box AP"))


def draw_curves(runs: Sequence[Path], out: Path) -> Path:
    """Writes the picture and returns its path. One run: every term of its loss, and its AP; several
    runs: their total losses and mask AP. ValueError for a run that has no training line yet."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for run in runs:
        training, validations = lines_of(run)
        if len(runs) == 1:
            _terms(left, training)
            _aps(right, validations, CURVES)
        else:
            label = "/".join(run.resolve().parts[-2:])
            _total(left, training, label=label)
            _aps(right, validations, [(*CURVES[0][:2], label)])
    left.set(xlabel="step", ylabel="loss (weighted)", yscale="log")
    right.set(xlabel="step", ylabel="AP on the validation set (%)", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)
    plt.close(figure)
    return out


def lines_of(run: Path) -> tuple[Lines, Lines]:
    """Training and validation lines of a run. ValueError where there are none."""
    path = run / METRICS
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a run's folder, such as runs/quickstart/1")
    lines = read_metrics(run)
    training = [line for line in lines if line["kind"] == "train" and line["losses"]]
    if not training:
        raise ValueError(
            f"{path} has no training line yet: let the run reach its first train.log_every"
        )
    return training, [line for line in lines if line["kind"] == "validation"]


def _terms(axes: Axes, training: Lines) -> None:
    steps = [line["step"] for line in training]
    for name, shown in TERMS.items():
        if name in training[-1]["losses"]:
            values = [line["losses"].get(name) for line in training]
            axes.plot(steps, values, label=shown, linewidth=1.2)
    _total(axes, training, label="total", color="black")


def _total(axes: Axes, training: Lines, **style: Any) -> None:
    steps = [line["step"] for line in training]
    axes.plot(steps, [line["loss"] for line in training], linewidth=1.8, **style)


def _aps(axes: Axes, validations: Lines, curves: Sequence[tuple[str, str, str]]) -> None:
    """curves (shape, metric, label): AP in percent at each validation that has it."""
    for shape, metric, label in curves:
        points = [
            (line["step"], 100 * line[shape][metric])
            for line in validations
            if line[shape][metric] is not None
        ]
        if points:
            axes.plot(*zip(*points), marker="o", markersize=4, label=label)
