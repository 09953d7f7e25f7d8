"""Weights that the reference numbers were made with: a function of the official state_dict's key
names and shapes alone.

Section 1 of the reference's README defines the recipe; each tensor has a generator of its own, so
that a subset of the keys (the mask-IoU net by itself) gets the values that it has in the full
model, as long as its batch-norm keys stay together.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from yolact.testing.reference_cases import Case

GAINS = (("conf_layer", 1.5), ("proto_net.10.", 2.0), ("maskiou_net.", 1.25))
MASK_IOU_CHANNELS = (1, 8, 16, 32, 64, 128)


def make_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """{key: tensor} of the given shapes: float32, but int64 zeros for num_batches_tracked."""
    return {
        key: torch.from_numpy(_tensor(key, tuple(shape), seed, shapes))
        for key, shape in shapes.items()
    }


def mask_iou_state(num_classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of the mask-IoU net under its official keys; num_classes counts the foreground."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(pairwise(MASK_IOU_CHANNELS)):
        shapes[f"maskiou_net.maskiou_net.{2 * layer}.weight"] = (after, before, 3, 3)
        shapes[f"maskiou_net.maskiou_net.{2 * layer}.bias"] = (after,)
    shapes["maskiou_net.maskiou_net.10.weight"] = (num_classes, MASK_IOU_CHANNELS[-1], 1, 1)
    shapes["maskiou_net.maskiou_net.10.bias"] = (num_classes,)
    return make_state(shapes, seed)


def cases(root: Path) -> list[Case]:
    """The recipe itself: sha256 of some tensors of each model whose key list is there."""
    found = []
    for path in sorted((root / "net").glob("net_*.json")):
        shapes = path.with_name(path.name.replace("net_", "state_dict_", 1))
        if shapes.exists():
            found.append(
                Case(f"weight recipe: {path.stem}", partial(_wrong_tensors, path, shapes), 0)
            )
    return found


def _wrong_tensors(checks: Path, key_list: Path) -> int:
    stored = json.loads(checks.read_text())
    shapes = {
        key: tuple(entry["shape"] if isinstance(entry, dict) else entry[0])
        for key, entry in json.loads(key_list.read_text()).items()
    }
    made = {
        key: _tensor(key, shapes[key], stored["weight_seed"], shapes)
        for key in stored["weight_check"]
    }
    return sum(
        hashlib.sha256(np.ascontiguousarray(made[key]).tobytes()).hexdigest() != expected["sha256"]
        for key, expected in stored["weight_check"].items()
    )


def _tensor(key: str, shape: tuple[int, ...], seed: int, keys) -> np.ndarray:
    module, kind = key.rsplit(".", 1)
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    stream = np.random.PCG64((zlib.crc32(key.encode()) + seed) % (1 << 32))
    noise = np.random.Generator(stream).standard_normal(shape)
    if f"{module}.running_mean" in keys:
        values = _batch_norm(key, kind, noise)
    elif kind == "bias":
        values = _bias(key, noise)
    else:
        values = _filters(key, noise)
    return np.asarray(values).astype(np.float32)


def _batch_norm(key: str, kind: str, noise: np.ndarray) -> np.ndarray:
    if kind == "running_var":
        return np.maximum(1 + 0.1 * noise, 0.5)
    if kind in ("running_mean", "bias"):
        return 0.05 * noise
    scale = 1 + 0.05 * noise
    # last of a ResNet block: keeps deep residual sums small
    if key.startswith("backbone.") and key.endswith(".bn3.weight"):
        return 0.2 * scale
    # the same in a DarkNet block
    if key.startswith("backbone.") and key.endswith(".conv2.1.weight"):
        return 0.5 * scale
    return scale


def _bias(key: str, noise: np.ndarray) -> np.ndarray:
    if "conv_offset_mask" in key:
        return 0.1 * noise
    values = 0.05 * noise
    if "conf_layer" in key:
        values[::81] += 8.0  # background logit of every anchor
    return values


def _filters(key: str, noise: np.ndarray) -> np.ndarray:
    fan_in = np.prod(noise.shape[1:])
    if "conv_offset_mask" in key:
        return 1.5 / np.sqrt(fan_in) * noise
    values = np.sqrt(2.0 / fan_in) * noise
    values = values - values.reshape(len(values), -1).mean(1).reshape(-1, 1, 1, 1)
    gain = 1.0
    for part, factor in GAINS:
        if part in key:
            gain = factor
    return gain * values
