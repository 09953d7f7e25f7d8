"""One image of the Cigarettes stand-in: ground, distractors, butts, camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from data.cigarettes.ground import GROUNDS, Light, noise, sample_light
from data.cigarettes.objects import DISTRACTORS, ButtLook, paint_butt, sample_look
from data.cigarettes.shape import (
    REFERENCE_SIZE,
    Rod,
    annotate,
    place_butt,
    silhouette,
    spread_points,
)
from data.generated import SPLITS

_GROUND_SHARES = {
    "asphalt": 0.16,
    "gravel": 0.12,
    "sand": 0.14,
    "soil": 0.14,
    "concrete": 0.12,
    "paving": 0.13,
    "planks": 0.06,
    "grass": 0.13,
}
# what lies about on each ground: mean number of sticks, stones, leaves
_CLUTTER = {
    "asphalt": (1.0, 2.0, 1.0),
    "gravel": (1.5, 1.5, 1.2),
    "sand": (1.6, 2.5, 0.8),
    "soil": (3.0, 2.5, 4.0),
    "concrete": (1.0, 1.6, 1.0),
    "paving": (1.0, 1.6, 1.2),
    "planks": (1.0, 0.8, 1.2),
    "grass": (1.8, 0.8, 2.6),
}


@dataclass(frozen=True)
class Layout:
    """Where the butts of one image are, and the generator that paints the rest."""

    butts: tuple[Rod, ...]
    rng: np.random.Generator


def image_layout(
    seed: int, split: str, index: int, *, size: int, max_instances: int = 1, zoom: float = 1.0
) -> Layout:
    """Sizes and places of the butts of image `index`: a function of its arguments alone, so any
    worker draws the same.

    The first butt follows a sequence that covers the real set's distribution evenly over the images
    of a split; further ones, up to max_instances (their number is uniform), are drawn independently
    and do not overlap.
    """
    part = SPLITS.index(split)
    rng = np.random.default_rng([seed, part, 1, index])
    points = [spread_points(np.random.default_rng([seed, part, 0]).random(5), index)]
    points += [rng.random(5) for _ in range(rng.integers(1, max_instances + 1) - 1)]
    taken = np.zeros((size, size), bool) if len(points) > 1 else None
    butts = []
    for u in points:
        butts.append(place_butt(rng, size, u, taken, zoom))
        if taken is not None:
            taken |= silhouette(butts[-1].outline, (0, 0, size, size), 1)[0] > 0
    return Layout(tuple(butts), rng)


def _scatter(
    canvas: np.ndarray,
    ground: str,
    butts: tuple[Rod, ...],
    light: Light,
    rng: np.random.Generator,
    scale: float,
    clutter: float,
) -> None:
    """Distractors, some of them close to a butt. They are painted before the butts, so they never
    hide one. clutter: how many, as a share of the usual number."""
    size = len(canvas)
    kinds = [
        kind
        for kind, mean in zip(DISTRACTORS, _CLUTTER[ground], strict=True)
        for _ in range(rng.poisson(clutter * mean))
    ]
    for kind in rng.permutation(kinds):
        centre = rng.uniform(0, size, 2)
        if rng.random() < 0.35:
            butt = butts[rng.integers(len(butts))]
            low, high = butt.outline.min(0), butt.outline.max(0)
            angle = rng.uniform(0, 2 * math.pi)
            away = 0.5 * math.hypot(*(high - low)) * rng.uniform(0.7, 1.6)
            centre = (low + high) / 2 + away * np.array([math.cos(angle), math.sin(angle)])
        DISTRACTORS[str(kind)](canvas, centre, rng, scale * rng.uniform(0.7, 1.25), light)


def photograph(image: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Shade of trees, exposure, white balance, contrast, vignetting, blur and noise: (S, S, 3)
    float32 -> uint8 RGB."""
    size = len(image)
    if rng.random() < 0.2:
        shade = np.clip(
            0.5 + 1.4 * noise(rng, (size, size), rng.uniform(120, 260) * scale, 3), 0, 1
        )
        image = image * (1 - rng.uniform(0.25, 0.55) * shade)[..., None]
    warmth = rng.normal(0, 0.06)
    image = image * np.array([1 + warmth, 1 + rng.normal(0, 0.012), 1 - warmth], np.float32)
    level = float(image.mean())
    # what a camera's metering would choose, not always well
    target = np.clip(level * rng.uniform(0.85, 1.3), 0.2, 0.62)
    image = np.clip(image * (target / max(level, 1e-3)), 0, None)
    # highlights roll off instead of clipping
    image = image / (1 + 0.18 * np.clip(image - 0.7, 0, None) * 4)
    image = np.clip(image, 0, 1) ** rng.uniform(0.88, 1.12)
    axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    image = image * (1 - rng.uniform(0, 0.22) * (axis[:, None] + axis[None]) / 2)[..., None]
    sigma = rng.choice([0.35, 0.7, 1.3], p=(0.5, 0.35, 0.15)) * rng.uniform(0.7, 1.2) * scale
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.08:  # a shaky hand
        reach = max(3, round(rng.uniform(2, 6) * scale) | 1)
        kernel = np.zeros((reach, reach), np.float32)
        angle, middle = rng.uniform(0, math.pi), reach // 2
        step = np.array([math.cos(angle), math.sin(angle)]) * middle
        ends = np.round(np.stack([middle - step, middle + step])).astype(int)
        cv2.line(kernel, ends[0].tolist(), ends[1].tolist(), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + grain * (rng.uniform(0.003, 0.022) * (0.5 + np.sqrt(np.clip(image, 0, 1))))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Scene:
    """One finished image with its annotations (COCO fields but the ids)."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    annotations: tuple[dict, ...]
    ground: str
    looks: tuple[ButtLook, ...]
    jpeg_quality: int


def render(
    seed: int,
    split: str,
    index: int,
    *,
    size: int,
    max_instances: int = 1,
    zoom: float = 1.0,
    clutter: float = 1.0,
) -> Scene:
    """Renders image `index` of a split: the same bytes for the same arguments, whatever was
    rendered before. zoom: how much nearer the camera is than the real set's. clutter: how many
    sticks, stones and leaves lie about, as a share of the usual number."""
    layout = image_layout(seed, split, index, size=size, max_instances=max_instances, zoom=zoom)
    rng, scale = layout.rng, zoom * size / REFERENCE_SIZE
    light = sample_light(rng)
    ground = str(rng.choice(list(_GROUND_SHARES), p=list(_GROUND_SHARES.values())))
    detail = scale * rng.uniform(0.75, 1.4)
    canvas = GROUNDS[ground](rng, size, detail, light).astype(np.float32)
    _scatter(canvas, ground, layout.butts, light, rng, scale, clutter)
    looks = []
    for butt in layout.butts:
        looks.append(sample_look(rng))
        paint_butt(canvas, butt, looks[-1], light, rng)
    image = photograph(canvas, rng, scale)
    annotations = tuple(annotate(butt, size) for butt in layout.butts)
    return Scene(image, annotations, ground, tuple(looks), int(rng.integers(70, 97)))
