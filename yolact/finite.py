"""Numbers that are not finite: NaN and infinities in weights and in what a network returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from yolact.outputs import Predictions

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


class Diverged(ValueError):
    """A network whose weights or outputs are not finite: nothing can be measured or drawn of it."""


def diverged_weights(model: nn.Module) -> str:
    """Says that a network has diverged and which of its weights shows it first; '' where all are
    finite."""
    wrong = not_finite(model.state_dict().items())
    return f"{DIVERGED}: its weights are not finite, first {wrong}" if wrong else ""


def refuse_diverged(predictions: Predictions, model: nn.Module, precision: str) -> None:
    """Diverged where a network's predictions are not finite; it names the first weight that is not,
    or else the first output. precision: of the forward pass."""
    outputs = {
        "box_deltas": predictions.box_deltas,
        "class_logits": predictions.class_logits,
        "mask_coeffs": predictions.mask_coeffs,
        "prototypes": predictions.prototypes,
    }
    # one wait for the device; finite numbers may overflow here, so that the rest looks again
    total = sum(value.sum(dtype=torch.float32) for value in outputs.values())
    if bool(torch.isfinite(torch.as_tensor(total))):
        return
    wrong = not_finite(outputs.items())
    if not wrong:
        return
    weights = diverged_weights(model)
    narrow = "" if precision == "float32" else f", in {precision}: try float32"
    raise Diverged(weights or f"{DIVERGED}: of finite weights, its output {wrong}{narrow}")
