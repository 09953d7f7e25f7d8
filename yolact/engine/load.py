"""From a run's folder or a weights file to a Predictor, with the config that belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.resolve import list_configs, load_config
from data.schema import Config
from yolact.build import build_model
from yolact.checkpoint import load_weights, read_checkpoint
from yolact.cli import say
from yolact.engine.device_check import refuse_wrong
from yolact.engine.distributed import pick_device
from yolact.engine.precision import AUTO
from yolact.engine.predict import Predictor
from yolact.hub import hub_weights, is_hub
from yolact.run_files import BEST, CONFIG, INTERRUPT, LAST, WEIGHTS, run_of_weights


@dataclass(frozen=True)
class Opened:
    """A model that is ready to predict: from which file, of which training step (None = unknown),
    and a line that says what was loaded."""

    predictor: Predictor
    weights: Path
    step: int | None
    report: str


def load(
    run_or_weights: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    config: str | Path | Mapping | None = None,
    overrides: Iterable[str] = (),
) -> Predictor:
    """A Predictor from a run's folder (its best.pth), a .pth file, 'latest' for the newest run in
    runs/, or hub:NAME for official weights.

        predictor = yolact.load("runs/quickstart/1")
        found = predictor("picture.jpg")
        found.draw()  # (h,w,3) uint8 RGB

    device     None = a GPU where there is one
    precision  of the forward pass: float32 is exactly as published; auto takes what a timed
               convolution finds faster on the device, with batch norm folded, and says so; bf16 or
               fp16. None = eval.precision of the config, or auto
    config     of the model, where neither the run nor the file says it: a name or a file
    overrides  changes to that config, such as "eval.score_threshold=0.3"

    Averaged weights are taken where the file has them, as validation took them. ValueError, with
    the fix, where there are no weights, no config, or where they do not fit each other.
    """
    predictor = open_model(
        run_or_weights,
        device=device,
        precision=precision,
        config=config,
        overrides=overrides,
        otherwise=AUTO,
    ).predictor
    if predictor.choice.folded:
        say(f"runs in {predictor.choice}", error=True)
    return predictor


def open_model(
    run_or_weights: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    config: str | Path | Mapping | None = None,
    overrides: Iterable[str] = (),
    use_ema: bool | None = None,
    otherwise: str | None = None,
) -> Opened:
    """What load() does, with what it found out. use_ema: averaged weights; None = where the file
    has them. precision: None = cfg.eval's, and `otherwise` where that names none (None = float32,
    in which AP is found)."""
    weights = find_weights(run_or_weights)
    checkpoint = read_checkpoint(weights)
    cfg = find_config(weights, checkpoint, given=config, overrides=overrides)
    chosen = pick_device(device)
    refuse_wrong(chosen)
    model = build_model(cfg)
    if use_ema is None:  # validation during training looked at these too
        use_ema = isinstance(checkpoint.get("ema"), dict)
    loaded = load_weights(model, checkpoint, use_ema=use_ema, name=weights)
    predictor = Predictor(model, cfg, chosen, precision or cfg.eval.precision or otherwise)
    report = f"{weights}: {loaded}{', averaged weights' if use_ema else ''}"
    return Opened(predictor, weights, checkpoint.get("step"), f"{report}; {predictor.choice}")


def find_weights(run_or_weights: str | Path, runs_root: Path = Path("runs")) -> Path:
    """The .pth file that a name means: itself, a run folder's best.pth (or last.pth), those of the
    newest run under runs_root for 'latest', or a file of the hub for hub:NAME. ValueError where
    there is none."""
    if is_hub(run_or_weights):
        return hub_weights(str(run_or_weights))
    path = Path(run_or_weights)
    if str(run_or_weights) in ("latest", "interrupt") and not path.exists():
        runs = [
            found.parent.parent for name in (BEST, LAST) for found in runs_root.glob(f"**/{name}")
        ]
        if not runs:
            raise ValueError(f"{run_or_weights}: there is no run with weights in {runs_root}/")
        path = max(runs, key=lambda run: (run / WEIGHTS).stat().st_mtime)
    if path.is_dir():
        names = (BEST, LAST, INTERRUPT)
        found = [*(path / name for name in names), *(path / Path(name).name for name in names)]
        path = next((file for file in found if file.is_file()), path)
        if path.is_dir():
            raise ValueError(f"{path} holds no {BEST} or {LAST}")
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: give a run's folder, or a .pth file such as runs/NAME/1/{BEST}"
        )
    return path


def find_config(
    weights: Path,
    checkpoint: Mapping[str, Any],
    *,
    given: str | Path | Mapping | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """The config of a model: as given, of its run, in its checkpoint, or by the official file name.
    ValueError where there is none."""
    if given is not None:
        return inference_config(given, overrides)
    run = run_of_weights(weights)
    if run is not None and (run / CONFIG).is_file():
        return inference_config(run / CONFIG, overrides)
    stored = checkpoint.get("config")
    if isinstance(stored, dict):
        return inference_config(stored, overrides)
    official = re.fullmatch(r"(.+?)_\d+_\d+(_interrupt)?", weights.stem)
    name = official[1] if official else weights.stem
    if name not in list_configs():
        raise ValueError(
            f"{weights} does not say which config it belongs to: add --config=NAME, in Python "
            "load(..., config=NAME) (yolact list configs shows all)"
        )
    say(f"config {name}, by the file name")
    return inference_config(name, overrides)


def inference_config(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> Config:
    """A config without a look at its loss: nothing here needs one, and its plugins are code, which
    a checkpoint may name too."""
    return load_config(source, overrides, check_names=False)
