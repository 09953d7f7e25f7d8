"""The weighting of Rank & Sort detectors (Oksuz et al., ICCV 2021, section 5; GmaYOLACT): no
weights between the losses to be tuned."""

from __future__ import annotations

import torch
from torch import Tensor

# of a loss that divides: one nearer to 0 is not brought up to the class loss, since hardly anything
# is left of its gradient
LEAST = 1e-6


@torch.no_grad()
def top_probability(class_logits: Tensor, rows: Tensor, *, sigmoid: bool) -> Tensor:
    """(P,) highest class probability of the anchors rows (P,), indices into the flattened (B*A);
    class_logits (B,A,C), or (B,A,1+C) under softmax. What a positive's box and mask loss is
    multiplied by: detections of low score matter little."""
    logits = class_logits.flatten(0, 1).index_select(0, rows)
    return (logits.sigmoid() if sigmoid else logits.softmax(1)[:, 1:]).amax(1)


@torch.no_grad()
def factor_to(wanted: Tensor, value: Tensor) -> Tensor:
    """The factor (0-d) that brings a loss of this value to the size of the wanted one. Its sign
    stays."""
    return wanted / value.abs().clamp(min=LEAST)
