"""Feature pyramid P3..P7 (Lin et al. 2017) in YOLACT's variant."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from yolact.carafe import Carafe


class FPN(nn.Module):
    """C3, C4, C5 -> P3..P7, all of `channels` channels.

    Top-down sums are upsampled to the exact size of the next level, which need not be twice as
    large: bilinearly, or by CARAFE, whose last row and column are cut off there. P3..P5 end in a
    ReLU; P6 is a stride-2 convolution of P5 after that ReLU, P7 one of P6, and neither has a ReLU:
    this is how the published models were trained. Index 0 of lat_layers, pred_layers and
    upsample_layers is C5, as in the official checkpoints.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int],
        channels: int,
        *,
        norm: str = "none",
        upsample: str = "bilinear",
    ):
        super().__init__()
        top_down = tuple(reversed(in_channels))
        self.lat_layers = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in top_down)
        self.pred_layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in top_down
        )
        self.downsample_layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2)
        )
        self.upsample_layers = (
            nn.ModuleList(Carafe(channels) for _ in top_down[1:]) if upsample == "carafe" else None
        )
        # Norms are modules of their own, beside the convolutions, so that the convolutions keep
        # their official names.
        self.lat_norms = nn.ModuleList(norm_layer(norm, channels) for _ in top_down)
        self.pred_norms = nn.ModuleList(norm_layer(norm, channels) for _ in top_down)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] -> [P3, P4, P5, P6, P7]."""
        pyramid: list[Tensor] = []  # P5 first
        top = None
        for feature, lateral, lateral_norm, smooth, smooth_norm in zip(
            reversed(features),
            self.lat_layers,
            self.lat_norms,
            self.pred_layers,
            self.pred_norms,
            strict=True,
        ):
            merged = lateral_norm(lateral(feature))
            if top is not None:
                size = (feature.shape[-2], feature.shape[-1])
                merged = merged + self._upsample(top, len(pyramid) - 1, size)
            top = merged
            pyramid.append(F.relu(smooth_norm(smooth(merged)), inplace=True))
        pyramid.reverse()
        for halve in self.downsample_layers:
            pyramid.append(halve(pyramid[-1]))
        return pyramid

    def _upsample(self, top: Tensor, index: int, size: tuple[int, int]) -> Tensor:
        if self.upsample_layers is None:
            return F.interpolate(top, size=size, mode="bilinear", align_corners=False)
        return self.upsample_layers[index](top)[..., : size[0], : size[1]]


def norm_layer(norm: str, channels: int) -> nn.Module:
    """'none', 'group' or 'batch' -> a normalisation over `channels`. Groups hold 8 channels or more
    where the count divides so."""
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)
    raise ValueError(f"norm={norm!r} is not one of none, group, batch")
