"""Things that lie on the ground of the Cigarettes stand-in: the butt itself, and twigs, stones,
leaves and the like.

Every function paints into a canvas (S, S, 3) float32 RGB in place: first the shadow on what is
there, then the object, whose edge pixels are blended by coverage. Only the patch around the object
is supersampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from data.cigarettes.ground import Light, noise, relief, tint, varied
from data.cigarettes.shape import Rod, make_rod, silhouette

SUPERSAMPLING = 3
FILTERS = {
    "cork": (205, 140, 72),
    "tan": (208, 168, 112),
    "white": (226, 222, 212),
    "brown": (138, 88, 52),
}
ENDS = ("burnt", "ash", "torn", "filter_only")


@dataclass(frozen=True)
class ButtLook:
    """What a butt looks like: its filter (key of FILTERS) and the state of the other end (one of
    ENDS)."""

    filter: str
    end: str


def sample_look(rng: np.random.Generator) -> ButtLook:
    return ButtLook(
        str(rng.choice(list(FILTERS), p=(0.36, 0.24, 0.24, 0.16))),
        str(rng.choice(ENDS, p=(0.48, 0.22, 0.2, 0.1))),
    )


def patch_box(outline: np.ndarray, size: int, margin: float) -> tuple[int, int, int, int]:
    """Box of the outline grown by `margin` pixels, cut at the image; empty boxes have x1 <= x0 or
    y1 <= y0."""
    low, high = np.floor(outline.min(0) - margin), np.ceil(outline.max(0) + margin)
    x0, y0 = np.clip(low, 0, size).astype(int)
    x1, y1 = np.clip(high, 0, size).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def cast_shadow(canvas: np.ndarray, outline: np.ndarray, height: float, light: Light) -> None:
    """Darkens the ground: the silhouette swept away from the light up to `height` pixels, and a
    contact shadow all round."""
    lx, ly, lz = (float(v) for v in light.direction)
    reach = np.array([-lx, -ly]) / lz * height
    box = patch_box(outline, len(canvas), float(np.abs(reach).max()) + 0.7 * height + 3)
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return
    cover, _ = silhouette(outline, box, 1)
    swept = cover.copy()
    for step in np.linspace(0.15, 1, 7):
        dx, dy = reach * step
        swept = np.maximum(
            swept, cv2.warpAffine(cover, np.array([[1, 0, dx], [0, 1, dy]]), (x1 - x0, y1 - y0))
        )
    soft = max(0.5, height * (0.34 - 0.27 * light.hardness))
    cast = cv2.GaussianBlur(swept, (0, 0), soft) * (0.2 + 0.45 * light.hardness)
    contact = cv2.GaussianBlur(cover, (0, 0), max(0.5, 0.18 * height)) * 0.48
    shade = 1 - (1 - cast) * (1 - contact)
    # the sky lights shadows a little blue
    canvas[y0:y1, x0:x1] *= 1 - shade[..., None] * np.array([1.0, 0.98, 0.93], np.float32)


def blend_patch(canvas: np.ndarray, box, fine_cover: np.ndarray, fine_colour: np.ndarray) -> None:
    """Paints a supersampled patch: premultiplied, averaged down, so that edges take no colour from
    outside the object."""
    x0, y0, x1, y1 = box
    shape = (x1 - x0, y1 - y0)
    cover = cv2.resize(fine_cover, shape, interpolation=cv2.INTER_AREA)[..., None]
    colour = cv2.resize(
        (fine_colour * fine_cover[..., None]).astype(np.float32),
        shape,
        interpolation=cv2.INTER_AREA,
    )
    canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - cover) + colour


def _rod_frame(rod: Rod, box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the samples of a patch: u along the rod (0..1), v across it (-1..1), and the image
    direction (2, h, w) of growing v."""
    x0, y0, x1, y1 = box
    ss = SUPERSAMPLING
    inverse = np.linalg.inv(rod.to_image[:, :2]).astype(np.float32)
    ys, xs = np.mgrid[: (y1 - y0) * ss, : (x1 - x0) * ss].astype(np.float32)
    px = (xs + 0.5) / ss + np.float32(x0 - rod.to_image[0, 2])
    py = (ys + 0.5) / ss + np.float32(y0 - rod.to_image[1, 2])
    lx, ly = inverse[0, 0] * px + inverse[0, 1] * py, inverse[1, 0] * px + inverse[1, 1] * py
    knots = np.linspace(0, rod.length, len(rod.spine))
    slopes = np.gradient(rod.spine, knots)
    foot = lx
    # closest point of the spine: two Newton steps are enough for these gentle bends
    for _ in range(2):
        f, d = np.interp(foot, knots, rod.spine), np.interp(foot, knots, slopes)
        foot = foot + ((lx - foot) + (ly - f) * d) / (1 + d * d)
    f, d = np.interp(foot, knots, rod.spine), np.interp(foot, knots, slopes)
    norm = np.sqrt(1 + d * d)
    v = ((ly - f) - (lx - foot) * d) / norm / np.interp(foot, knots, rod.radius)
    across = np.stack([-d / norm, 1 / norm])  # local normal, turned into the image below
    across = np.einsum("ij,jhw->ihw", rod.to_image[:, :2], across)
    across /= np.sqrt((across**2).sum(0))
    return (foot / rod.length).astype(np.float32), v.astype(np.float32), across.astype(np.float32)


