"""From an image as stored to the network's input: YOLACT's augmentation for training, one resize
for evaluation.

What happens to an image is drawn first, see data/draws.py. A Viewport says which part of it comes
into view. A zoom-out would write 16 times the pixels of the image and of up to several hundred
masks, to throw nearly all of them away in the crop and the resize that follow. So only what the
resize reads is computed of the image, and each mask is sampled once, at its final size, inside its
box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from data.colours import Colours
from data.draws import Drawn, Viewport, draw_augmentation
from data.schema import Config

# RGB; the canvas of the zoom-out for models that subtract no mean (DarkNet)
PUBLISHED_MEAN = (123.68, 116.78, 103.94)
REDUCTIONS = (8, 4, 2)  # by which a JPEG may be decoded smaller
FLOATS_AT_ONCE = 256 << 20  # bytes of a picture as floats, in evaluation
SPARSE = 3  # from this reduction on, a resize skips so much that what it reads is picked out


@dataclass
class View:
    """What a transform makes of an image and its M boxes.

    image (3,S,S); boxes (M',4) float32 XYXY in input pixels, inside the image; kept (M',) int64,
    which of the M they are; viewport: the part of the image in view; size (h, w) of the image.
    """

    image: Tensor
    boxes: Tensor
    kept: Tensor
    viewport: Viewport
    size: tuple[int, int]


@dataclass
class Patch:
    """A binary mask without its empty surroundings: pixels (h,w) uint8 0/1, at row `top` and column
    `left` of its image."""

    pixels: np.ndarray
    top: int
    left: int


def resized_view(
    image: np.ndarray,
    view: Viewport,
    size: tuple[int, int],
    *,
    fill: np.ndarray,
    antialias: bool,
    colours: Colours | None = None,
) -> Tensor:
    """(3,S,S) uint8: the view of an image (h,w,3) uint8, distorted by `colours` and resized
    bilinearly to `size`; `fill` (3,) where it reaches outside.

    The bits are those of distorting, padding, cropping, mirroring and resizing the whole image.
    Where that resize skips rows or columns, they are not computed.
    """
    height, width = size
    rows = _read(view.height, height, antialias)
    columns = _read(view.width, width, antialias)
    seen = _canvas(image, view, rows, columns, fill, colours)
    if len(rows) < view.height:
        narrow = _resize(seen, (len(rows), width), antialias)
        canvas = np.empty((view.height, width, 3), np.uint8)
        canvas[rows] = narrow.permute(1, 2, 0).numpy()
        seen = _planes(canvas)
    return _resize(seen, size, antialias).contiguous()


def _read(source: int, target: int, antialias: bool) -> np.ndarray:
    """The positions out of `source` that a resize to `target` reads; all of them where that is
    most, or where the resize does not go by rows first and columns next."""
    # (torch does so in integers where the processor has AVX2; elsewhere in floats, all at once)
    two_passes = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if antialias or source < SPARSE * target or not two_passes:
        return np.arange(source)
    return np.unique(_taps(source, target, 0)[:2])


def _canvas(
    image: np.ndarray,
    view: Viewport,
    rows: np.ndarray,
    columns: np.ndarray,
    fill: np.ndarray,
    colours: Colours | None,
) -> Tensor:
    """(3, len(rows), view.width) uint8, with channels last in memory: those rows of the view. Only
    `columns` are sure to be set."""
    down, across = rows + view.top, columns + view.left
    if view.mirrored:
        across = view.left + view.width - 1 - columns
    from_row, from_column = _held(down, image.shape[0]), _held(across, image.shape[1])
    part = _picked(_picked(image, down[from_row], 0), across[from_column], 1)
    if colours is not None:
        distorted = np.empty(part.shape, np.uint8)
        colours.apply(_planes(part), colours.grey(_planes(image)), _planes(distorted))
        part = distorted
    if part.shape[:2] == (len(rows), view.width):
        return _planes(np.ascontiguousarray(part))
    canvas = np.empty((len(rows), view.width, 3), np.uint8)
    if part.shape[:2] != (len(rows), len(columns)):
        canvas.reshape(len(rows), -1)[:] = np.tile(fill, view.width)
    canvas[from_row][:, _index(columns[from_column])] = part
    return _planes(canvas)


def _planes(image: np.ndarray) -> Tensor:
    """(h,w,3) as (3,h,w), without a copy."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _held(places: np.ndarray, side: int) -> slice:
    """Which of ascending or descending places lie in 0..side."""
    found = np.flatnonzero((places >= 0) & (places < side))
    return slice(found[0], found[-1] + 1) if found.size else slice(0, 0)


