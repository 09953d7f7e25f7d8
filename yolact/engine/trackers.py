"""Where the numbers of a run go beside its own files: TensorBoard, MLflow, Weights & Biases.

A tracker takes what RunLog gives it. One that fails, as where its server is gone, is told once and
left out from then on: no training ends for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.schema import Config
from yolact.cli import one_line, say
from yolact.files import write_whole
from yolact.run_files import MLFLOW_RUN, TENSORBOARD, WANDB_RUN

EXTRA = "yolact-loss-lab[{}]"


class Tracker(Protocol):
    """One place. Steps rise; a run that goes on continues the place's own run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """{name: value}; names are group/name, as loss/mask."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """image (h,w,3) uint8 RGB."""

    def close(self) -> None:
        """Sends what waits."""


class TensorBoard:
    """Events in the run's folder, <run>/tensorboard."""

    def __init__(self, run: Path, cfg: Config, step: int) -> None:
        # slow to import, and only the process that logs needs it
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self.board = SummaryWriter(str(run / TENSORBOARD), purge_step=purge)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self.board.close()


class MLflow:
    """A run of the experiment that is called as the config, at MLFLOW_TRACKING_URI (a server, a
    folder, or sqlite:///FILE)."""

    def __init__(self, run: Path, cfg: Config, step: int) -> None:
        from mlflow import MlflowClient

        self.client, note = MlflowClient(), run / MLFLOW_RUN
        if step and note.is_file():
            self.key = note.read_text(encoding="utf-8").strip()
            return
        found = self.client.get_experiment_by_name(cfg.name)
        home = found.experiment_id if found else self.client.create_experiment(cfg.name)
        self.key = self.client.create_run(home, run_name=str(run)).info.run_id
        for name, value in flat_settings(cfg).items():
            self.client.log_param(self.key, name, str(value)[:500])
        write_whole(note, self.key + "\n")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.key, name, value, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.client.log_image(self.key, image, key=name.replace("/", "_"), step=step)

    def close(self) -> None:
        self.client.set_terminated(self.key)


class Wandb:
    """A run of the project WANDB_PROJECT, or else yolact; WANDB_MODE=offline keeps it in the run's
    folder."""

    def __init__(self, run: Path, cfg: Config, step: int) -> None:
        import wandb

        note = run / WANDB_RUN
        known = note.read_text(encoding="utf-8").strip() if step and note.is_file() else None
        self.images = wandb.Image
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "yolact"),
            name=str(run),
            dir=str(run),
            config=flat_settings(cfg),
            id=known,
            resume="allow" if known else None,
        )
        write_whole(note, f"{self.run.id}\n")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.run.log({name: self.images(image)}, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Config, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}


class Trackers:
    """Those of train.trackers, as one. ValueError where a package is not installed."""

    def __init__(self, run: Path, cfg: Config, step: int) -> None:
        self.open: dict[str, Tracker] = {}
        for name in cfg.train.trackers:
            try:
                self.open[name] = TRACKERS[name](run, cfg, step)
            except ImportError as error:
                self.close()
                raise ValueError(
                    f"train.trackers: {name} needs its package ({error}): pip install "
                    f'"{EXTRA.format(name)}", or leave it out'
                ) from error
            except Exception as error:  # of a server that is not there: each package has its own
                self.close()
                raise ValueError(f"train.trackers: {name}: {one_line(error)}") from error

    def numbers(self, step: int, values: Mapping[str, float | None]) -> None:
        known = {name: value for name, value in values.items() if value is not None}
        self._each(methodcaller("numbers", step, known))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        for name, picture in pictures.items():
            self._each(methodcaller("picture", step, name, picture))

    def close(self) -> None:
        """Raises nothing: an error that ended the run is the one to be seen."""
        for name, tracker in self.open.items():
            try:
                tracker.close()
            except Exception as error:  # of a full disk or a lost server
                say(f"warning: {name} did not close: {one_line(error)}", error=True)

    def _each(self, give: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self.open.items()]:
            try:
                give(tracker)
            except Exception as error:  # as above
                del self.open[name]
                say(f"warning: {name} takes no more: {one_line(error)}; the run's files go on")


def flat_settings(cfg: Config) -> dict[str, Any]:
    """{"section.field": value} of a config, as trackers show it."""
    sections = cfg.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for section, value in sections.items():
        pairs: Iterable[tuple[str, Any]] = (
            [(f"{section}.{field}", item) for field, item in value.items()]
            if isinstance(value, dict)
            else [(section, value)]
        )
        flat |= dict(pairs)
    return flat
