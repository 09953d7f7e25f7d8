"""Masks as COCO's run lengths."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

_PIXELS_AT_ONCE = 64 << 20  # mask pixels compared at a time while they are encoded


def encode_masks(masks: Tensor) -> list[dict]:
    """(D,h,w) bool on any device -> D compressed COCO RLEs {"size": [h, w], "counts": str}.

    COCO counts runs down the columns. Runs are found where the masks lie, by comparing each pixel
    with the one before it; only the few places where they differ are sorted into column order and
    leave the device, so that neither a transposed copy nor the masks do.
    """
    d, h, w = masks.shape
    step = max(1, _PIXELS_AT_ONCE // max(1, h * w))
    runs = []
    for part in masks.split(step) if d else ():
        edges = torch.empty_like(part)
        torch.logical_xor(part[:, 1:], part[:, :-1], out=edges[:, 1:])
        # the top of a column follows the bottom of the last
        torch.logical_xor(part[:, 0, 1:], part[:, -1, :-1], out=edges[:, 0, 1:])
        # counts start with a run of zeros, empty where the first pixel is set
        edges[:, 0, 0] = part[:, 0, 0]
        flat = edges.view(-1)
        # numpy's search of a sparse array is several times faster than torch's on a CPU
        places = (
            flat.nonzero()[:, 0] if flat.is_cuda else torch.from_numpy(np.flatnonzero(flat.numpy()))
        )
        mask, pixel = places // (h * w), places % (h * w)
        # (mask, column, row) as one number
        starts = (mask * (h * w) + pixel % w * h + pixel // w).sort().values.cpu().numpy()
        bounds = np.searchsorted(starts, np.arange(1, len(part)) * (h * w))
        runs += [
            np.diff(s % (h * w), prepend=0, append=h * w).tolist() for s in np.split(starts, bounds)
        ]
    encoded = (
        coco_mask.frPyObjects([{"size": [h, w], "counts": counts} for counts in runs], h, w)
        if runs
        else []
    )
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]
