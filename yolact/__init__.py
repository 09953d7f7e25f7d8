"""YOLACT and YOLACT++: model, post-processing, checkpoints and the training engine."""

from yolact.build import build_model
from yolact.checkpoint import load_weights

__all__ = ["build_model", "load_weights"]
