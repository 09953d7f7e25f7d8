"""Instance masks: assembled from prototypes, cropped to their boxes, brought to the size of the
image, and their distances to the boundary.

N instances, K prototypes, H x W prototype map. Boxes are relative corners, so the same box crops at
any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

RESIZE_BYTES = 128 << 20  # float pixels held at once while whole masks are resized
BLOCK_BYTES = 4 << 20  # the same for a window of one mask; small enough to stay in cache
# the next n masks of a stack: the row and column of their window in the image, and its pixels
# (n,rows,columns) bool; everything outside it is False
Window: TypeAlias = tuple[int, int, Tensor]
BAND = 24  # source rows that one product of bicubic weights brings to the image


def assemble(prototypes: Tensor, coeffs: Tensor) -> Tensor:
    """Prototypes (H,W,K) and coefficients (N,K) -> mask logits (N,H,W) (YOLACT, Bolya et al. 2019,
    eq. 1 before the sigmoid)."""
    h, w, k = prototypes.shape
    return (coeffs @ prototypes.reshape(h * w, k).t()).view(-1, h, w)


def assemble_batch(prototypes: Tensor, coeffs: Tensor, counts: list[int]) -> Tensor:
    """Prototypes (B,H,W,K) and coefficients (N,K), counts[b] of them for image b -> (N,H,W) mask
    logits, in one product."""
    batch, h, w, k = prototypes.shape
    padded = pad_sequence(coeffs.split(counts), batch_first=True)  # (B,most,K)
    logits = torch.bmm(padded, prototypes.reshape(batch, h * w, k).transpose(1, 2))  # (B,most,HW)
    most = padded.shape[1]
    if any(count != most for count in counts):
        own = torch.tensor(counts)
        # rows of padding before each image
        padding = torch.arange(batch) * most - (own.cumsum(0) - own)
        kept = torch.arange(len(coeffs)) + padding.repeat_interleave(own, output_size=len(coeffs))
        logits = logits.flatten(0, 1).index_select(0, kept.to(logits.device, non_blocking=True))
    return logits.reshape(-1, h, w)


def box_window(boxes: Tensor, size: tuple[int, int], padding: float = 1) -> Tensor:
    """(N,4) relative boxes -> (N,H,W) bool for size (H, W): True inside the box grown by `padding`
    pixels.

    Column c is inside iff x1 - padding <= c < x2 + padding with unrounded edges in pixels; rows
    likewise. Corners may be swapped.
    """
    rows, columns = box_sides(boxes, size, padding)
    return rows[:, :, None] & columns[:, None, :]


def box_sides(boxes: Tensor, size: tuple[int, int], padding: float = 1) -> tuple[Tensor, Tensor]:
    """The rows (N,H) and the columns (N,W), bool, of box_window."""
    h, w = size
    return (
        _inside(boxes[:, 1], boxes[:, 3], h, padding),
        _inside(boxes[:, 0], boxes[:, 2], w, padding),
    )


def crop(masks: Tensor, boxes: Tensor, padding: float = 1) -> Tensor:
    """Masks (N,H,W) with everything outside their boxes (N,4), grown by `padding` pixels, set to
    0."""
    height, width = masks.shape[-2:]
    return masks.masked_fill(~box_window(boxes, (height, width), padding), 0)


def signed_distance_map(masks: Tensor) -> Tensor:
    """masks (M,h,w) bool -> (M,h,w) float32: Euclidean distances to the boundary in pixels, on the
    CPU by SciPy.

    Outside the mask the distance to its nearest pixel (>= 1), inside -(distance to the nearest
    pixel outside - 1), so 0 on the inner pixels of the border. An empty mask and a full one have no
    boundary: 0 everywhere. MONAI's convention, and for masks that are neither empty nor full that
    of Kervadec's boundary loss."""
    # not at import: only training with a loss that needs it waits for SciPy
    from scipy.ndimage import distance_transform_edt

    masks = masks.cpu().bool()
    result = torch.zeros(masks.shape, dtype=torch.float32)
    for mask, row in zip(masks, result, strict=True):
        if mask.any() and not mask.all():
            inside = distance_transform_edt(mask.numpy())
            outside = distance_transform_edt(~mask.numpy())
            row += torch.from_numpy(outside - (inside - 1).clip(min=0))
    return result


@torch.no_grad()
def resize_to_image(
    masks: Tensor, size: tuple[int, int], *, boxes: Tensor | None = None, padding: float = 1
) -> Tensor:
    """Soft masks (N,H,W) in 0..1 -> (N,h,w) bool: bilinear to size (h, w) without antialias, > 0.5.

    Given `boxes` (N,4), the masks are taken as cropped by them and only the pixels that a box can
    reach are computed; the rest is False either way. At most RESIZE_BYTES of float pixels exist at
    a time (but at least one mask), whatever N and the size.
    """
    return _stack(image_windows(masks, size, boxes=boxes, padding=padding), masks, size)