def _cylinder(
    v: np.ndarray, across: np.ndarray, light: Light, bump: np.ndarray, gloss: float
) -> np.ndarray:
    """Brightness of a lying cylinder: v (h, w) in -1..1 across, `bump` tilts the normal across,
    gloss adds a soft highlight."""
    tilt = np.clip(v + bump, -0.98, 0.98)
    up = np.sqrt(1 - tilt * tilt)
    lx, ly, lz = light.direction
    diffuse = np.clip(tilt * (across[0] * lx + across[1] * ly) + up * lz, 0, 1)
    share = 0.35 + 0.35 * light.hardness
    # the sides see half of the sky, and the ground beside them is in contact shadow
    sky = 0.3 + 0.7 * up
    return (
        (1 - share) * sky
        + share * diffuse / max(0.55, float(lz))
        + gloss * light.hardness * diffuse**8
    )


def _uv_noise(
    rng, u: np.ndarray, v: np.ndarray, cells_u: float, cells_v: float, octaves: int
) -> np.ndarray:
    """Noise fixed to the surface: about cells_u features along and cells_v across the visible
    side."""
    side = 96
    table = noise(rng, (side, 4 * side), (4 * side / cells_u, side / cells_v), octaves, 0.6)
    return cv2.remap(
        table,
        np.clip(u, 0, 1) * (4 * side - 1),
        (np.clip(v, -1, 1) + 1) / 2 * (side - 1),
        cv2.INTER_LINEAR,
    )


def _wrap_colour(rng, look: ButtLook, u, v, filter_end: float) -> np.ndarray:
    """Filter paper, band and cigarette paper over (u, v), clean: (h, w, 3)."""
    base = varied(rng, FILTERS[look.filter], 10)
    if look.filter in ("cork", "brown"):  # printed cork: light flecks on a warm ground
        flecks = np.clip((_uv_noise(rng, u, v, 42, 14, 2) - 0.75) * 2.5, 0, 1)[..., None]
        wrap = tint(
            0.5 * _uv_noise(rng, u, v, 20, 8, 3),
            *[tuple(c * k for c in base) for k in (0.85, 1.0, 1.08)],
        )
        wrap += (
            flecks
            * (np.array(varied(rng, (232, 196, 132)), np.float32) / 255 - wrap)
            * rng.uniform(0.35, 0.9)
        )
    else:
        wrap = tint(
            0.4 * _uv_noise(rng, u, v, 14, 5, 3),
            *[tuple(c * k for c in base) for k in (0.92, 1.0, 1.04)],
        )
    if look.end == "filter_only":
        return wrap
    paper = tint(
        0.6 * _uv_noise(rng, u, v, 10, 4, 4),
        *[varied(rng, c, 3) for c in ((205, 196, 178), (228, 224, 214), (238, 236, 230))],
    )
    # a seam runs along the paper, and the filter wrap has a straight, slightly crooked edge
    seam = np.exp(-(((v - rng.uniform(-0.8, 0.8)) / 0.05) ** 2))[..., None] * 0.1
    edge = np.clip((u - filter_end - 0.008 * v) * 160, 0, 1)[..., None]
    colour = wrap * (1 - edge) + paper * (1 - seam) * edge
    if rng.random() < 0.55:  # a printed ring, or two, beside the joint
        ring = varied(
            rng,
            [(170, 132, 60), (70, 60, 55), (150, 40, 35), (60, 80, 130), (235, 225, 205)][
                rng.integers(5)
            ],
        )
        for k in range(rng.integers(1, 3)):
            at = filter_end - 0.03 - 0.045 * k
            line = np.clip(1.6 - np.abs(u - at - 0.008 * v) * 130, 0, 1)[..., None] * 0.85
            colour += line * (np.array(ring, np.float32) / 255 - colour)
    return colour


