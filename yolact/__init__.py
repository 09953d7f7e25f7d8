"""YOLACT and YOLACT++: model, criterion, training, evaluation, and studies of losses.

Importing this package loads no torch: a name is loaded when it is first used.

    import yolact

    cfg = yolact.load_config("quickstart", ["loss.mask=bce + dice"])
    run = yolact.train(cfg)
    found = yolact.load(run)("picture.jpg")
    found.save_masks("masks.png")

Configs          Config, load_config
Composing        Yolact, build_model, Criterion, build_criterion, MaskLoss, load_weights
Own losses       pixel_loss, region_loss, check_loss
Own data         DataSet, Sample, Targets
Training         train, Run
Finding          load, Predictor, Predictions, Detections
Comparing        compare, study
Bounds           mask_bound, MaskBound
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.coco import Sample
    from data.resolve import load_config
    from data.schema import Config
    from layers.losses.checks.report import check_loss
    from layers.losses.criterion import Criterion
    from layers.losses.mask import MaskLoss
    from layers.losses.registry import pixel_loss, region_loss
    from layers.targets import Targets
    from yolact import study
    from yolact.bound import MaskBound, mask_bound
    from yolact.build import build_criterion, build_model
    from yolact.checkpoint import load_weights
    from yolact.engine.datasets import DataSet
    from yolact.engine.load import load
    from yolact.engine.predict import Predictor
    from yolact.engine.run import Run
    from yolact.engine.train import train
    from yolact.model import Yolact
    from yolact.outputs import Detections, Predictions
    from yolact.study.compare import compare

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Criterion",
    "DataSet",
    "Detections",
    "MaskBound",
    "MaskLoss",
    "Predictions",
    "Predictor",
    "Run",
    "Sample",
    "Targets",
    "Yolact",
    "build_criterion",
    "build_model",
    "check_loss",
    "compare",
    "load",
    "load_config",
    "load_weights",
    "mask_bound",
    "pixel_loss",
    "region_loss",
    "study",
    "train",
]

# name -> the module that defines it
_HOMES = {
    "Config": "data.schema",
    "Criterion": "layers.losses.criterion",
    "DataSet": "yolact.engine.datasets",
    "Detections": "yolact.outputs",
    "MaskBound": "yolact.bound",
    "MaskLoss": "layers.losses.mask",
    "Predictions": "yolact.outputs",
    "Predictor": "yolact.engine.predict",
    "Run": "yolact.engine.run",
    "Sample": "data.coco",
    "Targets": "layers.targets",
    "Yolact": "yolact.model",
    "build_criterion": "yolact.build",
    "build_model": "yolact.build",
    "check_loss": "layers.losses.checks.report",
    "compare": "yolact.study.compare",
    "load": "yolact.engine.load",
    "load_config": "data.resolve",
    "load_weights": "yolact.checkpoint",
    "mask_bound": "yolact.bound",
    "pixel_loss": "layers.losses.registry",
    "region_loss": "layers.losses.registry",
    "study": "yolact",
    "train": "yolact.engine.train",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if _HOMES[name] == __name__:  # a package in this one
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _refuse_other_packages() -> None:
    """ImportError where `data` or `layers`, which are common names, is not the one beside this
    package: whatever follows would fail with a message about something else."""
    import sys
    from importlib.util import find_spec
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    for name in ("data", "layers"):
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else loaded.__spec__
        file = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
        places = [file] if file else list(spec.submodule_search_locations or ()) if spec else []
        if places and not any(root / name in Path(place).resolve().parents for place in places):
            raise ImportError(
                f"`import {name}` finds {places[0]}, which hides {root / name} of this project: "
                f"rename {places[0]}, start from another folder, or put {root} first in PYTHONPATH",
                name=name,
                path=places[0],
            )


_refuse_other_packages()
