"""Grounds of the Cigarettes stand-in: asphalt, gravel, sand, grass, concrete, paving, soil, planks,
all procedural.

A ground is an albedo and a height field; the height field is lit by the scene's light, so that
bumps and shadows agree. Images are float32 (S, S, 3) RGB, about 0..1. Lengths are pixels of a 512
px image times `scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Light:
    """Direction towards the light (unit vector, x right, y down, z up) and how hard its shadows
    are, 0 (overcast) to 1 (sun)."""

    direction: np.ndarray
    hardness: float


def sample_light(rng: np.random.Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(28, 72))
    flat = math.cos(elevation)
    direction = np.array(
        [flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)], np.float32
    )
    return Light(
        direction, float(rng.choice([rng.uniform(0.1, 0.4), rng.uniform(0.6, 1.0)], p=(0.4, 0.6)))
    )


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cell: float | tuple[float, float],
    octaves: int = 1,
    gain: float = 0.5,
) -> np.ndarray:
    """Multi-octave noise (h, w), about zero mean and unit deviation: random grids of spacing `cell`
    (x, y), resized and summed."""
    h, w = shape
    cell_x, cell_y = cell if isinstance(cell, tuple) else (cell, cell)
    total, power = np.zeros(shape, np.float32), 0.0
    for octave in range(octaves):
        step_x, step_y = max(1.0, cell_x / 2**octave), max(1.0, cell_y / 2**octave)
        grid = rng.standard_normal(
            (math.ceil(h / step_y) + 3, math.ceil(w / step_x) + 3), dtype=np.float32
        )
        # a fractional shift keeps the lattice of one octave from lining up with the next one's
        matrix = np.array([[1 / step_x, 0, 1 + rng.random()], [0, 1 / step_y, 1 + rng.random()]])
        layer = cv2.warpAffine(
            grid,
            matrix,
            (w, h),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        total += gain**octave * layer
        power += gain ** (2 * octave)
    return total * np.float32(1.3 / math.sqrt(power))


def relief(height: np.ndarray, light: Light, strength: float) -> np.ndarray:
    """Brightness (h, w) of a height field (pixels) relative to flat ground."""
    height = height.astype(np.float32, copy=False)
    gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=strength / 8)
    gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=strength / 8)
    lx, ly, lz = light.direction
    diffuse = (lz - gx * lx - gy * ly) / (lz * np.sqrt(1 + gx * gx + gy * gy))
    share = 0.45 + 0.4 * light.hardness  # the rest comes from the whole sky
    return np.clip(1 + share * (diffuse - 1), 0.25, 1.9)


def cells(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, jitter: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of a jittered grid: index (h, w) int32 from 0, and distance to the cell's seed
    in pixels."""
    h, w = shape
    spacing = max(spacing, 2.5)
    ys, xs = np.meshgrid(
        np.arange(-1, h / spacing + 1), np.arange(-1, w / spacing + 1), indexing="ij"
    )
    seeds = np.stack([xs, ys], -1).reshape(-1, 2) + 0.5 + jitter * (rng.random((xs.size, 2)) - 0.5)
    pad = int(2 * spacing)
    points = np.round(seeds * spacing).astype(int) + pad
    canvas = np.full((h + 2 * pad, w + 2 * pad), 255, np.uint8)
    inside = ((points >= 0) & (points < (w + 2 * pad, h + 2 * pad))).all(1)
    canvas[points[inside, 1], points[inside, 0]] = 0
    distance, label = cv2.distanceTransformWithLabels(
        canvas, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    return label[pad:-pad, pad:-pad] - 1, distance[pad:-pad, pad:-pad]


def tint(value: np.ndarray, *colours: tuple[float, ...]) -> np.ndarray:
    """Colour ramp: value (h, w), about -2..2, through the given RGB colours (0..255) -> (h, w, 3)
    in 0..1."""
    ramp = np.array(colours, np.float32) / 255
    position = np.linspace(-1.6, 1.6, len(ramp))
    table = np.stack(
        [np.interp(np.linspace(-3, 3, 256), position, ramp[:, c]) for c in range(3)], 1
    ).astype(np.float32)
    return table[np.clip((value + 3) * (255 / 6), 0, 255).astype(np.uint8)]


def varied(
    rng: np.random.Generator, colour: tuple[float, float, float], spread: float = 8
) -> tuple[float, float, float]:
    """A colour near the given one: brighter or darker, a little warmer or cooler."""
    gain, warm = rng.uniform(0.85, 1.15), rng.normal(0, spread / 2)
    r, g, b = colour
    return r * gain + warm, g * gain, b * gain - warm


def _pebbles(rng, size: int, spacing: float, colours, gap) -> tuple[np.ndarray, np.ndarray]:
    """Stones of about `spacing` pixels: albedo and height. gap is the colour between them."""
    shape = (size, size)
    index, distance = cells(rng, shape, spacing)
    count = index.max() + 1
    radius = (spacing * rng.uniform(0.45, 0.8, count)).astype(np.float32)[index]
    wobble = 1 + 0.16 * noise(rng, shape, max(2.0, spacing / 3), 2)
    dome = np.clip(1 - (distance * wobble / radius) ** 2, 0, 1)
    stone = np.array(colours, np.float32)[rng.integers(len(colours), size=count)] / 255
    stone = (stone * rng.uniform(0.72, 1.2, (count, 1)).astype(np.float32))[index]
    cover = np.clip(dome * 5, 0, 1)[..., None]
    albedo = stone * cover + np.array(gap, np.float32) / 255 * (1 - cover)
    return albedo * (0.75 + 0.25 * np.sqrt(dome))[..., None], np.sqrt(dome) * spacing * 0.45


def asphalt(rng, size: int, scale: float, light: Light) -> np.ndarray:
    base = rng.uniform(55, 120)
    greys = [
        varied(rng, (base * k, base * k, base * k * 0.98), 4) for k in (0.85, 0.95, 1.05, 1.2)
    ] * 2 + [varied(rng, (140, 132, 120))]
    albedo, height = _pebbles(rng, size, rng.uniform(4.5, 9) * scale, greys, (base * 0.62,) * 3)
    worn = noise(rng, (size, size), 160 * scale, 4)
    albedo *= (1 + 0.09 * worn)[..., None]
    image = albedo * relief(height + noise(rng, (size, size), 2.0, 1) * 0.2, light, 0.9)[..., None]
    if rng.random() < 0.2:  # a painted line, worn off where the aggregate sticks out
        angle, offset, half = (
            rng.uniform(0, math.pi),
            rng.uniform(-0.4, 0.4) * size,
            rng.uniform(20, 45) * scale,
        )
        ys, xs = np.mgrid[:size, :size].astype(np.float32) - size / 2
        across = np.abs(xs * math.cos(angle) + ys * math.sin(angle) - offset)
        paint = np.clip((half - across) / 2, 0, 1) * np.clip(
            0.9 + 0.5 * noise(rng, (size, size), 14 * scale, 4), 0, 1
        )
        image += (
            paint[..., None]
            * 0.8
            * (np.array(rng.choice([(215, 212, 205), (205, 170, 70)]), np.float32) / 255 - image)
        )
    return image


def gravel(rng, size: int, scale: float, light: Light) -> np.ndarray:
    warm = rng.uniform(0, 1)
    colours = [
        varied(rng, c)
        for c in (
            (150, 142, 132),
            (178, 165, 145),
            (118, 112, 108),
            (196, 188, 178),
            (150, 120, 95),
        )
    ]
    albedo, height = _pebbles(
        rng, size, rng.uniform(13, 30) * scale, colours, (60 + 25 * warm, 55 + 12 * warm, 48)
    )
    fine, low = _pebbles(
        rng, size, rng.uniform(5, 8) * scale, colours, (70 + 25 * warm, 62 + 15 * warm, 52)
    )
    between = (height < 1.0 * scale)[..., None]
    albedo = np.where(between, fine * 0.85, albedo)
    height = np.where(between[..., 0], low, height + 2 * scale)
    speckle = noise(rng, (size, size), 3 * scale, 3)
    return (
        albedo
        * (1 + 0.07 * speckle)[..., None]
        * relief(cv2.GaussianBlur(height, (0, 0), 0.8 * scale), light, 0.8)[..., None]
    )


def sand(rng, size: int, scale: float, light: Light) -> np.ndarray:
    shape = (size, size)
    base = varied(
        rng, [(205, 180, 140), (188, 160, 120), (205, 190, 162), (165, 142, 112)][rng.integers(4)]
    )
    grain, clumps = noise(rng, shape, 1.6 * scale, 2, 0.8), noise(rng, shape, 60 * scale, 5, 0.6)
    angle, wave = rng.uniform(0, math.pi), rng.uniform(22, 60) * scale
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    phase = (xs * math.cos(angle) + ys * math.sin(angle)) / wave * 2 * math.pi + 1.2 * clumps
    ripples = (
        float(rng.random() < 0.5)
        * rng.uniform(1.0, 2.4)
        * scale
        * np.sin(phase + 0.4 * np.sin(phase))
    )
    height = clumps * rng.uniform(2, 6) * scale + ripples + 0.35 * grain
    albedo = tint(
        0.8 * grain + 0.5 * clumps, *[tuple(v * k for v in base) for k in (0.72, 0.95, 1.05, 1.16)]
    )
    # single dark grains and shell bits
    dark = np.clip(np.abs(noise(rng, shape, 2.2 * scale)) - 2.3, 0, 1)[..., None]
    return albedo * (1 - 0.6 * dark) * relief(height, light, 1.0)[..., None]


def soil(rng, size: int, scale: float, light: Light) -> np.ndarray:
    shape = (size, size)
    base = varied(rng, [(92, 70, 50), (72, 58, 46), (120, 92, 66), (105, 95, 80)][rng.integers(4)])
    clods = noise(rng, shape, 40 * scale, 6, 0.68)
    albedo = tint(
        noise(rng, shape, 12 * scale, 4, 0.7),
        *[tuple(v * k for v in base) for k in (0.55, 0.85, 1.1, 1.5)],
    )
    height = 2.6 * scale * np.abs(clods) + 0.8 * scale * noise(rng, shape, 6 * scale, 3, 0.7)
    return albedo * relief(height, light, 1.3)[..., None]


def concrete(rng, size: int, scale: float, light: Light) -> np.ndarray:
    shape = (size, size)
    base = varied(rng, [(168, 165, 158), (140, 138, 134), (185, 178, 166)][rng.integers(3)])
    stains = noise(rng, shape, 150 * scale, 6, 0.62)
    albedo = tint(
        0.8 * stains + 0.35 * noise(rng, shape, 1.8 * scale),
        *[tuple(v * k for v in base) for k in (0.74, 0.95, 1.04, 1.12)],
    )
    pores = np.clip(noise(rng, shape, 3.5 * scale) - 2.3, 0, 1.2)
    height = 0.45 * scale * noise(rng, shape, 6 * scale, 3) - 2.5 * scale * pores
    for _ in range(rng.integers(0, 4)):  # cracks: random walks
        steps = rng.normal(0, 0.35, 90).cumsum() * 0.3 + rng.uniform(0, 2 * math.pi)
        path = (
            rng.random(2) * size + np.stack([np.cos(steps), np.sin(steps)], 1).cumsum(0) * 6 * scale
        )
        crack = np.zeros(shape, np.uint8)
        wide = max(1, round(rng.uniform(0.8, 2.2) * scale))
        cv2.polylines(
            crack, [np.round(path * 16).astype(np.int32)], False, 255, wide, cv2.LINE_AA, 4
        )
        line = cv2.GaussianBlur(crack, (0, 0), 0.7 * scale).astype(np.float32) / 255
        albedo *= (1 - 0.65 * line)[..., None]
        height -= 2 * scale * line
    return albedo * (1 - 0.5 * pores)[..., None] * relief(height, light, 1.0)[..., None]


def paving(rng, size: int, scale: float, light: Light) -> np.ndarray:
    """Slabs or bricks in a running bond, with joints of sand or moss."""
    shape = (size, size)
    angle = rng.uniform(0, math.pi)
    long, short = [(170, 170), (120, 60), (90, 90), (240, 120), (75, 38)][rng.integers(5)]
    long, short, joint = (
        long * scale * rng.uniform(0.9, 1.3),
        short * scale * rng.uniform(0.9, 1.3),
        rng.uniform(2, 5) * scale,
    )
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    wobble = noise(rng, shape, 25 * scale, 3) * 1.1 * scale
    across = -xs * math.sin(angle) + ys * math.cos(angle) + wobble + 8 * size
    row = np.floor(across / short)
    along = xs * math.cos(angle) + ys * math.sin(angle) + wobble + 8 * size + (row % 2) * long / 2
    column = np.floor(along / long)
    edge = np.minimum.reduce(
        [
            across - row * short,
            (row + 1) * short - across,
            along - column * long,
            (column + 1) * long - along,
        ]
    )
    brick = (row * 131 + column * 17).astype(np.int64) % 251
    bases = [(165, 160, 150), (150, 95, 75), (175, 150, 125), (120, 120, 122), (190, 180, 160)]
    base = np.array(varied(rng, bases[rng.integers(len(bases))]), np.float32) / 255
    stone = base * rng.uniform(0.82, 1.12, (251, 1)).astype(np.float32) + rng.normal(
        0, 0.006, (251, 3)
    ).astype(np.float32)
    grain = noise(rng, shape, 3 * scale, 3, 0.8)
    albedo = (
        stone[brick] * (1 + 0.07 * grain + 0.07 * noise(rng, shape, 90 * scale, 5, 0.6))[..., None]
    )
    filler = (
        np.array(
            rng.choice([(95, 85, 70), (60, 58, 52), (70, 88, 42), (150, 135, 105)]), np.float32
        )
        / 255
    )
    gap = np.clip((joint - edge) / (1.2 * scale) + 0.25 * grain, 0, 1)[..., None]
    albedo += gap * (filler * (1 + 0.2 * grain)[..., None] - albedo)
    height = np.clip(edge - joint, 0, 3.5 * scale) * 0.9 + 0.3 * scale * grain
    return albedo * relief(height, light, 0.9)[..., None]


def planks(rng, size: int, scale: float, light: Light) -> np.ndarray:
    shape = (size, size)
    width, joint = rng.uniform(70, 130) * scale, rng.uniform(2, 5) * scale
    ys = np.mgrid[:size, :size][0].astype(np.float32) + rng.random() * width
    board = np.floor(ys / width)
    shade = rng.uniform(0.8, 1.12, 64).astype(np.float32)[board.astype(int) % 64]
    fibre = noise(rng, shape, (220 * scale, 5 * scale), 4, 0.75)
    knots = noise(rng, shape, (150 * scale, 45 * scale), 2)
    rings = np.sin(9 * knots + ys / (7 * scale))
    base = varied(
        rng, [(150, 122, 92), (125, 115, 105), (165, 130, 90), (110, 82, 60)][rng.integers(4)]
    )
    albedo = (
        tint(
            0.8 * fibre + 0.35 * rings,
            *[tuple(v * k for v in base) for k in (0.62, 0.92, 1.08, 1.22)],
        )
        * shade[..., None]
    )
    distance = np.minimum(ys - board * width, (board + 1) * width - ys)
    dark = np.clip((joint - distance) / (1.5 * scale), 0, 1)[..., None]
    image = (
        albedo
        * (1 - 0.85 * dark)
        * relief(0.5 * scale * fibre + np.clip(distance - joint, 0, 3 * scale), light, 0.7)[
            ..., None
        ]
    )
    return np.ascontiguousarray(image.transpose(1, 0, 2)) if rng.random() < 0.5 else image


def grass(rng, size: int, scale: float, light: Light) -> np.ndarray:
    """Blades drawn from the deepest and darkest to the topmost and brightest."""
    dry = rng.choice([0.05, 0.25, 0.7])
    image = soil(rng, size, scale, light) * 0.6
    image = np.ascontiguousarray(np.clip(image * 255, 0, 255).astype(np.uint8))
    green, straw = varied(rng, (92, 122, 48), 14), varied(rng, (158, 142, 96), 10)
    count = 1900
    lean = rng.normal(0, 1, 2)
    for depth in np.sort(rng.random(count)):
        root = rng.uniform(-0.06, 1.06, 2) * size
        angle = rng.uniform(0, 2 * math.pi)
        reach = rng.uniform(25, 80) * scale
        tip = root + reach * np.array([math.cos(angle), math.sin(angle)]) + lean * 8 * scale
        middle = (root + tip) / 2 + rng.normal(0, 0.12 * reach, 2)
        points = np.round(
            np.stack([root, 0.25 * root + 0.5 * middle + 0.25 * tip, 0.5 * middle + 0.5 * tip, tip])
            * 16
        ).astype(np.int32)
        base = straw if rng.random() < dry else green
        gain = (0.35 + 0.75 * depth) * rng.uniform(0.8, 1.25)
        colour = [min(255.0, c * gain) for c in base]
        thick = max(1, round(rng.uniform(1.6, 4.6) * scale))
        cv2.polylines(image, [points], False, [c * 0.72 for c in colour], thick + 1, cv2.LINE_AA, 4)
        cv2.polylines(image, [points], False, colour, max(1, thick - 1), cv2.LINE_AA, 4)
    patches = 1 + 0.12 * noise(rng, (size, size), 130 * scale, 3)
    return image.astype(np.float32) / 255 * patches[..., None]


GROUNDS: dict[str, Callable[..., np.ndarray]] = {
    "asphalt": asphalt,
    "gravel": gravel,
    "sand": sand,
    "soil": soil,
    "concrete": concrete,
    "paving": paving,
    "planks": planks,
    "grass": grass,
}
