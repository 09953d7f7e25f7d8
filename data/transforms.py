"""From an image as stored to the network's input: YOLACT's augmentation for training, one resize
for evaluation.

torchvision.transforms.v2 moves the image and the boxes. Masks do not travel through it: a zoom-out
would write 16 times the pixels of up to several hundred masks, to throw nearly all of them away in
the crop and the resize that follow. A Viewport travels in their place, and says at the end which
part of the image is in view; each mask is then sampled once, at its final size, inside its box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.schema import Config

# RGB; the canvas of the zoom-out for models that subtract no mean (DarkNet)
PUBLISHED_MEAN = (123.68, 116.78, 103.94)


class Viewport(tv_tensors.TVTensor):
    """(5,) int64: top, left, height, width of the view in pixels of the original image, and 1 where
    it is mirrored.

    The view may reach outside the image. Padding, cropping and flipping move it; resizing leaves it
    alone. Padding must come before cropping, as here: a view that is enlarged again after a crop
    would show what the crop cut away.
    """

    @classmethod
    def of(cls, height: int, width: int) -> Viewport:
        return torch.tensor([0, 0, height, width, 0]).as_subclass(cls)


@v2.functional.register_kernel(v2.functional.crop, Viewport)
def _crop_viewport(view: Viewport, top: int, left: int, height: int, width: int) -> Viewport:
    y, x, _, old_width, mirrored = view.tolist()
    x += old_width - left - width if mirrored else left
    return torch.tensor([y + top, x, height, width, mirrored]).as_subclass(Viewport)


@v2.functional.register_kernel(v2.functional.pad, Viewport)
def _pad_viewport(
    view: Viewport, padding: list[int], fill=None, padding_mode: str = "constant"
) -> Viewport:
    left, top, right, bottom = padding
    _, _, height, width, _ = view.tolist()
    return _crop_viewport(view, -top, -left, height + top + bottom, width + left + right)


@v2.functional.register_kernel(v2.functional.horizontal_flip, Viewport)
def _flip_viewport(view: Viewport) -> Viewport:
    y, x, height, width, mirrored = view.tolist()
    return torch.tensor([y, x, height, width, 1 - mirrored]).as_subclass(Viewport)


@dataclass
class View:
    """What a transform makes of an image and its M boxes.

    image (3,S,S); boxes (M',4) float32 XYXY in input pixels, inside the image; kept (M',) int64,
    which of the M they are; viewport (5,) int64, see Viewport; size (h, w) of the image.
    """

    image: Tensor
    boxes: Tensor
    kept: Tensor
    viewport: Tensor
    size: tuple[int, int]


@dataclass
class Patch:
    """A binary mask without its empty surroundings: pixels (h,w) uint8 0/1, at row `top` and column
    `left` of its image."""

    pixels: np.ndarray
    top: int
    left: int


class TrainTransform:
    """Photometric distortion, zoom-out, IoU crop, flip, resize: the order of SSD and YOLACT. Draws
    from torch's default CPU generator."""

    def __init__(self, cfg: Config) -> None:
        augment, self.size = cfg.augment, cfg.model.max_size
        mean = cfg.model.pixel_mean if any(cfg.model.pixel_mean) else PUBLISHED_MEAN
        self.photometric = v2.RandomPhotometricDistort() if augment.photometric else None
        self.zoom_out = (
            v2.RandomZoomOut([round(c) for c in mean], side_range=(1.0, augment.zoom_out_max))
            if augment.zoom_out
            else None
        )
        self.iou_crop = v2.RandomIoUCrop() if augment.iou_crop else None
        self.flip = v2.RandomHorizontalFlip() if augment.flip else None
        self.resize = v2.Resize((self.size, self.size), antialias=augment.antialias)
        self.min_side = augment.min_box_side

    def __call__(self, image: np.ndarray, boxes: Tensor) -> View:
        """image (h,w,3) uint8 RGB, boxes (M,4) XYXY pixels -> a View with image (3,S,S) uint8."""
        height, width = image.shape[:2]
        canvas = (height, width)
        sample = (
            tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas),
            Viewport.of(height, width),
        )
        for step in (self.photometric, self.zoom_out, self.iou_crop, self.flip, self.resize):
            # Without boxes, an IoU crop tries in vain some 240 times on average before it leaves
            # the image alone.
            if step is not None and not (step is self.iou_crop and len(boxes) == 0):
                sample = step(*sample)
        pixels, moved, viewport = (item.as_subclass(Tensor) for item in sample)
        boxes, kept = inside(moved, self.size, self.size, self.min_side)
        return View(pixels.contiguous(), boxes, kept, viewport, (self.size, self.size))


class EvalTransform:
    """One bilinear resize of the float image to S x S (YOLACT's FastBaseTransform before
    normalising, which does not antialias)."""

    def __init__(self, size: int, antialias: bool = False) -> None:
        self.size, self.antialias = size, antialias

    def __call__(self, image: np.ndarray) -> Tensor:
        """image (h,w,3) uint8 RGB -> (3,S,S) float32, 0..255."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()
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
            Viewport.of(height, width).as_subclass(Tensor),
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


def render_masks(patches: list[Patch], viewport: Tensor, size: tuple[int, int]) -> Tensor:
    """(M,h,w) bool: the masks seen through the viewport, resized bilinearly to `size`
    (align_corners=False, no antialias), >= 0.5.

    The same pixels as padding, cropping, flipping and resizing whole masks, but only each mask's
    own window is computed. One half counts as foreground, as where the published pipeline resizes
    uint8 masks and rounds.
    """
    top, left, view_height, view_width, mirrored = viewport.tolist()
    height, width = size
    rows, columns = _taps(view_height, height, top), _taps(view_width, width, left)
    out = np.zeros((len(patches), height, width), bool)
    for mask, patch in zip(out, patches, strict=True):
        window_rows, above, below, down = _window(rows, patch.top, patch.pixels.shape[0])
        window_columns, before, after, right = _window(columns, patch.left, patch.pixels.shape[1])
        if not above.size or not before.size:
            continue
        # the border is the background around the patch
        pixels = np.pad(patch.pixels, 1).astype(np.float32)
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
