"""Masks as outlines: paths of an SVG in pixels of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

SMOOTHING = 0.5  # pixels that an outline may leave the mask's by


def outline(mask: Mapping[str, Any]) -> str:
    """A path around each part and hole of COCO run lengths, through the middle of the outermost
    pixels. Empty for an empty mask."""
    x, y, w, h = (int(value) for value in rle.toBbox(mask))
    if not w or not h:
        return ""
    part = np.ascontiguousarray(rle.decode(mask)[y : y + h, x : x + w])
    contours, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    return "".join(_path(cv2.approxPolyDP(line, SMOOTHING, True)[:, 0]) for line in contours)


def _path(points: np.ndarray) -> str:
    """Whole pixels, each as its distance from the last: an SVG shifts them by a half."""
    steps = np.diff(points, axis=0).tolist()
    start = "M{},{}".format(*points[0].tolist())
    return start + ("l" + " ".join(f"{dx},{dy}" for dx, dy in steps) if steps else "") + "z"
