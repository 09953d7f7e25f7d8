"""The bounds of the mask representation as curves over the IoU threshold, a panel a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from data.loader import split_paths  # noqa: E402
from data.schema import Config  # noqa: E402
from yolact.bound import LIMIT, THRESHOLDS, MaskBound, Rule, mask_bounds  # noqa: E402
from yolact.files import writing  # noqa: E402
from yolact.study.report.palette import LIGHT  # noqa: E402

# target and masks: label and colour
LINES = {
    ("binary", "published"): ("binary targets, as published", LIGHT["ink"]),
    ("coverage", "published"): ("coverage targets", LIGHT["arm1"]),
    ("coverage", "subpixel"): ("coverage targets, subpixel masks", LIGHT["arm2"]),
    ("input", "published"): ("masks of the input's size", LIGHT["line"]),
}


def draw_bounds(
    configs: Mapping[str, Config], out: str | Path, *, limit: int | None = LIMIT
) -> dict[str, list[MaskBound]]:
    """Writes a picture of the bounds of each config's validation set at its input size, under the
    rules of LINES, and returns them. configs: by the titles of the panels.

    ValueError for annotations that cannot be read, or without a mask."""
    figure, axes = plt.subplots(
        1,
        len(configs),
        figsize=(1 + 3.4 * len(configs), 3.9),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    found = {}
    for panel, (title, cfg) in zip(axes[0], configs.items(), strict=True):
        rules = [Rule.of(cfg, target=target, stride=4, masks=masks) for target, masks in LINES]
        bounds = found[title] = mask_bounds(split_paths(cfg.data, "val")[1], rules, limit=limit)
        for bound, (label, colour) in zip(bounds, LINES.values(), strict=True):
            panel.plot(
                [t / 100 for t in THRESHOLDS],
                [100 * bound[f"AP{t}"] for t in THRESHOLDS],
                color=colour,
                linestyle="--" if bound.rule.target == "input" else "-",
                marker="o",
                markersize=3,
                label=label,
            )
        panel.set(title=title, xlabel="IoU threshold", ylim=(0, 102))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("masks that reach it, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    with writing(out):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)
    plt.close(figure)
    return found
