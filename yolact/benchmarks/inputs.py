"""The work that scripts/bench.py times, made from numpy alone so that two code bases can be given
exactly the same."""

from __future__ import annotations

import numpy as np


def images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """(count,3,size,size) float32, normalised: smooth random patches, so that activations look like
    those of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = (
        rng.standard_normal((count, 3, size // 16 + 2, size // 16 + 2))
        .repeat(16, axis=2)
        .repeat(16, axis=3)
    )
    return (coarse[..., :size, :size] + 0.3 * rng.standard_normal((count, 3, size, size))).astype(
        np.float32
    )


def ground_truth(
    count: int, size: int, objects: int, classes: int, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Per image: boxes (M,4) XYXY relative, labels (M,), masks (M,size,size) uint8, each mask an
    ellipse that fills its box."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    truths = []
    for _ in range(count):
        side = rng.uniform(0.08, 0.45, (objects, 2))
        low = rng.uniform(0, 1 - side)
        centre = low + side / 2
        radius = ((x[None] - centre[:, 0, None, None]) / side[:, 0, None, None]) ** 2 + (
            (y[None] - centre[:, 1, None, None]) / side[:, 1, None, None]
        ) ** 2
        truths.append(
            {
                "boxes": np.concatenate([low, low + side], 1).astype(np.float32),
                "labels": rng.integers(0, classes, objects),
                "masks": (radius <= 0.25).astype(np.uint8),
            }
        )
    return truths
