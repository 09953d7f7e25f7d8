"""Photometric distortion: brightness, contrast, saturation, hue and the order of channels.

Every step but contrast changes a pixel by itself. So the pixels go through all steps block by
block, and only those that are seen at the end need to; contrast reads one number of the whole
picture, its mean grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 14  # pixels whose intermediate results stay in a core's cache
GREY = (0.2989, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
RANGES = {
    "brightness": (0.875, 1.125),
    "contrast": (0.5, 1.5),
    "saturation": (0.5, 1.5),
    "hue": (-0.05, 0.05),
}
TOP = 255 + 1 - 1e-3  # levels of 1.0, of which the whole part counts


@dataclass(frozen=True)
class Colours:
    """One draw: the factors, None for a step that is left out; contrast_first: contrast comes
    before saturation and hue, not after; channels: their new order."""

    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    contrast_first: bool
    channels: tuple[int, ...] | None

    @classmethod
    def draw(cls) -> Colours:
        """From torch's default CPU generator, in the order of torchvision's
        RandomPhotometricDistort."""
        factors = {
            name: torch.empty(1).uniform_(low, high).item() if torch.rand(1) < 0.5 else None
            for name, (low, high) in RANGES.items()
        }
        first = bool(torch.rand(()) < 0.5)
        channels = tuple(torch.randperm(3).tolist()) if torch.rand(1) < 0.5 else None
        return cls(**factors, contrast_first=first, channels=channels)

    def grey(self, picture: Tensor) -> Tensor | None:
        """The mean grey (1,) of a picture (3,h,w) uint8, as contrast finds it; None without
        contrast."""
        if self.contrast is None:
            return None
        height, width = picture.shape[1:]
        grey = torch.empty(1, height, width)
        for rows in _blocks(height, width):
            grey[:, rows] = _grey(self._before(picture[:, rows].float().contiguous()))
        return grey.mean()[None]

    def apply(self, pixels: Tensor, grey: Tensor | None, out: Tensor) -> None:
        """Writes the distorted pixels (3,h,w) uint8 to `out`, which may be `pixels`. grey: of the
        picture, by grey()."""
        height, width = pixels.shape[1:]
        for rows in _blocks(height, width):
            block = self._before(pixels[:, rows].float().contiguous())
            if self.contrast is not None:
                assert grey is not None, "contrast needs the picture's mean grey"
                _blend(block, grey, self.contrast)
            if self.contrast_first:
                self._tint(block)
            out[:, rows] = block if self.channels is None else block[list(self.channels)]

    def _before(self, block: Tensor) -> Tensor:
        """What comes before contrast, in place."""
        if self.brightness is not None:
            block.mul_(self.brightness).clamp_(0, 255).floor_()
        if not self.contrast_first:
            self._tint(block)
        return block

    def _tint(self, block: Tensor) -> None:
        if self.saturation is not None:
            _blend(block, _grey(block), self.saturation)
        if self.hue is not None:
            _turn_hue(block, self.hue)


def _blocks(height: int, width: int) -> Iterator[slice]:
    """Rows that make a block."""
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, start + step) for start in range(0, height, step))


# A block is (3,h,w) float32 in whole levels 0..255. The order of operations fixes how they round.


def _grey(block: Tensor) -> Tensor:
    """The grey (h,w) of a block, in whole levels."""
    red, green, blue = block
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).floor_()


def _blend(block: Tensor, grey: Tensor, factor: float) -> None:
    """factor x block + (1 - factor) x grey, in place."""
    block.mul_(factor).add_(grey, alpha=1 - factor).clamp_(0, 255).floor_()


def _turn_hue(block: Tensor, turn: float) -> None:
    """Adds `turn`, in whole circles, to the hue in HSV (Smith, Color gamut transform pairs, 1978),
    in place."""
    levels = block.numpy()  # NumPy compares and selects several times as fast as torch
    shares = levels * (1 / 255)
    red, green, blue = shares
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    saturation = chroma / (value + (value == 0))
    to_red, to_green, to_blue = (value - shares) / (chroma + (chroma == 0))
    is_red = red == value
    is_green = (green == value) & ~is_red
    hue = (to_blue - to_green) * is_red
    hue += (to_red + 2 - to_blue) * is_green
    hue += (to_green + 4 - to_red) * ~(is_red | is_green)
    hue = _part(_part(hue * (1 / 6) + 1) + turn) * 6
    sector = np.floor(hue)
    rest, plain = saturation * (hue - sector), 1 - saturation
    falling, rising = _bytes((1 - rest) * value), _bytes((rest + plain) * value)
    top, low = _bytes(value), _bytes(plain * value)
    sector = (sector * (sector < 6)).astype(np.uint8)
    at = [_mask(sector == number) for number in range(6)]
    falls = at[1] | at[3] | at[5]
    between = (falling & falls) | (rising & ~falls)
    # around the circle a channel is highest in two sectors, then between, lowest in two, between
    for channel, first in zip(levels, (5, 1, 3)):
        after = [at[(first + step) % 6] for step in range(6)]
        channel[:] = (
            (top & (after[0] | after[1]))
            | (between & (after[2] | after[5]))
            | (low & (after[3] | after[4]))
        )


def _part(turns: np.ndarray) -> np.ndarray:
    """What is beyond whole circles."""
    return turns - np.floor(turns)


def _bytes(shares: np.ndarray) -> np.ndarray:
    """Shares of 1 in levels, rounded as torchvision's to_dtype()."""
    return (shares * TOP).astype(np.uint8)


def _mask(condition: np.ndarray) -> np.ndarray:
    """255 where a condition holds, else 0."""
    return np.negative(condition.view(np.uint8))