@torch.no_grad()
def resize_logits(
    logits: Tensor, size: tuple[int, int], *, boxes: Tensor | None = None, padding: float = 1
) -> Tensor:
    """Mask logits (N,H,W) -> (N,h,w) bool: bicubic to size (h, w), > 0.

    The interpolation is torch's bicubic with half-pixel centres: cubic convolution (Keys 1981) with
    a = -0.75, edges repeated. Given `boxes` (N,4), what lies outside the box grown by `padding`
    pixels of the image is False, and only windows of the boxes are computed. The memory is bounded
    as in resize_to_image.
    """
    return _stack(logit_windows(logits, size, boxes=boxes, padding=padding), logits, size)


def image_windows(
    masks: Tensor, size: tuple[int, int], *, boxes: Tensor | None = None, padding: float = 1
) -> Iterator[Window]:
    """resize_to_image() in parts, in the order of the masks: the stack is never made."""
    masks = masks.float()
    if boxes is not None and masks.device.type == "cpu":
        return _resize_windows(masks, boxes, padding, size)
    return _resize_whole(masks, size)


def logit_windows(
    logits: Tensor, size: tuple[int, int], *, boxes: Tensor | None = None, padding: float = 1
) -> Iterator[Window]:
    """resize_logits() in parts, in the order of the masks: the stack is never made."""
    logits = logits.float()
    if boxes is None:
        boxes = logits.new_tensor([[0.0, 0.0, 1.0, 1.0]]).expand(logits.shape[0], 4)
    fill = _cubic_windows if logits.device.type == "cpu" else _cubic_whole
    return fill(logits, boxes, padding, size)


def _stack(windows: Iterator[Window], masks: Tensor, size: tuple[int, int]) -> Tensor:
    out = torch.zeros((masks.shape[0], *size), dtype=torch.bool, device=masks.device)
    first = 0
    for top, left, part in windows:
        n, rows, columns = part.shape
        out[first : first + n, top : top + rows, left : left + columns] = part
        first += n
    return out


def _resize_whole(masks: Tensor, size: tuple[int, int]) -> Iterator[Window]:
    """By whole masks: few large steps, as a GPU wants them."""
    for part in masks.split(_at_once(size)) if len(masks) else ():
        yield 0, 0, F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0] > 0.5


