"""The page that `python scripts/losses.py plot` draws: mask losses of probabilities, and of masks
that are shifted or too large, each with its gradient. Scheduled weights are at their largest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from layers.extras import make_extras  # noqa: E402
from layers.losses.checks.contract import at_full_weight  # noqa: E402
from layers.losses.mask import MaskLoss  # noqa: E402
from yolact.cli import note  # noqa: E402
from yolact.files import writing  # noqa: E402
from yolact.study.report.palette import LINES  # noqa: E402

plt.rcParams["axes.prop_cycle"] = plt.cycler(color=LINES)

SIZE = 69  # pixels of a map's side, the prototypes of a 276 pixel image
SURE = 10.0  # logit of a predicted mask whose value is drawn: p = 0.99995 inside
# and of one whose gradient is drawn: p = 0.88; sure ones have next to none but with cross-entropy
UNSURE = 2.0
SHIFTS = np.arange(-20, 21)  # pixels
GROWTHS = np.arange(-10, 13)  # pixels, below 0: erosion
SHARES = np.linspace(0, 1, 26)  # of the object's pixels
REAL = (
    Path(__file__).resolve().parents[3]
    / "tests"
    / "data"
    / "coco_cc"
    / "annotations"
    / "instances_train.json"
)
OBJECTS = {"a person of COCO": 471663, "a bicycle of COCO": 523667}  # annotations of REAL
STYLES = ("-", "--", "-.", ":")
WHOLE = torch.tensor([[0.0, 0, 1, 1]])


def plot(expressions: Iterable[str], out: Path) -> Path:
    """Writes the picture and returns its path. ValueError for a wrong expression."""
    losses = [at_full_weight(text) for text in dict.fromkeys(expressions)]
    pixel = [
        loss
        for loss in losses
        if not loss.needs and all(part.info.kind == "pixel" for part in loss.parts)
    ]
    masks = {"a disc": disc(), **real_masks()}
    heights = [3.4] * bool(pixel) + [2.9, 2.4] * len(masks)
    figure = plt.figure(figsize=(15, sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), 4, height_ratios=heights)
    # curves that coincide stay visible under each other
    widths = np.linspace(3.2, 1.2, len(losses))
    styles = {
        loss: {"color": f"C{i % 10}", "linestyle": STYLES[i // 10 % 4], "linewidth": widths[i]}
        for i, loss in enumerate(losses)
    }
    if pixel:
        probability_row([figure.add_subplot(grid[0, column]) for column in range(4)], pixel, styles)
    for top, (name, mask) in zip(range(bool(pixel), len(heights), 2), masks.items(), strict=True):
        draw_mask(figure.add_subplot(grid[top : top + 2, 0]), name, mask)
        mask_rows(
            [
                [figure.add_subplot(grid[row, column]) for column in (1, 2, 3)]
                for row in (top, top + 1)
            ],
            mask,
            losses,
            styles,
        )
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
        if each.lines:
            each.grid(alpha=0.3)
    handles = [plt.Line2D([], [], label=loss.expression, **styles[loss]) for loss in losses]
    columns = 5 if max(len(loss.expression) for loss in losses) < 28 else 3
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(losses)),
        frameon=False,
        fontsize=10,
    )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=100)
    plt.close(figure)
    return out


def probability_row(
    row: list[plt.Axes], losses: list[MaskLoss], styles: dict[MaskLoss, dict]
) -> None:
    """Value of one pixel and gradient with respect to its logit, for target 1 and target 0."""
    p = torch.linspace(0.002, 0.998, 250, dtype=torch.float64)
    for target, (left, right) in ((1, row[:2]), (0, row[2:])):
        for loss in losses:
            value, gradient = at_probability(loss, p, target)
            left.plot(p, value, **styles[loss])
            right.plot(p, gradient, **styles[loss])
        left.set(
            title=f"pixel loss, target {target}",
            xlabel="probability p",
            ylabel="value",
            ylim=(None, min(left.get_ylim()[1], 4)),
        )
        right.set(
            title=f"gradient, target {target}", xlabel="probability p", ylabel="d value / d logit"
        )


def at_probability(loss: MaskLoss, p: torch.Tensor, target: int) -> tuple[np.ndarray, np.ndarray]:
    """(value, gradient) of one pixel. It shares its map with a pixel of the other class that is
    right, which weights by area need."""
    other = torch.full_like(p, 50.0 if target == 0 else -50.0)
    logits = torch.stack((p.logit(), other), 1)[:, None].requires_grad_()  # (N,1,2)
    targets = torch.tensor([target, 1 - target], dtype=p.dtype).expand(len(p), 1, 2)
    # their mean, and the other one's value is 0
    value = 2 * loss(logits, targets, WHOLE.expand(len(p), 4))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient[:, 0, 0].numpy()


def draw_mask(axes: plt.Axes, name: str, mask: np.ndarray) -> None:
    depth = depth_of(mask)
    axes.imshow(mask, cmap="Greys", vmax=2.5)
    for prediction, color in (
        (shifted(mask, 8), "C3"),
        (grown(depth, 4), "C0"),
        (grown(depth, -4), "C2"),
    ):
        axes.contour(prediction, levels=[0.5], colors=color, linewidths=1.2)
    axes.set(
        title=f"{name}, {mask.sum()} pixels",
        xticks=[],
        yticks=[],
        xlabel="grey: target; red: shifted by 8;\nblue, green: 4 px dilated, eroded\n\n"
        f"values at |logit| = {SURE:g}, gradients at {UNSURE:g};\n1 is what an empty mask has",
    )


def mask_rows(
    rows: list[list[plt.Axes]],
    mask: np.ndarray,
    losses: list[MaskLoss],
    styles: dict[MaskLoss, dict],
) -> None:
    """Each loss of predictions that cover a part of the mask, are shifted, or grown: values above,
    norms of gradients below, both relative to those of an empty mask (or to the largest, where
    these are next to nothing)."""
    depth = depth_of(mask)
    sweeps = (
        (
            SHARES,
            [part(mask, share) for share in SHARES],
            "part of the mask is predicted",
            "share of its pixels",
        ),
        (
            SHIFTS,
            [shifted(mask, int(by)) for by in SHIFTS],
            "the mask is shifted",
            "pixels to the right",
        ),
        (
            GROWTHS,
            [grown(depth, int(by)) for by in GROWTHS],
            "the mask is eroded or dilated",
            "pixels (below 0: eroded)",
        ),
    )
    for (values_at, norms_at), (amounts, predictions, title, label) in zip(
        zip(*rows, strict=True), sweeps, strict=True
    ):
        for loss in losses:
            for axes, numbers in zip(
                (values_at, norms_at),
                of_masks(loss, mask, [np.zeros_like(mask), *predictions]),
                strict=True,
            ):
                empty, largest = abs(numbers[0]), np.abs(numbers).max()
                axes.plot(
                    amounts,
                    numbers[1:] / (empty if empty > 1e-3 * largest else largest or 1),
                    **styles[loss],
                )
        lowest = min(line.get_ydata().min() for line in values_at.lines)
        values_at.set(
            title=title,
            ylabel="value, relative",
            ylim=(
                max(lowest, -3) * 1.05 if lowest < -0.05 else -0.05,
                min(values_at.get_ylim()[1], 3),
            ),
        )
        norms_at.set(
            xlabel=label, ylabel="gradient norm, relative", ylim=(0, min(norms_at.get_ylim()[1], 3))
        )


def of_masks(
    loss: MaskLoss, target: np.ndarray, predictions: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) values of sure predictions in a box that is the whole map, and (N,) norms of the
    gradients of unsure ones."""
    signs = 2 * torch.from_numpy(np.stack(predictions)).float() - 1
    targets = torch.from_numpy(target).expand(len(signs), -1, -1)
    given = targets.float(), WHOLE.expand(len(signs), 4)
    extras = {
        name: made.expand_as(signs) for name, made in make_extras(loss.needs, targets[:1]).items()
    }
    unsure = (UNSURE * signs).requires_grad_()
    values = loss(SURE * signs, *given, extras=extras).detach()
    (gradient,) = torch.autograd.grad(loss(unsure, *given, extras=extras).sum(), unsure)
    return values.numpy(), gradient.flatten(1).norm(dim=1).numpy()


