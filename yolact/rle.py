"""Masks as COCO's run lengths: small at any size of the image, and read one at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from layers.masks import Window

_PIXELS_AT_ONCE = 64 << 20  # mask pixels compared at a time while they are encoded


class MaskRuns:
    """D masks of one image, by their runs of set pixels down the columns.

    size  (h,w) of the image
    runs  D sorted int64 arrays of places, column * h + row: a run starts at each even entry, and
          ends before the odd one that follows
    """

    def __init__(self, size: tuple[int, int], runs: Iterable[np.ndarray] = ()) -> None:
        self.size = size
        self.runs = list(runs)

    @classmethod
    def of(cls, masks: Tensor) -> MaskRuns:
        """Those of (D,h,w) bool on any device."""
        d, h, w = masks.shape
        step = max(1, _PIXELS_AT_ONCE // max(1, h * w))
        return cls.collect(((0, 0, part) for part in masks.split(step) if d), (h, w))

    @classmethod
    def collect(cls, windows: Iterable[Window], size: tuple[int, int]) -> MaskRuns:
        """Those of masks that come by windows, see layers.masks.image_windows."""
        return cls(size, [runs for window in windows for runs in _runs(window, size)])

    def __len__(self) -> int:
        return len(self.runs)

    def select(self, index: Tensor) -> MaskRuns:
        """Those that `index` picks: (D,) bool, or their numbers in any order."""
        numbers = torch.arange(len(self))[index.cpu()].tolist()
        return MaskRuns(self.size, [self.runs[i] for i in numbers])

    def areas(self) -> list[int]:
        """Pixels of each mask."""
        return [int((runs[1::2] - runs[::2]).sum()) for runs in self.runs]

    def window(self, i: int) -> tuple[int, int, np.ndarray]:
        """The smallest part of mask i that holds its pixels: (top, left, (rows,columns) bool)."""
        height, runs = self.size[0], self.runs[i]
        if not len(runs):
            return 0, 0, np.zeros((0, 0), bool)
        left, end = runs[0] // height, (runs[-1] - 1) // height + 1
        lengths = np.diff(runs, prepend=left * height, append=end * height)
        columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(-1, height)
        rows = np.flatnonzero(columns.any(0))
        return int(rows[0]), int(left), columns[:, rows[0] : rows[-1] + 1].T

    def mask(self, i: int) -> np.ndarray:
        """(h,w) bool: mask i."""
        out = np.zeros(self.size, bool)
        top, left, pixels = self.window(i)
        out[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return out

    def stack(self, device: torch.device | str = "cpu") -> Tensor:
        """(D,h,w) bool: all of them, D h w bytes."""
        out = torch.zeros((len(self), *self.size), dtype=torch.bool, device=device)
        for i, mask in enumerate(out):
            mask.copy_(torch.from_numpy(self.mask(i)))
        return out

    def to_coco(self) -> list[dict]:
        """D compressed COCO RLEs {"size": [h, w], "counts": str}."""
        return [self._coco(runs) for runs in self.runs]

    def _coco(self, runs: np.ndarray) -> dict:
        h, w = self.size
        counts = np.diff(runs, prepend=0, append=h * w).tolist()
        if len(runs) and runs[-1] == h * w:  # nothing follows the last run
            counts.pop()
        encoded = coco_mask.frPyObjects({"size": [h, w], "counts": counts}, h, w)
        return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def _runs(window: Window, size: tuple[int, int]) -> list[np.ndarray]:
    """Runs of the n masks of a window.

    They are found where the masks lie, by comparing each pixel with the one above it. Only the few
    places where they differ are sorted into column order and leave the device.
    """
    (height, width), (top, left, masks) = size, window
    n, rows, columns = masks.shape
    if not masks.numel():
        return [np.zeros(0, np.int64)] * n
    edges = masks.new_empty((n, rows + 1, columns))
    edges[:, 0], edges[:, -1] = masks[:, 0], masks[:, -1]
    torch.logical_xor(masks[:, 1:], masks[:, :-1], out=edges[:, 1:-1])
    flat = edges.view(-1)
    # numpy's search of a sparse array is several times faster than torch's on a CPU
    places = flat.nonzero()[:, 0] if flat.is_cuda else torch.from_numpy(np.flatnonzero(flat))
    mask, place = places // ((rows + 1) * columns), places % ((rows + 1) * columns)
    place = (place % columns + left) * height + place // columns + top
    apart = height * width + 1  # (mask, column, row) as one number
    starts = (mask * apart + place).sort().values.cpu().numpy()
    bounds = np.searchsorted(starts, np.arange(1, n) * apart)
    return [_joined(part % apart) for part in np.split(starts, bounds)]


def _joined(places: np.ndarray) -> np.ndarray:
    """Without the ends at which the next run starts: at the bottom of a column."""
    meets = np.zeros(len(places) + 1, bool)  # place i - 1 and place i
    meets[1:-1] = places[1:] == places[:-1]
    return places[~(meets[1:] | meets[:-1])]


def encode_masks(masks: Tensor) -> list[dict]:
    """(D,h,w) bool on any device -> D compressed COCO RLEs {"size": [h, w], "counts": str}."""
    return MaskRuns.of(masks).to_coco()
