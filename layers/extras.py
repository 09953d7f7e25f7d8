"""Extras: what a mask loss reads of a ground truth beside its mask, such as distances to its
boundary.

An extra is one function of masks, registered beside the losses that need it. It is computed once
per ground truth, on the CPU, where data is loaded; Targets carry it, and the criterion hands each
instance its own.

    @extra("distance", "signed distance to the boundary, in pixels")
    def signed_distance_map(masks): ...               # (M,h,w) bool -> (M,h,w)

    @pixel_loss("boundary", "...", needs=("distance",))
    def boundary(logits, target, *, distance): ...    # distance (N,H,W)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from layers.records import Fn, Record, Registry


@dataclass(frozen=True)
class Extra(Record):
    """What is known about a registered extra: a Record whose function makes masks (M,h,w) bool on
    the CPU into (M,...), one entry an instance, and

    dtype   what its values are carried as; floats reach the loss in the type of its logits
    """

    dtype: torch.dtype = torch.float32

    def of(self, masks: Tensor) -> Tensor:
        """masks (M,h,w) bool -> (M,...). ValueError where the function gives something else."""
        value = self.function(masks)
        if not isinstance(value, Tensor) or value.shape[:1] != masks.shape[:1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the extra {self.name!r} must give a tensor of {masks.shape[0]} entries, one a "
                f"mask, got {got}"
            )
        return value.to(self.dtype)


EXTRAS = Registry("extra", Extra)


def extra(
    name: str, summary: str = "", *, dtype: torch.dtype = torch.float32
) -> Callable[[Fn], Fn]:
    """Register fn(masks) as an extra; losses ask for it by `needs` and a keyword-only parameter of
    that name. The arguments are fields of Extra.

    One of the same name and module is replaced, as when a notebook's cell runs again. ValueError if
    another module has the name."""
    return lambda function: EXTRAS.register(
        function, ("masks",), name=name, summary=summary, dtype=dtype
    )


def make_extras(needs: Iterable[str], masks: Tensor) -> dict[str, Tensor]:
    """{name: (M,...)} of what a loss needs beside masks (M,h,w) bool. ValueError for an unknown
    name."""
    return {name: EXTRAS.get(name).of(masks) for name in needs}
