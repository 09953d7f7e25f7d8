"""What a generated thing is made of: its texture, how thick it is, and how much shines through.

A thing is painted into a canvas (S, S, 3) float32 RGB in place, as those of data/cigarettes are.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np

from data.cigarettes.ground import Light, noise, relief, tint
from data.cigarettes.objects import SUPERSAMPLING, blend_patch, cast_shadow, patch_box
from data.cigarettes.shape import silhouette

TEXTURES = ("plain", "grain", "stripes", "spots", "shade", "rings", "halves")


@dataclass(frozen=True)
class Material:
    """texture: one of TEXTURES; colours: two of RGB 0..255; relief: height of the middle as a share
    of the thickness; opacity: 1 hides the ground; period: of a texture, as a share of the size;
    shadow: whether it casts one."""

    texture: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    relief: float
    opacity: float
    period: float
    shadow: bool


def _colour(rng: np.random.Generator, value: tuple[float, float]) -> tuple[float, float, float]:
    saturation = rng.choice([rng.uniform(0, 0.15), rng.uniform(0.15, 0.9)])
    r, g, b = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(*value))
    return 255 * r, 255 * g, 255 * b


def sample_material(rng: np.random.Generator, shadow: bool) -> Material:
    first = _colour(rng, (0.1, 1.0))
    second = _colour(rng, (0.1, 1.0))
    near = rng.random() < 0.6
    if near:  # two shades of one colour
        second = tuple(min(255.0, c * rng.uniform(0.55, 1.6)) for c in first)  # type: ignore[assignment]
    return Material(
        str(rng.choice(TEXTURES)),
        (first, second),
        float(rng.choice([0.0, rng.uniform(0.1, 0.9)], p=(0.25, 0.75))),
        float(rng.choice([1.0, rng.uniform(0.45, 0.9)], p=(0.85, 0.15))),
        float(rng.uniform(0.08, 0.4)),
        shadow and bool(rng.random() < 0.85),
    )


def _texture(
    material: Material, x: np.ndarray, y: np.ndarray, extent: float, rng: np.random.Generator
) -> np.ndarray:
    """Values about -1.6..1.6 (h, w) between the two colours; x, y (h, w) pixels from the middle."""
    period = max(material.period * extent, 2.5)
    turn = rng.uniform(0, math.pi)
    along = (x * math.cos(turn) + y * math.sin(turn)).astype(np.float32)
    across = (y * math.cos(turn) - x * math.sin(turn)).astype(np.float32)
    wave = 2 * math.pi / period
    cell = period * SUPERSAMPLING
    return {
        "plain": lambda: np.zeros_like(along),
        "grain": lambda: noise(rng, along.shape, cell, 4, 0.7),
        "stripes": lambda: 1.6 * np.tanh(3 * np.sin(wave * along)),
        "spots": lambda: 1.6 * np.tanh(6 * (np.sin(wave * along) * np.sin(wave * across) - 0.3)),
        "shade": lambda: 3.0 * along / max(extent, 1.0),
        "rings": lambda: 1.6 * np.sin(wave * np.hypot(x, y)),
        "halves": lambda: 1.6 * np.tanh((along - rng.normal(0, 0.1) * extent) * 2),
    }[material.texture]().astype(np.float32)


def paint_thing(
    canvas: np.ndarray,
    outline: np.ndarray,
    hole: np.ndarray | None,
    material: Material,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Paints one thing, with its shadow where it casts one: outline and hole (P, 2) in pixels. Its
    mask is what lies between them; the shadow is not part of it."""
    box = patch_box(outline, len(canvas), 2)
    if box[2] - box[0] < 3 or box[3] - box[1] < 3:
        return
    _, cover = silhouette(outline, box, SUPERSAMPLING)
    if hole is not None:
        cover = cover * (1 - silhouette(hole, box, SUPERSAMPLING)[1])
    inner = cv2.distanceTransform((np.pad(cover, 1) > 0.5).astype(np.uint8), cv2.DIST_L2, 5)[
        1:-1, 1:-1
    ]
    half = max(float(inner.max()), 1.0)
    if material.shadow and hole is None:
        cast_shadow(canvas, outline, half / SUPERSAMPLING * (0.3 + material.relief), light)
    middle = outline.mean(0)
    ys, xs = np.mgrid[: cover.shape[0], : cover.shape[1]].astype(np.float32)
    x, y = xs / SUPERSAMPLING + (box[0] - middle[0]), ys / SUPERSAMPLING + (box[1] - middle[1])
    value = _texture(material, x, y, float(np.ptp(outline, axis=0).max()), rng)
    value = value + 0.25 * noise(rng, cover.shape, 3.0 * SUPERSAMPLING, 3)
    colour = tint(value, *material.colours)
    if material.relief:
        dome = np.sqrt(np.clip(1 - (1 - np.clip(inner / half, 0, 1)) ** 2, 0, 1))
        height = cv2.GaussianBlur(dome * half * material.relief, (0, 0), 0.06 * half + 0.6)
        colour = colour * relief(height, light, 0.9)[..., None]
    blend_patch(canvas, box, (cover * material.opacity).astype(np.float32), colour)


def paint_mark(canvas: np.ndarray, rng: np.random.Generator, scale: float) -> None:
    """A mark that is no thing: a scratch, a stain without an edge, or something written."""
    size = len(canvas)
    kind = rng.choice(["scratch", "stain", "writing"], p=(0.4, 0.35, 0.25))
    layer = np.zeros((size, size), np.uint8)
    centre = rng.uniform(0, size, 2)
    if kind == "stain":
        axes = np.round(rng.uniform(8, 60, 2) * scale).astype(int) + 1
        cv2.ellipse(
            layer, centre.astype(int).tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 255, -1
        )
        soft = cv2.GaussianBlur(layer, (0, 0), float(axes.min()) * rng.uniform(0.5, 1.0))
        share = soft.astype(np.float32) / 255 * rng.uniform(0.15, 0.5)
    elif kind == "scratch":
        steps = rng.normal(0, 0.25, 40).cumsum() * 0.4 + rng.uniform(0, 2 * math.pi)
        reach = rng.uniform(1.5, 5) * scale
        path = centre + np.stack([np.cos(steps), np.sin(steps)], 1).cumsum(0) * reach
        cv2.polylines(layer, [np.round(path * 16).astype(np.int32)], False, 255, 1, cv2.LINE_AA, 4)
        share = layer.astype(np.float32) / 255 * rng.uniform(0.3, 0.9)
    else:
        text = "".join(chr(rng.integers(48, 91)) for _ in range(rng.integers(1, 8)))
        cv2.putText(
            layer,
            text,
            centre.astype(int).tolist(),
            cv2.FONT_HERSHEY_SIMPLEX,
            rng.uniform(0.5, 1.6) * scale,
            255,
            1,
            cv2.LINE_AA,
        )
        share = layer.astype(np.float32) / 255 * rng.uniform(0.4, 0.9)
    colour = np.array(_colour(rng, (0.05, 1.0)), np.float32) / 255
    canvas += share[..., None] * (colour - canvas)
