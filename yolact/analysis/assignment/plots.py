"""The figures of scripts/analyse_assignment.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from layers.assign import Assignment  # noqa: E402
from layers.targets import Targets  # noqa: E402
from yolact.analysis.assignment.data import LEAST_IOU, AnchorLosses, Pairs, whole_masks  # noqa: E402
from yolact.files import writing  # noqa: E402
from yolact.study.report.palette import LINES  # noqa: E402

RATIO = "mask pixels / box area"
IOU_BINS = ((LEAST_IOU, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 1.0))
RATIO_BINS = np.linspace(0, 1, 11)
LEAST_COUNT = 30  # anchors behind a point of a curve


def ratio_histogram(ratios: dict[str, np.ndarray], out: Path) -> Path:
    """Share of ground truths by mask-over-box ratio, one curve a data set."""

    def draw(axes) -> None:
        bins = np.linspace(0, 1, 41)
        for i, (name, values) in enumerate(ratios.items()):
            axes.hist(
                np.clip(values, 0, 1),
                bins,
                weights=np.full(len(values), 100 / max(1, len(values))),
                color=LINES[i % len(LINES)],
                histtype="stepfilled" if len(ratios) == 1 else "step",
                linewidth=1.8,
                alpha=0.75 if len(ratios) == 1 else 1,
                label=f"{name}: {len(values)} objects, median {np.median(values):.2f}"
                if len(values)
                else f"{name}: no objects",
            )
        axes.set(xlabel=RATIO, ylabel="% of the objects", xlim=(0, 1))
        axes.margins(y=0.2)
        axes.legend(frameon=False, fontsize=9, loc="upper left")

    return _figure(out, (6.4, 3.8), 1, lambda figure, axes: draw(axes[0]))


def overlap_scatter(name: str, found: Pairs, out: Path) -> Path:
    """IoU beside the two mask-aware measures, and these beside each other; the colour is the ground
    truth's ratio."""
    panels = (
        ("IoU", found.iou, "GmaIoU, P = mask", found.mask),
        ("IoU", found.iou, "GmaIoU, P = box (maIoU)", found.box),
        ("GmaIoU, P = mask", found.mask, "GmaIoU, P = box (maIoU)", found.box),
    )

    def draw(figure, axes) -> None:
        top = max(1.0, np.percentile(found.box, 99.9)) if len(found.box) else 1
        for each, (x_name, x, y_name, y) in zip(axes, panels, strict=True):
            dots = each.scatter(
                x,
                y,
                c=np.clip(found.ratio, 0, 1),
                s=5,
                alpha=0.6,
                linewidths=0,
                cmap="viridis",
                vmin=0,
                vmax=1,
                rasterized=True,
            )
            each.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle="--")
            each.set(
                xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, top if "box" in y_name else 1)
            )
        figure.colorbar(dots, ax=axes, label=RATIO, shrink=0.9).solids.set_alpha(1)
        figure.suptitle(f"{name}: {len(found.iou)} anchors that touch an object's box", fontsize=11)

    return _figure(out, (13, 4.2), 3, draw)


def loss_by_ratio(name: str, found: AnchorLosses, out: Path) -> Path:
    """Mean loss with its standard error by mask-over-box ratio, one curve for anchors of similar
    IoU."""

    def draw(figure, axes) -> None:
        for each, (term, values) in zip(axes, found.losses.items(), strict=True):
            for i, (low, high) in enumerate(IOU_BINS):
                points = []
                for left, right in zip(RATIO_BINS, RATIO_BINS[1:], strict=False):
                    last = right == RATIO_BINS[-1]
                    chosen = values[
                        (found.iou >= low)
                        & (found.iou < high)
                        & (found.ratio >= left)
                        & ((found.ratio < right) | last)
                    ]
                    if len(chosen) >= LEAST_COUNT:
                        points.append(
                            (
                                (left + right) / 2,
                                chosen.mean(),
                                chosen.std(ddof=1) / len(chosen) ** 0.5,
                            )
                        )
                if points:
                    x, y, error = np.array(points).T
                    each.errorbar(
                        x,
                        y,
                        error,
                        color=plt.get_cmap("viridis")(i / len(IOU_BINS)),
                        marker="o",
                        markersize=4,
                        capsize=2,
                        linewidth=1.5,
                        label=f"IoU {low:g} to {high:g}",
                    )
            each.set(xlabel=RATIO, ylabel=f"{term} loss", xlim=(0, 1), ylim=(0, None))
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(frameon=False, fontsize=9)
        figure.suptitle(
            f"{name}: {len(found.iou)} anchors of IoU >= {LEAST_IOU:g} with an object", fontsize=11
        )

    return _figure(out, (13, 3.9), 3, draw)


def positives_panels(
    image: np.ndarray,
    targets: Targets,
    anchors: np.ndarray,
    assigned: dict[str, Assignment],
    out: Path,
) -> Path:
    """image (S,S,3) uint8; anchors (A,4) corners in pixels. One panel an assigner: outlines of
    masks, positive anchors in their colour."""
    size = image.shape[0]

    def draw(figure, axes) -> None:
        for each, (name, found) in zip(axes, assigned.items(), strict=False):
            each.imshow(0.55 * image / 255 + 0.45)  # pale, so that thin lines show
            for i, mask in enumerate(whole_masks(targets).numpy()):
                if mask.any():
                    each.contour(mask, [0.5], colors=[LINES[i % len(LINES)]], linewidths=1.6)
            index = found.gt_index.numpy()
            for a in np.flatnonzero(index >= 0):
                x1, y1, x2, y2 = anchors[a]
                colour = LINES[index[a] % len(LINES)]
                each.add_patch(
                    Rectangle(
                        (x1, y1),
                        x2 - x1,
                        y2 - y1,
                        fill=False,
                        edgecolor=colour,
                        linewidth=0.7,
                        alpha=0.8,
                    )
                )
                each.plot(
                    (x1 + x2) / 2,
                    (y1 + y2) / 2,
                    marker="o",
                    markersize=3.5,
                    color=colour,
                    markeredgewidth=0,
                )
            counts = np.bincount(index[index >= 0], minlength=len(targets))
            each.set(xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[])
            each.set_title(
                f"{name}\n{counts.sum()} positives, {(counts == 0).sum()} of {len(targets)} "
                "objects without",
                fontsize=10,
            )
        for each in axes[len(assigned) :]:
            each.set_axis_off()

    columns = min(4, len(assigned))
    rows = -(-len(assigned) // columns)
    return _figure(out, (4 * columns, 4.4 * rows), columns, draw, rows=rows, spines=True)


def _figure(
    out: Path,
    size: tuple[float, float],
    columns: int,
    draw: Callable,
    *,
    rows: int = 1,
    spines: bool = False,
) -> Path:
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    draw(figure, axes.ravel())
    if not spines:
        for each in axes.flat:
            each.spines[["top", "right"]].set_visible(False)
            each.grid(alpha=0.3)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    return out
