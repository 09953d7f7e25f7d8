"""Extras: what a mask loss reads of a ground truth beside its mask, such as distances to its
boundary.

An extra is one function of masks, registered beside the losses that need it. It is computed once
per ground truth, on the CPU, where data is loaded; Targets carry it, and the criterion hands each
instance its own.

    @extra("distance", "signed distance to the boundary, in pixels")
    def signed_distance_map(masks): ...               # (M,h,w) bool -> (M,h,w)

    @pixel_loss("boundary", "...", needs=("distance",))
    def boundary(logits, target, *, distance): ...    # distance (N,H,W)

A full extra reads the masks at network input size instead, and the size of the mask target:

    @extra("coverage", "share of each cell", full=True)
    def coverage(masks, size): ...                    # (M,S,S) bool, (h,w) -> (M,h,w)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.records import Fn, Record, Registry

COVERAGE = "coverage"
COVERED = 255  # what a cell that the mask covers wholly is carried as


@dataclass(frozen=True)
class Extra(Record):
    """What is known about a registered extra: a Record whose function makes masks (M,h,w) bool on
    the CPU into (M,...), one entry an instance, and

    dtype      what its values are carried as; floats reach the loss in the type of its logits
    full       the function reads masks (M,S,S) at network input size, and the size (h,w) wanted
    subpixel   name of the full extra that takes its place where mask targets are coverages
    """

    dtype: torch.dtype = torch.float32
    full: bool = False
    subpixel: str = ""

    def of(self, masks: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """masks (M,h,w) bool -> (M,...); a full extra is made for `size`, default that of the
        masks. ValueError where the function gives something else."""
        height, width = size or masks.shape[-2:]
        value = self.function(masks, (height, width)) if self.full else self.function(masks)
        if not isinstance(value, Tensor) or value.shape[:1] != masks.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the extra {self.name!r} must give a tensor of {masks.shape[0]} entries, one a "
                f"mask, got {got}"
            )
        return value.to(self.dtype)


EXTRAS = Registry("extra", Extra)


def extra(
    name: str,
    summary: str = "",
    *,
    dtype: torch.dtype = torch.float32,
    full: bool = False,
    subpixel: str = "",
) -> Callable[[Fn], Fn]:
    """Register fn(masks), or fn(masks, size) for a full one, as an extra; losses ask for it by
    `needs` and a keyword-only parameter of that name. The arguments are fields of Extra.

    One of the same name and module is replaced, as when a notebook's cell runs again. ValueError if
    another module has the name."""
    return lambda function: EXTRAS.register(
        function,
        ("masks", "size") if full else ("masks",),
        name=name,
        summary=summary,
        dtype=dtype,
        full=full,
        subpixel=subpixel,
    )


@extra(
    COVERAGE,
    "share of each cell that the mask covers, in steps of 1/255",
    dtype=torch.uint8,
    full=True,
)
def coverage(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """masks (M,S,S) bool -> (M,h,w) in 0..COVERED: the mean of the mask over the pixels that each
    cell touches (adaptive average pooling), rounded, so off by at most 1/510 of a cell."""
    if masks.shape[0] == 0:
        return masks.new_zeros((0, *size), dtype=torch.uint8)
    if masks.shape[1:] == size:
        return masks * COVERED
    # a few at a time, as layers.targets.resize_masks
    return torch.cat(
        [
            (F.adaptive_avg_pool2d(some.float(), size) * COVERED).round().to(torch.uint8)
            for some in masks.split(4)
        ]
    )


def make_extras(needs: Iterable[str], masks: Tensor) -> dict[str, Tensor]:
    """{name: (M,...)} of what a loss needs beside masks (M,h,w) bool. ValueError for an unknown
    name."""
    return {name: EXTRAS.get(name).of(masks) for name in needs}
