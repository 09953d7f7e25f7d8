"""The figures of scripts/analyse_assignment.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgba  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from layers.assign import Assignment  # noqa: E402
from layers.targets import Targets  # noqa: E402
from yolact.analysis.assignment.data import LEAST_IOU, AnchorRatios, Pairs, whole_masks  # noqa: E402
from yolact.files import writing  # noqa: E402
from yolact.study.report.palette import LINES  # noqa: E402

RATIO = "mask pixels / box area"
OF_ANCHOR = "mask pixels in the anchor / anchor's area"
IOU_BINS = ((LEAST_IOU, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 1.0))
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


def by_anchor_ratio(name: str, found: AnchorRatios, out: Path) -> Path:
    """Positives and negatives by the mask-over-box ratio of the anchor, one curve for anchors of
    similar IoU: how many there are, the share of positives, and with losses their means with
    standard errors."""
    panels = [("positives", _counts(found, found.positive), True)]
    panels += [("negatives", _counts(found, ~found.positive), True)]
    panels += [("% positive", _means(found, 100.0 * found.positive), False)]
    panels += [
        (f"{key} loss", _means(found, values), False) for key, values in found.losses.items()
    ]

    def draw(figure, axes) -> None:
        for each, (label, curves, many) in zip(axes, panels, strict=False):
            for i, points in enumerate(curves):
                if points:
                    x, y, error = np.array(points).T
                    each.errorbar(
                        x,
                        y,
                        None if many else error,
                        color=_colour(i),
                        marker="o",
                        markersize=4,
                        capsize=2,
                        linewidth=1.5,
                    )
            each.set(xlabel=OF_ANCHOR, ylabel=label, xlim=(0, 1))
            each.set_yscale("log") if many else each.set_ylim(0, None)
        for each in axes[len(panels) :]:
            each.set_axis_off()
        axes[0].legend(handles=_bin_lines(), frameon=False, fontsize=8)
        figure.suptitle(
            f"{name}: {found.positive.sum()} positives, {(~found.positive).sum()} negatives of IoU "
            f">= {LEAST_IOU:g}",
            fontsize=11,
        )

    columns, rows = (4, 2) if found.losses else (3, 1)
    return _figure(out, (4.1 * columns, 3.7 * rows), columns, draw, rows=rows)


def _colour(i: int) -> tuple[float, float, float, float]:
    """Of the i-th of IOU_BINS."""
    return to_rgba(plt.get_cmap("viridis")(i / len(IOU_BINS)))


def _bin_lines() -> list[Line2D]:
    """What a legend says of IOU_BINS, also of those without a curve in its panel."""
    return [
        Line2D([], [], color=_colour(i), marker="o", markersize=4, label=f"IoU {low:g} to {high:g}")
        for i, (low, high) in enumerate(IOU_BINS)
    ]


Curves = list[list[tuple[float, float, float]]]  # points (ratio, value, error) of each IOU_BINS


def _counts(found: AnchorRatios, chosen: np.ndarray) -> Curves:
    """How many of the chosen anchors lie in each bin."""
    return [
        [(x, float(inside[chosen].sum()), 0.0) for x, inside in bins if inside[chosen].any()]
        for bins in _bins(found)
    ]


def _means(found: AnchorRatios, values: np.ndarray) -> Curves:
    """Mean with its standard error in each bin of LEAST_COUNT values or more; NaN do not count."""
    curves: Curves = []
    for bins in _bins(found):
        points = []
        for x, inside in bins:
            some = values[inside & ~np.isnan(values)]
            if len(some) >= LEAST_COUNT:
                points.append((x, float(some.mean()), float(some.std(ddof=1) / len(some) ** 0.5)))
        curves.append(points)
    return curves


def _bins(found: AnchorRatios) -> list[list[tuple[float, np.ndarray]]]:
    """For each of IOU_BINS, the middle of each bin of ratio and which anchors lie in it."""
    bins = []
    for low, high in IOU_BINS:
        near = (found.iou >= low) & ((found.iou < high) | (high == IOU_BINS[-1][1]))
        column = np.clip(np.digitize(found.ratio, RATIO_BINS) - 1, 0, len(RATIO_BINS) - 2)
        middles = (RATIO_BINS[1:] + RATIO_BINS[:-1]) / 2
        bins.append([(float(x), near & (column == k)) for k, x in enumerate(middles)])
    return bins


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
