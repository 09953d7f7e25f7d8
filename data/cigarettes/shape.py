"""Shapes of the Cigarettes stand-in: how long, wide, turned, bent and where a butt is. No pixels
are painted here.

The sizes follow the 2000 training images of the real set (quantiles below, in pixels of a 512 px
image). Everything random about size and place comes from here, so that the statistics can be
checked without rendering an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from pycocotools import mask as coco_mask

LONGEST = 0.7  # of the image's side, for a butt that a zoom enlarges
REFERENCE_SIZE = 512  # the quantiles are pixels of an image of this side; other sizes scale
LENGTH_QUANTILES = (50.0, 86.0, 164.0)  # 5, 50, 95 % of the long side of the min-area rectangle
WIDTH_QUANTILES = (18.0, 28.0, 43.0)  # same of its short side
# fitted: gives the real set's quantiles of box area and of rectangle area / box area
LENGTH_WIDTH_CORRELATION = 0.32
# round corners shrink the upright box: a little slimmer makes up for it
LENGTH_FACTOR, WIDTH_FACTOR = 1.045, 0.985
# uniform; after redrawing what touches the border 5 % lie below 73 px and 5 % above 440 px
CENTRE_RANGE = (47.0, 466.0)
# length / width below this looks like a pebble, and the rectangle's long side becomes arbitrary
SMALLEST_ASPECT = 1.3
BORDER = 2  # pixels kept free between a butt and the image border
MAX_PLACEMENTS = 200

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)


class Crowded(ValueError):
    """No free place was found for an instance."""


@dataclass(frozen=True)
class Rod:
    """A bent cylinder lying on the ground, seen from above.

    Local coordinates: x runs along the chord from 0 to `length`, the spine is y = spine(x),
    `radius(x)` is the half width. to_image (2, 3) maps local (x, y, 1) to image pixels, where pixel
    i covers [i, i + 1).
    """

    length: float
    spine: np.ndarray  # (T,) y of the spine at T equally spaced x
    radius: np.ndarray  # (T,) half width at the same x
    outline: np.ndarray  # (P, 2) silhouette in image pixels
    to_image: np.ndarray  # (2, 3)
    facing: int  # 0: the end at x=0 faces the camera, 1: the end at x=length does, -1: neither
    cap: float  # depth of the elliptical ends, as a fraction of the radius
    bend: float  # sagitta / overall width: 0 is straight

    @property
    def thickness(self) -> float:
        """Typical diameter in image pixels."""
        return (
            2 * float(np.median(self.radius)) * math.sqrt(abs(np.linalg.det(self.to_image[:, :2])))
        )


def spread_points(shift: np.ndarray, index: int) -> np.ndarray:
    """Point number `index` of a low-discrepancy sequence (additive recurrence on the generalised
    golden ratio, Roberts 2018).

    shift (D,) in [0, 1) starts the sequence; the result is (D,) in (0, 1). Any few hundred
    consecutive points already follow the uniform distribution far more closely than independent
    draws do, so a small stand-in has the right statistics too.
    """
    dims = len(shift)
    ratio = 1.5
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dims + 1))
    steps = ratio ** -np.arange(1.0, dims + 1)
    return np.clip((shift + (index + 1) * steps) % 1.0, 1e-6, 1 - 1e-6)


def _log_quantiles(quantiles: tuple[float, float, float], z: float) -> float:
    """Two-piece log-normal through the three quantiles, cut at |z| = 2.2 (1.4 % at either end)."""
    low, middle, high = quantiles
    z = max(-2.2, min(2.2, z))
    return middle * math.exp(
        z * (math.log(middle / low) if z < 0 else math.log(high / middle)) / _Z95
    )


def sample_extent(u: np.ndarray, scale: float) -> tuple[float, float]:
    """Length and width of the min-area rectangle in pixels, from two uniform numbers."""
    z_length = _NORMAL.inv_cdf(float(u[0]))
    rho = LENGTH_WIDTH_CORRELATION
    z_width = rho * z_length + math.sqrt(1 - rho * rho) * _NORMAL.inv_cdf(float(u[1]))
    length = _log_quantiles(LENGTH_QUANTILES, z_length)
    width = min(_log_quantiles(WIDTH_QUANTILES, z_width), length / SMALLEST_ASPECT)
    return length * scale * LENGTH_FACTOR, width * scale * WIDTH_FACTOR


def _spine(
    rng: np.random.Generator, x: np.ndarray, length: float, width: float
) -> tuple[np.ndarray, float]:
    """Heights of the spine over x, and its sagitta as a share of the width."""
    kind = rng.choice(3, p=(0.77, 0.07, 0.16))  # straight, arc, kink
    slender = min(1.0, (length / width - 1) / 1.5)  # a stubby one hardly bends
    share = (rng.uniform(0, 0.02), rng.uniform(0.1, 0.28), rng.uniform(0.14, 0.46))[kind] * slender
    s = x / length
    if kind < 2:
        return share * width * 4 * s * (1 - s), share
    knee, soft = rng.uniform(0.25, 0.75), rng.uniform(0.015, 0.05)
    tent = np.minimum(s / knee, (1 - s) / (1 - knee))
    distance = s - knee
    # takes the tip off, so that the outline has no spike
    rounded = tent - soft * np.exp(-np.abs(distance) / soft) * 2
    return share * width * rounded, share


def _radius(rng: np.random.Generator, s: np.ndarray, thickness: float) -> np.ndarray:
    """Half widths over s in [0, 1]: firm filter, softer paper, crushed ends a little wider."""
    paper = 1 / (1 + np.exp(-(s - rng.uniform(0.4, 0.6)) / 0.05))
    squash = rng.uniform(0.92, 1.05)
    end = rng.uniform(-0.02, 0.14) * np.clip((s - 0.7) / 0.3, 0, 1) ** 2 + rng.uniform(
        -0.01, 0.06
    ) * np.clip((0.25 - s) / 0.25, 0, 1)
    dents = np.interp(s, np.linspace(0, 1, 9), np.append(0, rng.normal(-0.012, 0.008, 8)))
    return thickness / 2 * (1 + (squash - 1) * paper + end + dents)


def _outline(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: np.ndarray, cap: float
) -> np.ndarray:
    """Closed silhouette (P, 2) in local coordinates: two sides and two elliptical ends, the one at
    x = length ragged."""
    slope = np.gradient(y, x)
    normal = np.stack([-slope, np.ones_like(slope)], 1) / np.hypot(slope, 1)[:, None]
    spine = np.stack([x, y], 1)
    left, right = spine + normal * radius[:, None], spine - normal * radius[:, None]
    angles = np.linspace(0, np.pi, 19)[1:-1, None]

    def end(i: int, sign: float, rough: float) -> np.ndarray:
        along = np.array([normal[i, 1], -normal[i, 0]]) * sign
        depth = radius[i] * (cap + rng.normal(0, rough, len(angles))[:, None])
        # squarer than an ellipse: crushed paper keeps its corners
        across = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.4
        return (
            spine[i] + along * np.sin(angles) ** 0.4 * depth + sign * normal[i] * across * radius[i]
        )

    return np.concatenate(
        [left, end(-1, 1.0, rng.choice([0.02, 0.07])), right[::-1], end(0, -1.0, 0.0)]
    )


def make_rod(
    rng: np.random.Generator,
    length: float,
    width: float,
    angle: float,
    centre: tuple[float, float] = (0.0, 0.0),
) -> Rod:
    """A butt whose silhouette has a min-area rectangle of exactly length x width pixels around
    `centre`, turned by `angle`."""
    cap = rng.uniform(0.02, 0.12)
    facing = int(rng.choice([0, 1, -1], p=(0.35, 0.35, 0.3)))
    x = np.linspace(0, length, 64)
    y, share = _spine(rng, x, length, width)
    radius = _radius(rng, x / length, max(width * (1 - share), 0.45 * width))
    outline = _outline(rng, x, y, radius, cap)
    (cx, cy), (side_a, side_b), degrees = cv2.minAreaRect(outline.astype(np.float32))
    turn = math.radians(degrees)
    if side_a < side_b:  # OpenCV's angle belongs to the first side; we want the long one
        side_a, side_b, turn = side_b, side_a, turn + math.pi / 2
    if math.cos(turn) < 0:  # the filter stays on the side that `angle` asks for
        turn += math.pi
    # rotate the rectangle onto the axes, stretch it to the wanted sides, turn it by `angle`
    straighten = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    stretch = np.diag([length / side_a, width / side_b])
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = rotate @ stretch @ straighten
    offset = np.array(centre) - linear @ np.array([cx, cy])
    to_image = np.concatenate([linear, offset[:, None]], 1)
    return Rod(length, y, radius, outline @ linear.T + offset, to_image, facing, cap, share)


def moved(rod: Rod, by: np.ndarray) -> Rod:
    """The same rod shifted by (dx, dy) pixels."""
    to_image = rod.to_image.copy()
    to_image[:, 2] += by
    return Rod(
        rod.length, rod.spine, rod.radius, rod.outline + by, to_image, rod.facing, rod.cap, rod.bend
    )


def place_butt(
    rng: np.random.Generator,
    size: int,
    u: np.ndarray,
    taken: np.ndarray | None = None,
    zoom: float = 1.0,
) -> Rod:
    """A butt inside a size x size image; u (5,) in (0, 1) fixes length, width, angle and the first
    try of the centre. zoom enlarges it, up to LONGEST of the image's side.

    A place that touches the border or a pixel of `taken` (size, size) is drawn again, the butt
    stays as it is.

    Raises Crowded if no place is found.
    """
    scale = size / REFERENCE_SIZE
    length, width = sample_extent(u[:2], scale)
    if zoom > 1:
        zoom = min(zoom, max(1.0, LONGEST * size / length))
    rod = make_rod(rng, length * zoom, width * zoom, angle=2 * math.pi * float(u[2]))
    low, high = (edge * scale for edge in CENTRE_RANGE)
    for attempt in range(MAX_PLACEMENTS):
        centre = low + (high - low) * (u[3:5] if attempt == 0 else rng.random(2))
        placed = moved(rod, centre)
        if placed.outline.min() < BORDER or placed.outline.max() > size - BORDER:
            continue
        if (
            taken is not None
            and (taken & (silhouette(placed.outline, (0, 0, size, size), 1)[0] > 0)).any()
        ):
            continue
        return placed
    raise Crowded(
        f"found no free place for a butt in a {size} px image after {MAX_PLACEMENTS} tries: lower "
        "max_instances"
    )


def silhouette(
    outline: np.ndarray, box: tuple[int, int, int, int], ss: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the pixels of `box` (x0, y0, x1, y1) by a polygon: (h, w) and, supersampled,
    (h*ss, w*ss), float32 in [0, 1]."""
    x0, y0, x1, y1 = box
    points = np.round(((outline - (x0, y0)) * ss - 0.5) * 256).astype(np.int32)
    filled = np.zeros(((y1 - y0) * ss, (x1 - x0) * ss), np.uint8)
    cv2.fillPoly(filled, [points], 255, shift=8)
    # fillPoly also paints its own border, half a sample too wide; the eroded one is half a sample
    # too narrow
    fine = (filled.astype(np.float32) + cv2.erode(filled, np.ones((3, 3), np.uint8))) / 510
    coarse = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) if ss > 1 else fine
    return coarse, fine


def annotate(rod: Rod, size: int) -> dict:
    """COCO fields of one butt: polygon, area, bbox [x, y, w, h]; the last two describe exactly the
    mask that pycocotools decodes.

    The polygon is cv2.findContours' outer contour of the silhouette at 4 times the resolution,
    thinned to 0.2 px.
    """
    ss = 4
    x0, y0 = np.floor(rod.outline.min(0)).astype(int) - 1
    x1, y1 = np.ceil(rod.outline.max(0)).astype(int) + 1
    _, fine = silhouette(rod.outline, (x0, y0, x1, y1), ss)
    contours, _ = cv2.findContours(
        (fine >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    contour = cv2.approxPolyDP(max(contours, key=cv2.contourArea), 0.2 * ss, True)[:, 0].astype(
        np.float64
    )
    polygon = np.round((contour + 0.5) / ss + (x0, y0), 2)
    mask = coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist()], size, size))
    ).astype(bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    bbox = [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]
    return {
        "segmentation": [polygon.ravel().tolist()],
        "area": int(mask.sum()),
        "bbox": bbox,
        "iscrowd": 0,
    }
