"""Losses per pixel: (N,H,W) logits and a (N,H,W) target in {0,1} -> (N,H,W) >= 0. Cropping and averaging are MaskLoss's (mask.py)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from layers.losses.registry import Bound, pixel_loss


@pixel_loss("bce", "binary cross-entropy", source="YOLACT (Bolya et al., ICCV 2019), section 3.1")
def bce(logits: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1-t) log(1-p), computed from logits: no clamp and a gradient even where p rounds to 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@pixel_loss("mse", "squared error of probabilities")
def mse(logits: Tensor, target: Tensor) -> Tensor:
    """(p - t)^2."""
    return F.mse_loss(logits.sigmoid(), target, reduction="none")


@pixel_loss("huber", "squared error of probabilities, linear beyond delta", source="Huber, Robust estimation of a location parameter, 1964",
            bounds={"delta": Bound("(0, 1)", "probabilities differ by at most 1, so with delta >= 1 it is exactly MSE/2: use 0.5*mse")})
def huber(logits: Tensor, target: Tensor, *, delta: float = 0.5) -> Tensor:
    """e = p - t: e^2 / 2 where |e| <= delta, else delta (|e| - delta/2)."""
    return F.huber_loss(logits.sigmoid(), target, reduction="none", delta=delta)
