"""Targets: the ground truth of one image, as the criterion and the assigners read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.extras import EXTRAS

ExtraKey = tuple[str, tuple[int, int]]  # the name of an extra, and the (h, w) of the masks it is of


@dataclass
class Targets:
    """Ground truth of one image: M instances, network input size S x S.

    boxes   (M,4) float, XYXY relative to the input (0..1)
    labels  (M,) int64, 0-based foreground class
    crowd   (M,) bool, regions that are neither positive nor negative
    masks   (M,S,S) bool at network input size, or None once only reduced masks are carried
    reduced masks (M,h,w) bool by size (h, w): read them by mask_at
    extras  what some losses read beside masks, by (name, (h, w)): read them by extra_at
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    masks: Tensor | None = None
    reduced: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    extras: dict[ExtraKey, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def mask_at(self, height: int, width: int) -> Tensor:
        """(M,height,width) bool: the masks resized bilinearly (align_corners=False, no antialias),
        then > 0.5."""
        size = (height, width)
        if size not in self.reduced:
            if self.masks is None:
                carried = ", ".join(f"{h}x{w}" for h, w in self.reduced) or "none"
                raise ValueError(
                    f"these targets carry no full-size masks and none at {height}x{width} "
                    f"(carried: {carried}): call reduce() with every size that the losses need"
                )
            self.reduced[size] = resize_masks(self.masks, size)
        return self.reduced[size]

    def extra_at(self, name: str, height: int, width: int) -> Tensor:
        """(M,...): the extra of that name made of mask_at(height, width), or of the masks at
        network input size where it is a full one, see layers/extras.py.

        Extras are made on the host, so ValueError if the masks are on a device and the extra is not
        carried, or if a full one is not carried and the full-size masks are gone; also for an
        unknown name."""
        key = (name, (height, width))
        if key not in self.extras:
            made_by = EXTRAS.get(name)
            masks = self.masks if made_by.full else self.mask_at(height, width)
            if masks is None:
                raise ValueError(
                    f"these targets carry no full-size masks, which {name} is made of, and no "
                    f"{name} at {height}x{width}: call reduce(extras=[{key}]) on whole targets"
                )
            if masks.device.type != "cpu":
                raise ValueError(
                    f"these targets carry no {name} at {height}x{width}, and it is made on the "
                    f"host: call reduce(extras=[{key}]) before moving them, as "
                    "build_dataset(extras=...) does"
                )
            self.extras[key] = made_by.of(masks, (height, width))
        return self.extras[key]

    def reduce(
        self,
        sizes: Iterable[tuple[int, int]],
        *,
        keep_full: bool,
        extras: Iterable[ExtraKey] = (),
    ) -> Targets:
        """The same targets with masks at `sizes` and the `extras` computed now, and the full-size
        masks dropped unless keep_full."""
        reduced = {(h, w): self.mask_at(h, w) for h, w in sizes}
        made = {(name, (h, w)): self.extra_at(name, h, w) for name, (h, w) in extras}
        return Targets(
            self.boxes, self.labels, self.crowd, self.masks if keep_full else None, reduced, made
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Targets:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Targets:
        return self._map(lambda t: t.pin_memory())

    def _map(self, move) -> Targets:
        return Targets(
            move(self.boxes),
            move(self.labels),
            move(self.crowd),
            None if self.masks is None else move(self.masks),
            {size: move(masks) for size, masks in self.reduced.items()},
            {key: move(values) for key, values in self.extras.items()},
        )


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(M,H,W) bool -> (M,h,w) bool: bilinear, align_corners=False, no antialias, > 0.5."""
    if masks.shape[1:] == size:
        return masks
    if masks.shape[0] == 0:
        return masks.new_zeros((0, *size), dtype=torch.bool)
    # a few at a time, in one buffer: their float copies stay in the cache, and no memory is asked
    # for anew, which is several times as fast for 60 masks at 550 px
    buffer = torch.empty((4, *masks.shape[1:]), device=masks.device)
    return torch.cat(
        [
            F.interpolate(
                buffer[: len(some)].copy_(some)[None], size, mode="bilinear", align_corners=False
            )[0]
            > 0.5
            for some in masks.split(4)
        ]
    )
