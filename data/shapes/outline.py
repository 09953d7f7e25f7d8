"""Outlines of the generated things: one function a kind, and the kinds are the classes.

Every function takes a generator and returns (P, 2) points around the origin whose longest extent
is about 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from data.cigarettes.shape import make_rod

POINTS = 72


def _polar(radius: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Points at `radius` (P,) over equal angles, squeezed by `aspect` and brought to extent 1."""
    angles = np.linspace(0, 2 * math.pi, len(radius), endpoint=False)
    points = np.stack([radius * np.cos(angles), aspect * radius * np.sin(angles)], 1)
    return points / np.ptp(points, axis=0).max()


def _rounded(corners: np.ndarray, share: float) -> np.ndarray:
    """A polygon whose corners are cut by quadratic curves that begin at `share` of each side."""
    before, after = np.roll(corners, 1, 0), np.roll(corners, -1, 0)
    start, end = corners + share * (before - corners), corners + share * (after - corners)
    t = np.linspace(0, 1, 6)[None, :, None]
    curves = (
        (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * corners[:, None] + t**2 * end[:, None]
    )
    points = curves.reshape(-1, 2)
    return (points - points.mean(0)) / np.ptp(points, axis=0).max()


def ellipse(rng: np.random.Generator) -> np.ndarray:
    return _polar(np.ones(POINTS), rng.uniform(0.45, 1.0))


def rod(rng: np.random.Generator) -> np.ndarray:
    made = make_rod(rng, 100.0, 100.0 * rng.uniform(0.1, 0.5), 0.0)
    return made.outline / 100


def polygon(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(3, 8))
    turns = (np.arange(count) + rng.uniform(-0.2, 0.2, count)) * 2 * math.pi / count
    corners = np.stack([np.cos(turns), rng.uniform(0.5, 1.0) * np.sin(turns)], 1)
    return _rounded(corners, rng.uniform(0.02, 0.35))


def star(rng: np.random.Generator) -> np.ndarray:
    arms, depth = int(rng.integers(3, 9)), rng.uniform(0.2, 0.5)
    angles = np.linspace(0, 2 * math.pi, POINTS, endpoint=False)
    return _polar(1 - depth * (0.5 - 0.5 * np.cos(arms * angles)) ** rng.uniform(0.5, 1.5))


def leaf(rng: np.random.Generator) -> np.ndarray:
    s = np.linspace(0, 1, POINTS // 2)
    half = rng.uniform(0.12, 0.35) * np.sin(math.pi * s ** rng.uniform(0.6, 1.4))
    bend = rng.normal(0, 0.12) * 4 * (s - 0.5) ** 2
    upper = np.stack([s - 0.5, bend + half], 1)
    return np.concatenate([upper, np.stack([s - 0.5, bend - half], 1)[::-1]])


def blob(rng: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, POINTS, endpoint=False)
    waves = [
        rng.normal(0, 0.22 / k) * np.cos(k * angles + rng.uniform(0, 2 * math.pi))
        for k in range(2, 7)
    ]
    return _polar(np.clip(1 + sum(waves), 0.35, None), rng.uniform(0.6, 1.0))


def bracket(rng: np.random.Generator) -> np.ndarray:
    """An L, T, U or cross: bars of one width, joined."""
    bar = rng.uniform(0.18, 0.34)
    bars = {
        "L": ((0, 0, bar, 1), (0, 0, rng.uniform(0.5, 1), bar)),
        "T": ((0, 0, 1, bar), (0.5 - bar / 2, 0, bar, rng.uniform(0.6, 1))),
        "U": ((0, 0, bar, 1), (0, 0, 0.8, bar), (0.8 - bar, 0, bar, rng.uniform(0.5, 1))),
        "+": ((0, 0.5 - bar / 2, 1, bar), (0.5 - bar / 2, 0, bar, 1)),
    }[str(rng.choice(list("LTU+")))]
    canvas = np.zeros((220, 220), np.uint8)
    for x, y, w, h in bars:
        low = np.round(np.array([x, y]) * 180).astype(int) + 15
        high = np.round(np.array([x + w, y + h]) * 180).astype(int) + 15
        cv2.rectangle(canvas, low.tolist(), high.tolist(), 255, -1)
    soft = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1.5, 7))
    contours, _ = cv2.findContours(
        (soft > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    points = max(contours, key=cv2.contourArea)[:, 0].astype(np.float64)
    return (points - points.mean(0)) / np.ptp(points, axis=0).max()


def ring(rng: np.random.Generator) -> np.ndarray:
    """The outer edge; `hole_of` says where the inner one is."""
    return _polar(np.ones(POINTS), rng.uniform(0.6, 1.0))


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "disc": ellipse,
    "rod": rod,
    "polygon": polygon,
    "star": star,
    "leaf": leaf,
    "blob": blob,
    "bracket": bracket,
    "ring": ring,
}


def hole_of(kind: str, outline: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The inner edge of a ring (P, 2), in the outline's coordinates; none for what is solid."""
    if kind != "ring":
        return None
    centre = outline.mean(0)
    return centre + (outline - centre) * rng.uniform(0.3, 0.75)
