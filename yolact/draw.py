"""Pictures of instances, prototypes and mask assembly: (H,W,3) uint8 RGB arrays in and out.

Sizes of text and lines follow the picture's, so that an overlay reads the same at 256 px and at 4K.
Filling, outlining and resizing is OpenCV's; text is Pillow's with the DejaVu font that comes with
matplotlib, since class names need not be ASCII.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from layers.masks import assemble, crop
from yolact.outputs import Detections, Targets

# hues far apart in the order of use, none near black, white or skin, mid lightness: each stands out
# on photographs
_PALETTE = (
    (230, 60, 70),
    (40, 130, 235),
    (35, 185, 85),
    (250, 170, 20),
    (160, 80, 225),
    (20, 195, 205),
    (240, 90, 190),
    (150, 205, 30),
    (255, 120, 40),
    (90, 95, 240),
    (0, 155, 135),
    (220, 40, 130),
    (245, 215, 30),
    (115, 165, 255),
    (185, 120, 60),
    (125, 225, 150),
)
_CROWD = (150, 150, 150)
# with one class, more instances than this carry no name: repeating it would hide the picture
_NAMED_OF_ONE_CLASS = 10
_FILLED_AT_ONCE = 1 << 20  # pixels of a mask blended at a time
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def colour(index: int) -> tuple[int, int, int]:
    """The index-th RGB colour: a fixed list, then golden-ratio steps around the hue circle, which
    keep away from each other."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = (index * 0.61803398875) % 1
    rgb = colorsys.hsv_to_rgb(hue, 0.65 + 0.25 * (index % 2), 0.95 - 0.2 * (index % 3) / 2)
    red, green, blue = (round(255 * c) for c in rgb)
    return red, green, blue


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.0,
    top_k: int | None = None,
    masks: bool = True,
    boxes: bool = True,
    labels: bool = True,
    scores: bool = True,
    alpha: float = 0.4,
    in_place: bool = False,
) -> np.ndarray:
    """A copy of the image with its detections, best mask scores on top; with in_place, the image
    itself.

    Colours tell classes apart, or instances where there is one class: tracks keep theirs. Labels
    begin with #ID of a track. score_threshold (on mask
    scores) and top_k choose what is drawn.
    """
    order = detections.mask_scores.argsort(descending=True, stable=True)
    order = order[detections.mask_scores[order] >= score_threshold][:top_k]
    named = labels and (len(class_names) > 1 or len(order) <= _NAMED_OF_ONE_CLASS)
    tracks = (
        [0] * len(order) if detections.track_ids is None else detections.track_ids[order].tolist()
    )
    box_of, instances = detections.boxes[order].cpu(), []
    for i, (label, score) in enumerate(
        zip(detections.labels[order].tolist(), detections.mask_scores[order].tolist())
    ):
        words = [f"#{tracks[i]}"] * (labels and tracks[i] > 0) + [class_names[label]] * named
        text = " ".join(words + [f"{score:.2f}"] * (labels and scores))
        place = tracks[i] - 1 if tracks[i] else i
        instances.append(_Instance(_pixels(box_of[i]), _colour_of(place, label, class_names), text))
    return _overlay(
        image,
        instances,
        (detections.runs.window(i) for i in reversed(order.tolist())) if masks else None,
        boxes,
        alpha,
        in_place=in_place,
    )


def draw_targets(
    image: np.ndarray, targets: Targets, class_names: Sequence[str], *, alpha: float = 0.4
) -> np.ndarray:
    """A copy of the image with its ground truth; crowd regions are grey. Masks are resized from
    whatever size the targets carry."""
    height, width = image.shape[:2]
    targets = targets.to("cpu")
    boxes = targets.boxes * torch.tensor([width, height, width, height])
    named = len(class_names) > 1 or len(targets) <= _NAMED_OF_ONE_CLASS
    instances = []
    for i, (box, label, crowd) in enumerate(
        zip(boxes, targets.labels.tolist(), targets.crowd.tolist())
    ):
        text = "crowd" if crowd else class_names[label] * named
        instances.append(
            _Instance(_pixels(box), _CROWD if crowd else _colour_of(i, label, class_names), text)
        )
    carried = (
        targets.masks
        if targets.masks is not None
        else max(targets.reduced.values(), key=lambda m: m.shape[-1], default=None)
    )
    masks = None
    # (M,S,S) bool -> (h,w) bool, one at a time: floats of all at once could be gigabytes
    if carried is not None:
        masks = (
            (0, 0, cv2.resize(mask.numpy().astype(np.float32), (width, height)) > 0.5)
            for mask in carried.flip(0)
        )
    return _overlay(image, instances, masks, True, alpha)


