"""Instance masks: assembled from prototypes, cropped to their boxes, brought to the size of the
image, and their distances to the boundary.

N instances, K prototypes, H x W prototype map. Boxes are relative corners, so the same box crops at
any resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RESIZE_BYTES = 128 << 20  # float pixels held at once while whole masks are resized
BLOCK_BYTES = 4 << 20  # the same for a window of one mask; small enough to stay in cache


def assemble(prototypes: Tensor, coeffs: Tensor) -> Tensor:
    """Prototypes (H,W,K) and coefficients (N,K) -> mask logits (N,H,W) (YOLACT, Bolya et al. 2019,
    eq. 1 before the sigmoid)."""
    h, w, k = prototypes.shape
    return (coeffs @ prototypes.reshape(h * w, k).t()).view(-1, h, w)


def box_window(boxes: Tensor, size: tuple[int, int], padding: float = 1) -> Tensor:
    """(N,4) relative boxes -> (N,H,W) bool for size (H, W): True inside the box grown by `padding`
    pixels.

    Column c is inside iff x1 - padding <= c < x2 + padding with unrounded edges in pixels; rows
    likewise. Corners may be swapped.
    """
    h, w = size
    columns = _inside(boxes[:, 0], boxes[:, 2], w, padding)  # (N,W)
    rows = _inside(boxes[:, 1], boxes[:, 3], h, padding)  # (N,H)
    return rows[:, :, None] & columns[:, None, :]


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
    n, (h, w) = masks.shape[0], size
    out = torch.zeros((n, h, w), dtype=torch.bool, device=masks.device)
    if n == 0:
        return out
    masks = masks.float()
    if boxes is not None and masks.device.type == "cpu":
        return _resize_windows(masks, boxes, padding, out)
    step = max(1, RESIZE_BYTES // (4 * h * w))
    for first in range(0, n, step):
        part = slice(first, first + step)
        torch.gt(
            F.interpolate(masks[None, part], size, mode="bilinear", align_corners=False)[0],
            0.5,
            out=out[part],
        )
    return out


def _inside(start: Tensor, end: Tensor, size: int, padding: float) -> Tensor:
    """Relative edges (N,) twice -> (N,size) bool: pixels c with low - padding <= c < high +
    padding."""
    start, end = start * size, end * size
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    low, high = torch.minimum(start, end) - padding, torch.maximum(start, end) + padding
    return (pixel >= low[:, None]) & (pixel < high[:, None])


def _resize_windows(masks: Tensor, boxes: Tensor, padding: float, out: Tensor) -> Tensor:
    """Fills out (N,h,w), all False, with the > 0.5 pixels of masks (N,H,W) that are 0 outside their
    boxes."""
    h, w = out.shape[1:]
    rows = _AxisResize(_inside(boxes[:, 1], boxes[:, 3], masks.shape[1], padding), h)
    columns = _AxisResize(_inside(boxes[:, 0], boxes[:, 2], masks.shape[2], padding), w)
    for n, (y_from, y_to, x_from, x_to) in enumerate(
        zip(rows.start, rows.stop, columns.start, columns.stop, strict=True)
    ):
        if x_from >= x_to:
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
            torch.gt(block, 0.5, out=out[n, down, across])
    return out


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
