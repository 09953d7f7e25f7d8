"""Where the numbers of a run go beside its own files: TensorBoard, MLflow, Weights & Biases.

A tracker takes what RunLog gives it. One that fails, as where its server is gone, is told once and
left out from then on: no training ends for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.resolve import settings_of
from data.schema import Config
from yolact.cli import one_line, say
from yolact.files import write_whole
from yolact.run_files import MLFLOW_RUN, TENSORBOARD, WANDB_RUN

EXTRA = "yolact-loss-lab[{}]"
# of mlflow, where the user sets none: its own are 7 and 120 s, and training waits meanwhile
MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
MLFLOW_PARAMS = 100  # that one request may hold


class Tracker(Protocol):
    """One place. Steps rise; a run that goes on continues the place's own run."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """{name: value}; names are group/name, as loss/mask."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """image (h,w,3) uint8 RGB."""

    def flush(self) -> None:
        """Lets what was given be seen now."""

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

    def flush(self) -> None:
        self.board.flush()

    def close(self) -> None:
        self.board.close()


class MLflow:
    """A run of the experiment that is called as the config, at MLFLOW_TRACKING_URI (a server, a
    folder, or sqlite:///FILE)."""

    def __init__(self, run: Path, cfg: Config, step: int) -> None:
        for name, limit in MLFLOW_LIMITS.items():
            os.environ.setdefault(name, limit)
        from mlflow import MlflowClient

        self.client, note = MlflowClient(), run / MLFLOW_RUN
        if step and note.is_file():
            self.key = note.read_text(encoding="utf-8").strip()
            return
        found = self.client.get_experiment_by_name(cfg.name)
        home = found.experiment_id if found else self.client.create_experiment(cfg.name)
        self.key = self.client.create_run(home, run_name=str(run)).info.run_id
        from mlflow.entities import Param

        params = [Param(name, str(value)[:500]) for name, value in _settings(cfg).items()]
        for first in range(0, len(params), MLFLOW_PARAMS):
            self.client.log_batch(self.key, params=params[first : first + MLFLOW_PARAMS])
        write_whole(note, self.key + "\n")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.key, metrics=metrics)  # one request

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.client.log_image(self.key, image, key=name.replace("/", "_"), step=step)

    def flush(self) -> None:
        pass

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
            config=_settings(cfg),
            id=known,
            resume="allow" if known else None,
        )
        write_whole(note, f"{self.run.id}\n")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        self.run.log({name: self.images(image)}, step=step)

    def flush(self) -> None:
        pass

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

    def flush(self) -> None:
        self._each(methodcaller("flush"))

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
                with suppress(Exception):  # what it says then is the same again
                    tracker.close()
                told = f"warning: {name} takes no more: {one_line(error)}; the run's files go on"
                say(told, error=True)


def _settings(cfg: Config) -> dict[str, Any]:
    return settings_of(cfg.model_dump(mode="json"))
