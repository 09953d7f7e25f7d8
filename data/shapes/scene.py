"""One image of the generated things: ground, marks, things that hide each other, camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from data.cigarettes.ground import GROUNDS, Light, noise, sample_light, tint
from data.cigarettes.scene import photograph
from data.cigarettes.shape import REFERENCE_SIZE, silhouette
from data.generated import SPLITS
from data.shapes.material import Material, paint_mark, paint_thing, sample_material
from data.shapes.outline import KINDS, hole_of

CLASS_NAMES = tuple(KINDS)
LEAST_SEEN = 0.3  # of a thing: what would hide more of another one is not painted
LEAST_PIXELS = 12


@dataclass(frozen=True)
class Outlook:
    """A way of taking pictures: most things, their sides as shares of the image (log-uniform),
    whether they lie on a ground with shadows, and how likely all are of one kind."""

    most: int
    sides: tuple[float, float]
    outdoors: bool
    alike: float


VIEWS = {
    "ground": Outlook(10, (0.06, 0.6), True, 0.35),
    "table": Outlook(16, (0.08, 0.7), False, 0.5),
    "microscope": Outlook(60, (0.03, 0.16), False, 0.9),
    "single": Outlook(2, (0.25, 0.85), True, 0.5),
}
_SHARES = (0.36, 0.24, 0.26, 0.14)


@dataclass(frozen=True)
class ShapesScene:
    """One image with its annotations (COCO fields but the ids)."""

    image: np.ndarray  # (S, S, 3) uint8 RGB
    annotations: tuple[dict, ...]
    view: str
    jpeg_quality: int


@dataclass(frozen=True)
class _Placed:
    kind: str
    outline: np.ndarray
    hole: np.ndarray | None


def _plain_ground(rng: np.random.Generator, size: int, dark: bool) -> np.ndarray:
    """An even ground with a slow change and fine grain."""
    level = rng.uniform(5, 70) if dark else rng.uniform(60, 245)
    base = level * (1 + rng.normal(0, 0.08, 3)).clip(0.7, 1.3)
    slow = noise(rng, (size, size), size * rng.uniform(0.4, 1.2), 2)
    fine = noise(rng, (size, size), rng.uniform(1, 4), 2)
    value = rng.uniform(0.1, 0.8) * slow + rng.uniform(0, 0.4) * fine
    return tint(value, *[tuple(base * k) for k in (0.8, 1.0, 1.2)])


def _place(rng: np.random.Generator, kind: str, side: float, size: int) -> _Placed:
    """A thing of `side` pixels, turned, somewhere; it may reach over the border."""
    turn = rng.uniform(0, 2 * math.pi)
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    outline = KINDS[kind](rng) * side @ rotate.T + rng.uniform(0.02, 0.98, 2) * size
    return _Placed(kind, outline, hole_of(kind, outline, rng))


def _mask(thing: _Placed, size: int) -> np.ndarray:
    """(S, S) bool: pixels of which the thing covers half or more."""
    box = (0, 0, size, size)
    cover = silhouette(thing.outline, box, 1)[0]
    if thing.hole is not None:
        cover = cover * (1 - silhouette(thing.hole, box, 1)[0])
    return cover >= 0.5


def _layout(
    rng: np.random.Generator, view: Outlook, size: int
) -> tuple[list[_Placed], list[np.ndarray]]:
    """Things from the lowest to the topmost, and the pixels (S, S) bool that are seen of each."""
    alike = rng.random() < view.alike
    kind = str(rng.choice(CLASS_NAMES))
    low, high = np.log(view.sides)
    typical = math.exp(rng.uniform(low, high))
    # few in most images, many in some
    count = 1 + int(view.most * rng.random() ** 1.3)
    things: list[_Placed] = []
    seen: list[np.ndarray] = []
    whole: list[int] = []
    for _ in range(3 * count):
        if len(things) == count:
            break
        share = typical * rng.uniform(0.7, 1.4) if alike else math.exp(rng.uniform(low, high))
        thing = _place(rng, kind if alike else str(rng.choice(CLASS_NAMES)), share * size, size)
        mask = _mask(thing, size)
        left = [old & ~mask for old in seen]
        pixels = int(mask.sum())
        if pixels < LEAST_PIXELS or any(
            part.sum() < max(LEAST_PIXELS, LEAST_SEEN * full) for part, full in zip(left, whole)
        ):
            continue
        # most things lie beside each other
        if rng.random() < 0.7 and any((old & mask).any() for old in seen):
            continue
        things.append(thing)
        seen = [*left, mask]
        whole.append(pixels)
    return things, seen


def _annotation(kind: str, mask: np.ndarray) -> dict:
    """COCO fields of what is seen of a thing: compressed RLE, its area, bbox [x, y, w, h]."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "category_id": CLASS_NAMES.index(kind) + 1,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        "area": int(mask.sum()),
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "iscrowd": 0,
    }


def _ground(rng: np.random.Generator, view: Outlook, size: int, light: Light) -> np.ndarray:
    if view.outdoors and rng.random() < 0.85:
        name = str(rng.choice(list(GROUNDS)))
        detail = size / REFERENCE_SIZE * rng.uniform(0.6, 1.8)
        return GROUNDS[name](rng, size, detail, light).astype(np.float32)
    return _plain_ground(rng, size, dark=bool(rng.random() < 0.4))


def render_shapes(seed: int, split: str, index: int, *, size: int) -> ShapesScene:
    """Renders image `index` of a split: the same bytes for the same arguments, whatever was
    rendered before. What is hidden or outside of a thing belongs to no mask."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 2, index])
    name = str(rng.choice(list(VIEWS), p=_SHARES))
    view = VIEWS[name]
    light = sample_light(rng)
    things, seen = _layout(rng, view, size)
    canvas = _ground(rng, view, size, light)
    for _ in range(rng.poisson(1.5)):
        paint_mark(canvas, rng, size / REFERENCE_SIZE)
    shared: Material | None = sample_material(rng, view.outdoors) if rng.random() < 0.5 else None
    for thing in things:
        material = shared or sample_material(rng, view.outdoors)
        paint_thing(canvas, thing.outline, thing.hole, material, light, rng)
    image = photograph(canvas, rng, size / REFERENCE_SIZE)
    if name == "microscope":
        if rng.random() < 0.4:  # one dye
            image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    annotations = tuple(
        _annotation(thing.kind, mask) for thing, mask in zip(things, seen, strict=True)
    )
    return ShapesScene(image, annotations, name, int(rng.integers(75, 97)))
