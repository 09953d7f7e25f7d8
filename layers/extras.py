"""Extras: what a mask loss reads of a ground truth beside its mask, such as distances to its boundary.

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

from layers.names import unknown_name

_extras: dict[str, Extra] = {}


@dataclass(frozen=True)
class Extra:
    """What is known about a registered extra.

    name      how losses ask for it, by `needs` and a keyword-only parameter
    summary   one line for listings
    function  masks (M,h,w) bool on the CPU -> (M,...), one entry an instance
    dtype     what its values are carried as; floats reach the loss in the type of its logits
    """

    name: str
    summary: str
    function: Callable[[Tensor], Tensor]
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


def extra(
    name: str, summary: str = "", *, dtype: torch.dtype = torch.float32
) -> Callable[[Callable], Callable]:
    """Register a function of masks as an extra; the arguments are fields of Extra.

    The same function may register again, as a cell of a notebook that runs twice does. ValueError
    if another one has the name."""
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be an extra: losses take it as a parameter of that name")

    def register(function: Callable) -> Callable:
        taken = _extras.get(name)
        if taken is not None and _place(taken.function) != _place(function):
            raise ValueError(
                f"the extra {name!r} is made by {'.'.join(_place(taken.function))}: choose another "
                "name"
            )
        _extras[name] = Extra(name, summary, function, dtype)
        return function

    return register


def get_extra(name: str) -> Extra:
    """The record of an extra; ValueError names the nearest ones."""
    if name not in _extras:
        raise ValueError(unknown_name("extra", name, _extras))
    return _extras[name]


def extra_names() -> list[str]:
    """Sorted names of the registered extras."""
    return sorted(_extras)


def make_extras(needs: Iterable[str], masks: Tensor) -> dict[str, Tensor]:
    """{name: (M,...)} of what a loss needs beside masks (M,h,w) bool. ValueError for an unknown
    name."""
    return {name: get_extra(name).of(masks) for name in needs}


def _place(function: Callable) -> tuple[str, str]:
    return function.__module__, function.__qualname__