def _at_once(size: tuple[int, int]) -> int:
    return max(1, RESIZE_BYTES // (4 * size[0] * size[1]))


def _inside(start: Tensor, end: Tensor, size: int, padding: float) -> Tensor:
    """Relative edges (N,) twice -> (N,size) bool: pixels c with low - padding <= c < high +
    padding."""
    start, end = start * size, end * size
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    low, high = torch.minimum(start, end) - padding, torch.maximum(start, end) + padding
    return (pixel >= low[:, None]) & (pixel < high[:, None])


def _resize_windows(
    masks: Tensor, boxes: Tensor, padding: float, size: tuple[int, int]
) -> Iterator[Window]:
    """The > 0.5 pixels of masks (N,H,W) that are 0 outside their boxes, a window a mask."""
    h, w = size
    rows = _AxisResize(_inside(boxes[:, 1], boxes[:, 3], masks.shape[1], padding), h)
    columns = _AxisResize(_inside(boxes[:, 0], boxes[:, 2], masks.shape[2], padding), w)
    for n, (y_from, y_to, x_from, x_to) in enumerate(
        zip(rows.start, rows.stop, columns.start, columns.stop, strict=True)
    ):
        if x_from >= x_to or y_from >= y_to:
            yield 0, 0, _nothing(masks)
            continue
        across = slice(x_from, x_to)
        source_rows = masks[n, rows.source[n]]  # (rows, W)
        left, right = columns.below[across], columns.above[across]
        # (rows, x)
        wide = torch.lerp(
            source_rows.index_select(1, left),
            source_rows.index_select(1, right),
            columns.weight[across],
        )
        window = torch.empty((1, y_to - y_from, x_to - x_from), dtype=torch.bool)
        step = max(1, BLOCK_BYTES // (4 * (x_to - x_from)))
        for first in range(y_from, y_to, step):
            down = slice(first, min(first + step, y_to))
            top, bottom = (
                rows.below[down] - rows.source[n].start,
                rows.above[down] - rows.source[n].start,
            )
            block = torch.lerp(
                wide.index_select(0, top), wide.index_select(0, bottom), rows.weight[down, None]
            )
            torch.gt(block, 0.5, out=window[0, down.start - y_from : down.stop - y_from])
        yield y_from, x_from, window


def _nothing(masks: Tensor) -> Tensor:
    """The window of a mask without pixels."""
    return masks.new_zeros((1, 0, 0), dtype=torch.bool)


class _AxisResize:
    """Bilinear resize along one axis (half-pixel centres, as align_corners=False), and the part of
    it that each window can reach.

    below, above, weight  (size,) source pixels beside each output pixel and the share of the upper
                          one
    start, stop           per instance, the output pixels that any source pixel inside its window
                          contributes to
    source                per instance, the slice of source pixels that these read
    """

    def __init__(self, inside: Tensor, size: int):
        source_size = inside.shape[1]
        position = ((torch.arange(size) + 0.5) * (source_size / size) - 0.5).clamp(min=0)
        self.below = position.long().clamp(max=source_size - 1)
        self.above = (self.below + 1).clamp(max=source_size - 1)
        self.weight = position - self.below
        first = inside.int().argmax(1)  # (N,)
        last = first + inside.sum(1) - 1  # before `first` where the window is empty
        start = torch.searchsorted(self.above, first)
        stop = torch.searchsorted(self.below, last, right=True)
        stop = torch.where(inside.any(1), stop, start)
        self.start, self.stop = start.tolist(), stop.tolist()
        low = self.below[start.clamp(max=size - 1)].tolist()
        high = self.above[(stop - 1).clamp(min=0)].tolist()
        self.source = [slice(a, b + 1) for a, b in zip(low, high, strict=True)]


def _cubic_whole(
    logits: Tensor, boxes: Tensor, padding: float, size: tuple[int, int]
) -> Iterator[Window]:
    """What _cubic_windows does, by whole masks: few large steps, as a GPU wants them."""
    step = _at_once(size)
    for part, their in zip(logits.split(step), boxes.split(step)) if len(logits) else ():
        found = F.interpolate(part[None], size, mode="bicubic")[0] > 0
        yield 0, 0, found.logical_and_(box_window(their, size, padding))


def _cubic_windows(
    logits: Tensor, boxes: Tensor, padding: float, size: tuple[int, int]
) -> Iterator[Window]:
    """The > 0 pixels of bicubic logits (N,H,W) inside their boxes, grown by `padding` pixels of the
    image, a window a mask."""
    h, w = size
    rows = _CubicAxis(_inside(boxes[:, 1], boxes[:, 3], h, padding), logits.shape[1])
    columns = _CubicAxis(_inside(boxes[:, 0], boxes[:, 2], w, padding), logits.shape[2])
    band = math.ceil(BAND * h / logits.shape[1])
    for n, (y_from, y_to, x_from, x_to) in enumerate(
        zip(rows.start, rows.stop, columns.start, columns.stop, strict=True)
    ):
        if x_from >= x_to or y_from >= y_to:
            yield 0, 0, _nothing(logits)
            continue
        across, read = slice(x_from, x_to), columns.source(x_from, x_to)
        high = rows.source(y_from, y_to)
        # (source rows, x)
        wide = logits[n, high, read] @ columns.weights[across, read].t()
        window = torch.empty((1, y_to - y_from, x_to - x_from), dtype=torch.bool)
        step = max(1, min(band, BLOCK_BYTES // (4 * (x_to - x_from))))
        for first in range(y_from, y_to, step):
            down = slice(first, min(first + step, y_to))
            read = rows.source(down.start, down.stop)
            block = (
                rows.weights[down, read] @ wide[read.start - high.start : read.stop - high.start]
            )
            torch.gt(block, 0, out=window[0, down.start - y_from : down.stop - y_from])
        yield y_from, x_from, window


class _CubicAxis:
    """Bicubic resize along one axis, and the output pixels inside each window.

    weights      (size, source_size) of each source pixel in each output pixel; four in a row are
                 not 0
    start, stop  per instance, its window of output pixels
    """

    def __init__(self, inside: Tensor, source_size: int):
        size = inside.shape[1]
        position = (torch.arange(size) + 0.5) * (source_size / size) - 0.5
        taps = position.floor()[:, None] + torch.arange(-1, 3)  # (size,4)
        source = taps.long().clamp(0, source_size - 1)
        self.weights = torch.zeros(size, source_size).scatter_add_(
            1, source, _cubic((position[:, None] - taps).abs())
        )
        self._low, self._high = source[:, 0].tolist(), source[:, 3].tolist()
        start = inside.int().argmax(1)  # (N,)
        self.start, self.stop = start.tolist(), (start + inside.sum(1)).tolist()

    def source(self, start: int, stop: int) -> slice:
        """The source pixels that the output pixels from start to stop read."""
        return slice(self._low[start], self._high[stop - 1] + 1)


def _cubic(distance: Tensor, a: float = -0.75) -> Tensor:
    """Weights of cubic convolution at distances 0 <= d <= 2 (Keys 1981, eq. 4)."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, far)