def depth_of(mask: np.ndarray) -> np.ndarray:
    """Distances to the other side of the boundary: >= 1 inside, <= -1 outside."""
    return distance_transform_edt(mask) - distance_transform_edt(~mask)


def part(mask: np.ndarray, share: float) -> np.ndarray:
    """The mask's upper pixels."""
    return mask & (mask.ravel().cumsum().reshape(mask.shape) <= round(share * mask.sum()))


def grown(depth: np.ndarray, by: int) -> np.ndarray:
    """The mask dilated by so many pixels, or eroded where below 0."""
    return depth >= -by if by >= 0 else depth > -by


def shifted(mask: np.ndarray, by: int) -> np.ndarray:
    moved = np.roll(mask, by, axis=1)
    moved[:, by if by < 0 else 0 : None if by < 0 else by] = False
    return moved


def disc() -> np.ndarray:
    """(SIZE,SIZE) bool."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - SIZE // 2) ** 2 + (x - SIZE // 2) ** 2 <= 13.4**2


def real_masks() -> dict[str, np.ndarray]:
    """Annotated objects, scaled so that they cover the middle half of the map; a note where the
    test pictures are not installed."""
    if not REAL.is_file():
        note(f"{REAL} is not there: drawn without the objects of COCO")
        return {}
    annotations = {a["id"]: a for a in json.loads(REAL.read_text(encoding="utf-8"))["annotations"]}
    return {name: _drawn(annotations[number]["segmentation"]) for name, number in OBJECTS.items()}


def _drawn(polygons: list[list[float]]) -> np.ndarray:
    """(SIZE,SIZE) bool."""
    points = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in polygons]
    low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
    scale = SIZE / 2 / (high - low).max()
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for outline in points:
        cv2.fillPoly(
            mask, [np.round((outline - (low + high) / 2) * scale + SIZE / 2).astype(np.int32)], 1
        )
    return mask.astype(bool)