def _burn(rng, look: ButtLook, u, v, colour: np.ndarray, thickness_in_u: float) -> np.ndarray:
    """Changes the far end: scorched and black, grey ash, or torn open with tobacco showing."""
    ragged = u + thickness_in_u * (0.1 * _uv_noise(rng, u, v, 16, 5, 3) + 0.12 * v * rng.normal())
    depth = thickness_in_u * rng.uniform(0.25, 0.9)
    grain = _uv_noise(rng, u, v, 60, 18, 2)
    if look.end == "torn":
        tobacco = tint(grain, (52, 34, 20), (112, 76, 42), (160, 118, 70))
        edge = np.clip((ragged - (1 - 0.45 * depth)) / (0.08 * thickness_in_u), 0, 1)[..., None]
        return colour * (1 - edge) + tobacco * edge
    scorch = np.clip((ragged - (1 - 1.7 * depth)) / (0.7 * depth), 0, 1)[..., None]
    colour = colour * (1 - scorch * (1 - np.array([0.62, 0.45, 0.28], np.float32)))
    char = np.clip((ragged - (1 - depth)) / (0.15 * depth), 0, 1)[..., None]
    black = tint(grain, (14, 12, 11), (34, 30, 28), (74, 68, 64))
    colour = colour * (1 - char) + black * char
    if look.end == "ash":
        ash = tint(grain, (78, 76, 74), (150, 148, 145), (205, 203, 200))
        grey = np.clip((ragged - (1 - 0.72 * depth)) / (0.1 * depth), 0, 1)[..., None]
        colour = colour * (1 - grey) + ash * grey
    return colour


def _end_face(rng, look: ButtLook, rod: Rod, u, v, colour: np.ndarray, slim: float) -> np.ndarray:
    """The round end that faces the camera: cellulose fibre stained by smoke, or the burnt core."""
    if rod.facing < 0:
        return colour
    far = rod.facing == 1
    depth = slim * rng.uniform(0.1, 0.26)
    along = (1 - u if far else u) / max(depth, 1e-4) - 1 + rod.cap * 0.5
    radius = np.sqrt(along**2 + v**2)
    grain = _uv_noise(rng, u, v, 70, 20, 2)
    if far and look.end != "filter_only":
        core = (
            tint(grain, (18, 14, 12), (60, 44, 32), (112, 84, 56))
            if look.end != "ash"
            else tint(grain, (90, 88, 86), (185, 183, 180))
        )
    else:
        stain = np.clip(1.1 - radius, 0, 1)[..., None] * rng.uniform(0, 0.9)
        core = tint(0.5 * grain, (206, 198, 180), (236, 230, 216)) * (
            1 - stain * (1 - np.array([0.66, 0.47, 0.26], np.float32))
        )
    inside = np.clip((0.93 - radius) * 10, 0, 1)[..., None]
    rim = np.exp(-(((radius - 1) / 0.1) ** 2))[..., None] * 0.3 * (np.abs(along) < 1.2)[..., None]
    return (colour * (1 - inside) + core * inside) * (1 - rim)


def paint_butt(
    canvas: np.ndarray, rod: Rod, look: ButtLook, light: Light, rng: np.random.Generator
) -> None:
    """Paints one cigarette butt with its shadow. The mask is the rod's silhouette; the shadow is
    not part of it."""
    cast_shadow(canvas, rod.outline, rod.thickness * 0.85, light)
    box = patch_box(rod.outline, len(canvas), 2)
    _, cover = silhouette(rod.outline, box, SUPERSAMPLING)
    u, v, across = _rod_frame(rod, box)
    slim = rod.thickness / max(rod.length, 1e-6)  # one diameter, in units of u
    filter_end = min(0.86, max(0.3, slim * rng.uniform(1.3, 2.6)))
    colour = _wrap_colour(rng, look, u, v, filter_end)
    colour = _burn(rng, look, u, v, colour, slim) if look.end != "filter_only" else colour
    # wrinkles run mostly around the butt and are stronger in the paper and at the knee of a bend
    soft = 0.08 + 0.14 * np.clip((u - filter_end) * 20, 0, 1)
    knots = np.abs(np.gradient(np.gradient(rod.spine)))
    knee = np.interp(
        np.clip(u, 0, 1), np.linspace(0, 1, len(knots)), knots / (knots.max() + 1e-9)
    ) * min(1.0, rod.bend * 4)
    crumple = rng.uniform(0.2, 1.0)
    folds = _uv_noise(rng, u, v, rng.uniform(9, 22), 3, 3)
    bump = crumple * (soft + 0.5 * knee) * folds
    shade = _cylinder(v, across, light, bump.astype(np.float32), rng.uniform(0, 0.12))
    crease = 1 - 0.3 * crumple * np.clip(np.abs(folds) - 1.2, 0, 1) * (soft + knee)
    colour = _end_face(rng, look, rod, u, v, colour * (shade * crease)[..., None], slim)
    dirt = (
        np.clip(0.4 * (_uv_noise(rng, u, v, 4, 2, 4) - rng.uniform(0.0, 2.4)), 0, 1)[..., None]
        * 0.7
    )
    colour = colour * (1 - dirt * (1 - np.array([0.6, 0.52, 0.42], np.float32)))
    wet = rng.uniform(0.7, 0.9) if rng.random() < 0.2 else 1.0
    fade = rng.uniform(0.85, 1.04)
    blend_patch(canvas, box, cover, np.clip(colour * wet * fade, 0, 1.1))