def _pixels(box: Tensor) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(v) for v in box.tolist())
    return left, top, right, bottom


def _colour_of(position: int, label: int, class_names: Sequence[str]) -> tuple[int, int, int]:
    return colour(label if len(class_names) > 1 else position)


@dataclass(frozen=True)
class _Instance:
    box: tuple[int, int, int, int]  # XYXY pixels
    colour: tuple[int, int, int]
    text: str


def _overlay(
    image: np.ndarray,
    instances: list[_Instance],
    masks: Iterable[tuple[int, int, np.ndarray]] | None,
    boxes: bool,
    alpha: float,
    *,
    in_place: bool = False,
) -> np.ndarray:
    """Instances come best first, and their masks, each (top, left, pixels), best last. Fills, then
    outlines, then labels, so that no fill hides an outline and no outline a label."""
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8, (
        f"expected (H,W,3) uint8, got {image.shape} {image.dtype}"
    )
    canvas = np.ascontiguousarray(image)
    canvas = canvas if in_place else canvas.copy()
    line = max(1, round(_scale(canvas) / 320))
    upwards = instances[::-1]
    outlines = (
        [
            _fill(canvas, *mask, item.colour, alpha)
            for mask, item in zip(masks, upwards, strict=True)
        ]
        if masks is not None
        else []
    )
    for contours, item in zip(outlines, upwards):
        cv2.drawContours(canvas, contours, -1, item.colour, line, cv2.LINE_AA)
    if boxes:
        for item in upwards:
            x1, y1, x2, y2 = item.box
            cv2.rectangle(
                canvas, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), item.colour, max(1, line // 2)
            )
    _draw_labels(canvas, instances)
    return canvas


def _scale(canvas: np.ndarray) -> float:
    return math.sqrt(canvas.shape[0] * canvas.shape[1])


def _fill(
    canvas: np.ndarray,
    top: int,
    left: int,
    mask: np.ndarray,
    rgb: tuple[int, int, int],
    alpha: float,
) -> Sequence[np.ndarray]:
    """Blends the colour into the canvas where the mask, whose corner lies at (top, left), is set
    (work inside the mask's extent only); returns its contours."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = top + int(rows[0]), left + int(columns[0])
    inside = np.ascontiguousarray(mask).view(np.uint8)
    region = canvas[top : top + inside.shape[0], left : left + inside.shape[1]]
    # (256,3): what each value of each channel becomes
    levels = np.arange(256)[:, None] * (1 - alpha) + np.array(rgb) * alpha
    table = levels.round().astype(np.uint8)[None]
    step = max(1, _FILLED_AT_ONCE // inside.shape[1])
    for first in range(0, len(inside), step):
        rows_of = slice(first, first + step)
        cv2.copyTo(cv2.LUT(region[rows_of], table), inside[rows_of], region[rows_of])
    return cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))[0]


# ---------------------------------------------------------------- labels


def _draw_labels(canvas: np.ndarray, instances: list[_Instance]) -> None:
    """Labels in the free place nearest to their box's top left corner, best first. One that would
    cover better labels or other small objects, and is not small beside its own object, is left out:
    on crowded pictures labels would hide what they name."""
    height, width = canvas.shape[:2]
    size = max(11, round(0.024 * _scale(canvas)))
    boxes = np.array([item.box for item in instances], dtype=np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    taken = np.zeros((0, 4))
    for i, item in enumerate(instances):
        if not item.text:
            continue
        tile = _label_tile(item.text, size, item.colour)
        th, tw = min(tile.shape[0], height), min(tile.shape[1], width)
        x1, y1, x2, y2 = item.box
        corners = np.array(
            [
                (x1, y1 - th),
                (x1, y1),
                (x2 - tw, y1 - th),
                (x2 - tw, y1),
                (x1, y2),
                (x1, y2 - th),
                (x2 - tw, y2 - th),
            ]
        )
        corners = np.clip(corners, 0, (width - tw, height - th))
        places = np.concatenate([corners, corners + (tw, th)], 1)
        small = areas < 4 * tw * th
        covered = 3 * _covered(places, taken) + _covered(places, boxes[small])
        best = int(covered.argmin())
        if covered[best] > 0.3 * tw * th and areas[i] < 4 * tw * th:
            continue
        x, y = corners[best]
        canvas[y : y + th, x : x + tw] = tile[:th, :tw]
        taken = np.concatenate([taken, places[best : best + 1]])


def _covered(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(P,4), (T,4) XYXY -> (P,) pixels of each place that are taken already."""
    overlap = np.minimum(places[:, None, 2:], taken[None, :, 2:]) - np.maximum(
        places[:, None, :2], taken[None, :, :2]
    )
    return overlap.clip(0).prod(2).sum(1)


