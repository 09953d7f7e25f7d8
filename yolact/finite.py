"""Numbers that are not finite: NaN and infinities in weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

DIVERGED = "the model has diverged"


def not_finite(tensors: Iterable[tuple[str, Any]]) -> str:
    """The first of the named tensors with NaN or infinity and what it holds, as "fc.weight (3 of 8
    values are NaN or infinite)"; '' where all are finite. What is no tensor is passed over, and one
    that is not dense counts as not finite."""
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided or tensor.is_quantized:
            return f"{name} (sparse or quantized)"
        if tensor.is_floating_point() or tensor.is_complex():
            finite = torch.isfinite(tensor)
            if not bool(finite.all()):
                wrong = int((~finite).sum())
                return f"{name} ({wrong} of {tensor.numel()} values are NaN or infinite)"
    return ""