def paint_stick(
    canvas: np.ndarray, centre, rng: np.random.Generator, scale: float, light: Light
) -> None:
    """A long thin cylinder: twig, straw of grass, drinking straw, match or pencil stub, coloured
    like parts of a butt."""
    kind = rng.choice(["twig", "stalk", "straw", "match", "peg"], p=(0.44, 0.22, 0.08, 0.16, 0.1))
    length, width = {
        "twig": (rng.uniform(50, 230), rng.uniform(6, 17)),
        "stalk": (rng.uniform(60, 200), rng.uniform(4, 8)),
        "straw": (rng.uniform(110, 260), rng.uniform(15, 24)),
        "match": (rng.uniform(70, 130), rng.uniform(6, 10)),
        "peg": (rng.uniform(40, 110), rng.uniform(12, 24)),
    }[str(kind)]
    rod = make_rod(rng, length * scale, width * scale, rng.uniform(0, 2 * math.pi), centre)
    box = patch_box(rod.outline, len(canvas), 2)
    if box[2] - box[0] < 3 or box[3] - box[1] < 3:
        return
    cast_shadow(canvas, rod.outline, rod.thickness * 0.8, light)
    _, cover = silhouette(rod.outline, box, SUPERSAMPLING)
    u, v, across = _rod_frame(rod, box)
    colours = {
        "twig": [(96, 72, 52), (128, 98, 66), (86, 78, 70)],
        "stalk": [(202, 178, 118), (172, 156, 96)],
        "straw": [(232, 230, 226), (226, 190, 60), (210, 120, 100)],
        "match": [(214, 184, 136)],
        "peg": [(206, 172, 118), (172, 122, 72), (150, 110, 80)],
    }[str(kind)]
    base = varied(rng, colours[rng.integers(len(colours))], 12)
    bark = _uv_noise(rng, u, v, 14 if kind in ("peg", "match") else 40, 6, 4)
    colour = tint(bark, *[tuple(c * k for c in base) for k in (0.7, 0.95, 1.12)])
    if kind == "match":
        head = np.clip((u - rng.uniform(0.6, 0.9)) * 60, 0, 1)[..., None]
        colour = colour * (1 - head) + tint(bark, (20, 18, 17), (58, 50, 46)) * head
    bump = (0.3 if kind == "twig" else 0.08) * bark
    colour = (
        colour * _cylinder(v, across, light, bump, 0.15 if kind == "straw" else 0.03)[..., None]
    )
    blend_patch(canvas, box, cover, colour)