def _label_tile(text: str, size: int, background: tuple[int, int, int]) -> np.ndarray:
    luminance = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2]
    return _text_tile(
        text, size, _INK if luminance > 150 else _PAPER, background, max(2, size // 5)
    )


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only for the place of its font, and slow to import

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@functools.lru_cache(maxsize=1024)
def _text_tile(text: str, size: int, ink: tuple, paper: tuple, pad: int) -> np.ndarray:
    """(h,w,3) uint8: one line of text on a filled background; lines of one font size are equally
    high."""
    font = _font(size)
    top, bottom = font.getbbox("Ap")[1], font.getbbox("Ap")[3]
    size_of_tile = math.ceil(font.getlength(text)) + 2 * pad, math.ceil(bottom - top) + pad
    tile = Image.new("RGB", size_of_tile, paper)
    ImageDraw.Draw(tile).text((pad, pad // 2 - top), text, fill=ink, font=font)
    result = np.asarray(tile)
    result.flags.writeable = False
    return result


# ---------------------------------------------------------------- pictures beside each other


def caption(image: np.ndarray, text: str, *, size: int | None = None) -> np.ndarray:
    """The image with a white bar above it that holds the text, shrunk to fit its width."""
    width = image.shape[1]
    size = size or max(12, round(0.03 * _scale(image)))
    while (tile := _text_tile(text, size, _INK, _PAPER, size // 3)).shape[1] > width and size > 7:
        size -= 1
    bar = np.full((tile.shape[0] + size // 3, width, 3), 255, np.uint8)
    x, visible = max(0, (width - tile.shape[1]) // 2), min(width, tile.shape[1])
    bar[size // 6 : size // 6 + tile.shape[0], x : x + visible] = tile[:, :visible]
    return np.concatenate([bar, image])


def side_by_side(
    left: np.ndarray, right: np.ndarray, captions: tuple[str, str] = ("prediction", "ground truth")
) -> np.ndarray:
    """Two pictures of one height beside each other, each with its caption."""
    assert left.shape[0] == right.shape[0], f"heights differ: {left.shape}, {right.shape}"
    size = max(12, round(0.03 * max(_scale(left), _scale(right))))
    left, right = (caption(image, text, size=size) for image, text in zip((left, right), captions))
    height = max(left.shape[0], right.shape[0])
    left, right = (
        np.pad(image, ((height - image.shape[0], 0), (0, 0), (0, 0)), constant_values=255)
        for image in (left, right)
    )
    gap = np.full((height, max(4, size // 2), 3), 255, np.uint8)
    return np.concatenate([left, gap, right], 1)


def gallery(
    images: Sequence[np.ndarray],
    *,
    columns: int | None = None,
    cell: tuple[int, int] | None = None,
    captions: Sequence[str] | None = None,
    gap: int = 6,
) -> np.ndarray:
    """A contact sheet on white: every picture scaled to fit its cell, rows from the left.

    columns  default: about as many as make the sheet square
    cell     (width, height) in pixels of one picture, without its caption; default: the largest
             width and height among them
    """
    if not images:
        raise ValueError("a gallery needs at least one image")
    cell = cell or (
        max(image.shape[1] for image in images),
        max(image.shape[0] for image in images),
    )
    columns = min(columns or math.ceil(math.sqrt(len(images) * cell[1] / cell[0])), len(images))
    tiles = [_fit(image, cell) for image in images]
    if captions is not None:
        size = max(11, round(0.045 * math.sqrt(cell[0] * cell[1])))
        tiles = [caption(tile, text, size=size) for tile, text in zip(tiles, captions, strict=True)]
        height = max(tile.shape[0] for tile in tiles)  # a caption shrunk to fit has a lower bar
        tiles = [
            np.pad(tile, ((height - tile.shape[0], 0), (0, 0), (0, 0)), constant_values=255)
            for tile in tiles
        ]
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """The image (h,w,3) with no side above `longest` pixels: itself where it has none."""
    if max(image.shape[:2]) <= longest:
        return image
    return cv2.resize(image, _cell(image.shape[:2], longest), interpolation=cv2.INTER_AREA)


def _fit(image: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The image scaled into (width, height) with its shape kept, centred on white."""
    factor = min(cell[0] / image.shape[1], cell[1] / image.shape[0])
    width, height = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    if (height, width) != image.shape[:2]:
        image = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        )
    tile = np.full((cell[1], cell[0], 3), 255, np.uint8)
    y, x = (cell[1] - height) // 2, (cell[0] - width) // 2
    tile[y : y + height, x : x + width] = image
    return tile


# ---------------------------------------------------------------- prototypes


def display_prototypes(
    prototypes: Tensor, *, cell: int = 192, columns: int | None = None
) -> np.ndarray:
    """(H,W,K) prototypes of one image -> a grid of K maps, each on its own scale from 0 (dark) to
    its maximum, which is written above."""
    maps = prototypes.detach().float().cpu().permute(2, 0, 1).numpy()  # (K,H,W)
    tiles = [_sequential(m / max(float(m.max()), 1e-9)) for m in maps]
    captions = [f"{k}   max {m.max():.2f}" for k, m in enumerate(maps)]
    return gallery(tiles, columns=columns, cell=_cell(maps.shape[1:], cell), captions=captions)


def display_lincomb(
    prototypes: Tensor,
    coeffs: Tensor,
    box: Tensor,
    *,
    image: np.ndarray | None = None,
    terms: int = 12,
    cell: int = 192,
) -> np.ndarray:
    """How one mask is assembled: its largest signed terms, their sum over all K, the sigmoid, and
    that cropped to the box.

    prototypes (H,W,K), coeffs (K,), box (4,) XYXY relative. Red adds to the mask, blue takes away,
    on one scale for all terms. The last picture lies over the image where one is given.
    """
    prototypes, coeffs, box = (t.detach().float().cpu() for t in (prototypes, coeffs, box))
    strength = coeffs.abs() * prototypes.amax((0, 1))  # (K,)
    chosen = strength.argsort(descending=True)[:terms].tolist()
    limit = max(float(strength.max()), 1e-9)
    logits = assemble(prototypes, coeffs[None])  # (1,H,W)
    probability = logits.sigmoid()
    cropped = crop(probability, box[None])[0].numpy()
    tiles = [_diverging((coeffs[k] * prototypes[..., k]).numpy() / limit) for k in chosen]
    captions = [f"{coeffs[k]:+.2f} × prototype {k}" for k in chosen]
    total = logits[0].numpy()
    tiles += [
        _diverging(total / max(float(np.abs(total).max()), 1e-9)),
        _sequential(probability[0].numpy()),
        _sequential(cropped),
    ]
    captions += [f"sum of all {len(coeffs)}", "sigmoid", "cropped to the box"]
    size = _cell(prototypes.shape[:2] if image is None else image.shape[:2], cell)
    if image is not None:
        mask = cv2.resize(cropped, (image.shape[1], image.shape[0])) > 0.5
        height, width = image.shape[:2]
        relative = _pixels(box * torch.tensor([width, height, width, height]))
        tiles.append(
            _overlay(image, [_Instance(relative, colour(0), "")], [(0, 0, mask)], True, 0.5)
        )
        captions.append("mask")
    return gallery(_stretched(tiles, size), columns=4, cell=size, captions=captions)


def _stretched(tiles: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Square network maps stretched back to the picture's shape (width, height), smoothly."""
    return [
        cv2.resize(
            tile,
            size,
            interpolation=cv2.INTER_AREA if tile.shape[1] > size[0] else cv2.INTER_LINEAR,
        )
        for tile in tiles
    ]


def _cell(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(width, height) with the longer side as asked."""
    factor = side / max(shape)
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def _sequential(values: np.ndarray) -> np.ndarray:
    """(H,W) in 0..1 -> (H,W,3), dark to bright."""
    levels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _diverging(values: np.ndarray) -> np.ndarray:
    """(H,W) in -1..1 -> (H,W,3): blue, white at 0, red."""
    at, stops = (
        (-1, -0.5, 0, 0.5, 1),
        ((5, 48, 120), (67, 147, 205), (250, 250, 250), (225, 100, 75), (120, 5, 35)),
    )
    return (
        np.stack(
            [np.interp(values, at, [stop[channel] for stop in stops]) for channel in range(3)], -1
        )
        .round()
        .astype(np.uint8)
    )
