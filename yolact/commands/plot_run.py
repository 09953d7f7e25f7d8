"""Draw a run's losses, learning rate and validation AP from its metrics.jsonl.

    python scripts/plot_run.py runs/NAME/1 [more runs ...] [--out curves.png]

One run: every loss term, and AP. Several runs: their total losses and mask AP over each other.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from yolact.files import writing

TERMS = {
    "box": "box",
    "class": "class",
    "mask": "mask",
    "semantic": "semantic",
    "mask_iou": "mask IoU",
}
CURVES = (("segm", "ap", "mask AP"), ("segm", "ap50", "mask AP50"), ("bbox", "ap", "box AP"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--out", type=Path, help="picture to write; default: curves.png in the (first) run's folder"
    )
    args = parser.parse_args()
    try:
        print(plot(args.runs, args.out or args.runs[0] / "curves.png"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_metrics(run: Path) -> tuple[list[dict], list[dict]]:
    """Training and validation lines of a run. ValueError where there are none."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a run's folder, such as runs/quickstart/1")
    lines = [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]
    training = [line for line in lines if line["kind"] == "train" and line["losses"]]
    if not training:
        raise ValueError(
            f"{path} has no training line yet: let the run reach its first train.log_every"
        )
    return training, [line for line in lines if line["kind"] == "validation"]


def plot(runs: list[Path], out: Path) -> Path:
    """Writes the picture and returns its path."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for run in runs:
        training, validations = read_metrics(run)
        steps = [line["step"] for line in training]
        label = "/".join(run.resolve().parts[-2:])
        if len(runs) == 1:
            for name, shown in TERMS.items():
                if name in training[-1]["losses"]:
                    left.plot(
                        steps,
                        [line["losses"].get(name) for line in training],
                        label=shown,
                        linewidth=1.2,
                    )
        left.plot(
            steps,
            [line["loss"] for line in training],
            label="total" if len(runs) == 1 else label,
            linewidth=1.8,
            color="black" if len(runs) == 1 else None,
        )
        for kind, key, shown in CURVES if len(runs) == 1 else CURVES[:1]:
            values = [
                (line["step"], 100 * line[kind][key])
                for line in validations
                if line[kind][key] is not None
            ]
            if values:
                right.plot(
                    *zip(*values),
                    marker="o",
                    markersize=4,
                    label=shown if len(runs) == 1 else label,
                )
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


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    return main()