def paint_stone(
    canvas: np.ndarray, centre, rng: np.random.Generator, scale: float, light: Light
) -> None:
    """A pebble, or a flat chip of bark or shell: an irregular outline with a domed top."""
    long = rng.uniform(16, 75) * scale / 2
    aspect, turn = rng.uniform(0.45, 0.95), rng.uniform(0, 2 * math.pi)
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radial = 1 + sum(
        rng.normal(0, 0.11 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(2, 7)
    )
    points = np.stack([long * radial * np.cos(angles), long * aspect * radial * np.sin(angles)], 1)
    outline = (
        points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        + centre
    )
    box = patch_box(outline, len(canvas), 2)
    if box[2] - box[0] < 3 or box[3] - box[1] < 3:
        return
    flat = rng.uniform(0.25, 0.75)
    cast_shadow(canvas, outline, long * aspect * flat, light)
    _, cover = silhouette(outline, box, SUPERSAMPLING)
    inner = cv2.distanceTransform((np.pad(cover, 1) > 0.5).astype(np.uint8), cv2.DIST_L2, 5)[
        1:-1, 1:-1
    ]
    half = long * aspect * SUPERSAMPLING
    dome = np.sqrt(np.clip(1 - (1 - np.clip(inner / half, 0, 1)) ** 2, 0, 1)) * half * flat
    grain = noise(rng, cover.shape, rng.uniform(3, 14) * scale * SUPERSAMPLING, 4, 0.7)
    bases = [
        (150, 144, 136),
        (186, 176, 160),
        (176, 136, 96),
        (110, 104, 100),
        (206, 196, 178),
        (128, 94, 66),
        (224, 220, 212),
    ]
    base = varied(rng, bases[rng.integers(len(bases))], 10)
    colour = tint(0.7 * grain, *[tuple(c * k for c in base) for k in (0.78, 1.0, 1.14)])
    dome = cv2.GaussianBlur(dome + 0.25 * SUPERSAMPLING * scale * grain, (0, 0), 0.06 * half + 0.6)
    blend_patch(canvas, box, cover, colour * relief(dome, light, 0.9)[..., None])


def paint_leaf(
    canvas: np.ndarray, centre, rng: np.random.Generator, scale: float, light: Light
) -> None:
    """A dry leaf with midrib and side veins, or a scrap of paper with creases."""
    paper = rng.random() < 0.2
    long = (rng.uniform(14, 38) if paper else rng.uniform(25, 85)) * scale
    s = np.linspace(0, 1, 26)
    width = long * rng.uniform(0.25, 0.55)
    half = (
        width
        * np.sin(np.pi * s ** rng.uniform(0.65, 1.2)) ** rng.uniform(0.8, 1.1)
        * (1 + rng.uniform(0, 0.12) * np.sin(s * 60))
    )
    curve = rng.normal(0, 0.15) * long * (s - 0.5) ** 2 * 4
    along = (s - 0.5) * 2 * long
    points = np.concatenate(
        [np.stack([along, curve + half], 1), np.stack([along, curve - half], 1)[::-1]]
    )
    if paper:
        corners = np.array([[-1, -0.8], [0.2, -1], [1, -0.7], [0.8, 0.6], [0.1, 0.9], [-0.9, 0.7]])
        points = corners * (1 + rng.normal(0, 0.15, (6, 2))) * long
    turn = rng.uniform(0, 2 * math.pi)
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    outline = points @ rotate.T + centre
    box = patch_box(outline, len(canvas), 2)
    if box[2] - box[0] < 3 or box[3] - box[1] < 3:
        return
    cast_shadow(canvas, outline, rng.uniform(2, 6) * scale, light)
    _, cover = silhouette(outline, box, SUPERSAMPLING)
    ys, xs = np.mgrid[: cover.shape[0], : cover.shape[1]].astype(np.float32)
    dx, dy = xs / SUPERSAMPLING + (box[0] - centre[0]), ys / SUPERSAMPLING + (box[1] - centre[1])
    x, y = rotate[0, 0] * dx + rotate[1, 0] * dy, rotate[0, 1] * dx + rotate[1, 1] * dy
    grain = noise(rng, cover.shape, 16 * scale * SUPERSAMPLING, 5, 0.65)
    bases = [
        (176, 128, 66),
        (146, 98, 56),
        (196, 164, 92),
        (118, 82, 54),
        (150, 140, 74),
        (206, 186, 140),
        (168, 84, 48),
    ]
    base = varied(rng, (228, 224, 214) if paper else bases[rng.integers(len(bases))], 10)
    colour = tint(
        grain,
        *[
            tuple(c * k for c in base)
            for k in (0.8 if paper else 0.62, 1.0, 1.06 if paper else 1.2)
        ],
    )
    rib = np.abs(y - np.interp(x, along, curve))
    height = 1.4 * scale * SUPERSAMPLING * grain + rng.normal(0, 0.35) * SUPERSAMPLING * rib
    if not paper:
        veins = np.abs(np.mod((x - 0.8 * rib) / (0.16 * long), 1) - 0.5) * 0.16 * long
        line = np.maximum(
            np.clip(1.4 - rib / scale, 0, 1), 0.5 * np.clip(1.2 - veins / scale, 0, 1)
        )[..., None]
        colour = colour * (1 - 0.3 * line)
    blend_patch(
        canvas, box, cover, colour * relief(height.astype(np.float32), light, 0.5)[..., None]
    )


DISTRACTORS = {"stick": paint_stick, "stone": paint_stone, "leaf": paint_leaf}