def _index(places: np.ndarray) -> slice | np.ndarray:
    """Places as a slice where they follow one another."""
    if places.size and places[-1] - places[0] + 1 == places.size:
        return slice(places[0], places[-1] + 1)
    return places


def _picked(image: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """image (h,w,3) at places of an axis, without a copy where they follow one another."""
    index = _index(places)
    if isinstance(index, slice):
        return image[index] if axis == 0 else image[:, index]
    return image.take(index, axis)


def _resize(image: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    return tv.resize(image, list(size), antialias=antialias)


class TrainTransform:
    """Photometric distortion, zoom-out, IoU crop, flip, resize: the order of SSD and YOLACT. Draws
    from torch's default CPU generator.

    Everything is drawn before a pixel is touched, and the picture then comes to network size at
    once. With augment.photometric_at=image every pixel is what the chain of torchvision's
    transforms makes of the whole picture; with network the colours change after the resize.
    """

    def __init__(self, cfg: Config) -> None:
        self.augment, self.size = cfg.augment, cfg.model.max_size
        mean = cfg.model.pixel_mean if any(cfg.model.pixel_mean) else PUBLISHED_MEAN
        self.fill = np.array([round(c) for c in mean], np.uint8)

    def __call__(self, image: np.ndarray, boxes: Tensor) -> View:
        """image (h,w,3) uint8 RGB, boxes (M,4) XYXY pixels -> a View with image (3,S,S) uint8."""
        height, width = image.shape[:2]
        return self.render(image, self.draw(height, width, boxes))

    def draw(self, height: int, width: int, boxes: Tensor) -> Drawn:
        """What happens to a picture of height x width with boxes (M,4) XYXY pixels."""
        return draw_augmentation(self.augment, height, width, boxes)

    def reduction(self, drawn: Drawn) -> int:
        """By how much a picture may be reduced when it is read: 8, 4 or 2 where its view keeps at
        least S pixels a side and augment.reduced_decode allows it, else 1."""
        if not self.augment.reduced_decode:
            return 1
        sides = min(drawn.viewport.height, drawn.viewport.width)
        return next((by for by in REDUCTIONS if (sides - 2 * by) // by >= self.size), 1)

    def render(self, image: np.ndarray, drawn: Drawn, reduced: int = 1) -> View:
        """The View of a draw. image (h,w,3) uint8 RGB, `reduced` times smaller than the picture
        that was drawn for; the view's edges then fall on its pixels, see Drawn.on_grid()."""
        size, colours = (self.size, self.size), drawn.colours
        drawn = drawn.on_grid(reduced) if reduced > 1 else drawn
        view = drawn.viewport
        at_image = colours is not None and self.augment.photometric_at == "image"
        pixels = resized_view(
            image,
            view.shrunk(reduced),
            size,
            fill=self.fill,
            antialias=self.augment.antialias,
            colours=colours if at_image else None,
        )
        if colours is not None and not at_image:
            colours.apply(pixels, colours.grey(pixels), pixels)
        boxes, kept = inside(drawn.placed(*size), *size, self.augment.min_box_side)
        return View(pixels, boxes, kept, view, size)


class EvalTransform:
    """One bilinear resize of the float image to S x S (YOLACT's FastBaseTransform before
    normalising, which does not antialias)."""

    def __init__(self, size: int, antialias: bool = False) -> None:
        self.size, self.antialias = size, antialias

    def __call__(self, image: np.ndarray) -> Tensor:
        """image (h,w,3) uint8 RGB -> (3,S,S) float32, 0..255.

        Channels of pictures whose floats exceed FLOATS_AT_ONCE are resized one by one. That differs
        from all at once by rounding alone.
        """
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if 4 * pixels.numel() <= FLOATS_AT_ONCE:
            return self._resized(pixels.float())
        return torch.cat([self._resized(channel.float()) for channel in pixels.split(1)])

    def _resized(self, pixels: Tensor) -> Tensor:
        return F.interpolate(
            pixels[None],
            (self.size, self.size),
            mode="bilinear",
            align_corners=False,
            antialias=self.antialias,
        )[0]

    def view(self, image: np.ndarray, boxes: Tensor) -> View:
        """The image and its boxes; every box is kept."""
        height, width = image.shape[:2]
        scaled = boxes * boxes.new_tensor([self.size / width, self.size / height] * 2)
        scaled = scaled.clamp(0, self.size)
        return View(
            self(image),
            scaled,
            torch.arange(len(boxes)),
            Viewport(0, 0, height, width),
            (self.size, self.size),
        )


def train_transform(cfg: Config) -> TrainTransform:
    return TrainTransform(cfg)


def eval_transform(cfg: Config) -> EvalTransform:
    return EvalTransform(cfg.model.max_size, cfg.augment.antialias)


def inside(boxes: Tensor, height: int, width: int, min_side: float) -> tuple[Tensor, Tensor]:
    """Boxes (M,4) XYXY clipped to the image, and the indices of those with both sides at least
    min_side and above 0.

    (v2.SanitizeBoundingBoxes does the same, but takes no threshold below one pixel.)
    """
    boxes = boxes.clone()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = torch.nonzero((sides > 0).all(1) & (sides >= min_side).all(1))[:, 0]
    return boxes[kept], kept


def render_masks(patches: list[Patch], viewport: Viewport, size: tuple[int, int]) -> Tensor:
    """(M,h,w) bool: the masks seen through the viewport, resized bilinearly to `size`
    (align_corners=False, no antialias), >= 0.5.

    The same pixels as padding, cropping, flipping and resizing whole masks, but only each mask's
    own window is computed. One half counts as foreground, as where the published pipeline resizes
    uint8 masks and rounds.
    """
    top, left, view_height, view_width, mirrored = viewport
    height, width = size
    rows, columns = _taps(view_height, height, top), _taps(view_width, width, left)
    out = np.zeros((len(patches), height, width), bool)
    for mask, patch in zip(out, patches, strict=True):
        window_rows, above, below, down = _window(rows, patch.top, patch.pixels.shape[0])
        window_columns, before, after, right = _window(columns, patch.left, patch.pixels.shape[1])
        if not above.size or not before.size:
            continue
        # the border is the background around the patch
        pixels = np.zeros(np.add(patch.pixels.shape, 2), np.float32)
        pixels[1:-1, 1:-1] = patch.pixels
        lines = pixels[above] * (1 - down)[:, None] + pixels[below] * down[:, None]  # (rows, w + 2)
        seen = lines[:, before] * (1 - right) + lines[:, after] * right >= 0.5  # (rows, columns)
        if mirrored:
            window_columns, seen = (
                slice(width - window_columns.stop, width - window_columns.start),
                seen[:, ::-1],
            )
        mask[window_rows, window_columns] = seen
    return torch.from_numpy(out)


def _taps(source: int, target: int, offset: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `target` output positions: the two source positions it mixes (in the original
    image), and the second one's weight."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first + offset, second + offset, (position - first).astype(np.float32)


def _window(taps: tuple[np.ndarray, np.ndarray, np.ndarray], start: int, length: int):
    """The output positions that touch source positions start..start + length, with taps into the
    patch padded by 1."""
    first, second, weight = taps
    low, high = int(np.searchsorted(second, start)), int(np.searchsorted(first, start + length))
    chosen = slice(low, max(low, high))
    return (
        chosen,
        *(np.clip(t[chosen] - start + 1, 0, length + 1) for t in (first, second)),
        weight[chosen],
    )


@lru_cache(maxsize=32)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Cached, because a copy to the device in every step would wait for it; outside inference mode,
    # so that training may use them.
    with torch.inference_mode(False):
        offset, divisor = (
            torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
            for values in (mean, std)
        )
    return offset, divisor


def normalize(
    images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(B,3,S,S) RGB 0..255, uint8 or float -> float32 (x - mean) / std, on the images' device."""
    offset, divisor = _constants(tuple(mean), tuple(std), images.device)
    return (images.float() - offset) / divisor
