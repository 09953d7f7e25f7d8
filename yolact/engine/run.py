"""A finished or stopped training, as Python sees it: its folder, config, metrics and weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.resolve import load_config
from data.schema import Config
from yolact.engine.rundir import RunDir
from yolact.run_files import BEST, LAST


@dataclass(frozen=True)
class Run(os.PathLike[str]):
    """A run's folder. train() returns one; Run(Path("runs/quickstart/1")) opens an older one.

    run = yolact.train(cfg)
    run.best_ap            # mask AP of the best validation, 0..1
    run / "curves.png"     # a path in its folder
    yolact.load(run)       # its best weights, ready to predict
    """

    path: Path

    @property
    def config(self) -> Config:
        """What it was trained with, from config.yaml."""
        return load_config(self.path, check_names=False)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in their order: {"kind": "train", "step", "losses", ...} and
        {"kind": "validation", "step", "bbox", "segm", ...}."""
        text = RunDir(self.path).metrics.read_text(encoding="utf-8")
        # a kill may leave the last line unfinished
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    @property
    def best(self) -> Path:
        """Weights of the best validation; the last ones where none found an AP."""
        return self / BEST if (self / BEST).is_file() else self / LAST

    @property
    def best_ap(self) -> float | None:
        """Mask AP (0..1) of the best validation; None where there was none."""
        found = [
            line["segm"]["ap"]
            for line in self.metrics
            if line["kind"] == "validation" and line["segm"]["ap"] is not None
        ]
        return max(found, default=None)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str | Path) -> Path:
        return self.path / name
