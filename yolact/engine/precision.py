"""The types of a forward pass: float32, or a half type by autocast. What follows the network
computes in float32."""

from __future__ import annotations

import torch

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass on `device` at a precision of AUTOCAST; float32 does
    nothing."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
