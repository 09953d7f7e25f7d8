"""Anchors of every published config, bit by bit.

Not compared, as the project does not offer the options: `generic_resnet101_backbone_level0_h5_w7`
(scales in feature map cells on a non-square map, ratios applied without a square root) and the
second of two ratio lists in `generic_darknet53_backbone_level1_h4_w4`.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from layers.anchors import level_sizes, make_anchors
from yolact.testing.reference_cases import Case

RATIOS = (1, 0.5, 2)
CUBE_ROOTS = (48, 48 * 2 ** (1 / 3), 48 * 2 ** (2 / 3))
# Settings of single levels. Scales in cells of a 4x4 map, as the second has, are pixels of an input
# of side 4.
LEVELS = {
    "nonsquare_plus_level1_h6_w8": dict(
        level_shapes=[(6, 8)], scales=[CUBE_ROOTS], ratios=RATIOS, image_size=550
    ),
    "generic_darknet53_backbone_level1_h4_w4": dict(
        level_shapes=[(4, 4)], scales=[(3.6, 4.9)], ratios=(1, 2, 1 / 2, 3, 1 / 3), image_size=4
    ),
}


def cases(root: Path) -> list[Case]:
    folder = root / "priors"
    if not (folder / "priors.json").exists():
        return []
    settings = json.loads((folder / "priors.json").read_text())
    found = [
        Case(f"priors/{name} sha256", partial(_hash_differs, name, s), 0)
        for name, s in settings.items()
        if "sha256_float32" in s
    ]
    if (folder / "priors.npz").exists():
        with np.load(folder / "priors.npz") as z:
            stored = {key: z[key] for key in z.files}
        found += [
            Case(f"priors/{name} rows", partial(_wrong_rows, name, s, stored), 0)
            for name, s in settings.items()
            if f"{name}_rows" in stored
        ]
        found += [
            Case(f"priors/{name}", partial(_level_differs, level, stored[name]), 0)
            for name, level in LEVELS.items()
            if name in stored
        ]
    return found


def _anchors(name: str, setting: dict) -> torch.Tensor:
    shapes = [(side, side) for side in setting["conv_sizes"]]
    assert list(level_sizes(shapes, setting["pred_scales"], RATIOS)) == setting["per_level"], (
        f"{name}: anchors per level"
    )
    image_size = int(name.rsplit("_", 1)[1])
    return make_anchors(
        shapes,
        setting["pred_scales"],
        RATIOS,
        image_size=image_size,
        square=setting["use_square_anchors"],
    )


def _hash_differs(name: str, setting: dict) -> float:
    return float(
        hashlib.sha256(_anchors(name, setting).numpy().tobytes()).hexdigest()
        != setting["sha256_float32"]
    )


def _wrong_rows(name: str, setting: dict, stored: dict[str, np.ndarray]) -> float:
    return float(
        (_anchors(name, setting).numpy()[stored[f"{name}_idx"]] != stored[f"{name}_rows"])
        .any(1)
        .sum()
    )


def _level_differs(level: dict, stored: np.ndarray) -> float:
    ((h, w),) = level["level_shapes"]
    # a second list of ratios, if any, follows these in each cell
    per_cell = len(level["scales"][0]) * len(level["ratios"])
    found = make_anchors(**level).numpy().reshape(h * w, per_cell, 4)
    return float((found != stored.reshape(h * w, -1, 4)[:, :per_cell]).sum())
