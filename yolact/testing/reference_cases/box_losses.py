"""IoU losses of boxes: torchvision's, in float64 and float32.

The numbers lie beside `root`, in assigners_losses/6_box_losses: pairs of boxes that overlap,
contain, touch and miss each other, in pixels and in units of the image, and boxes without area.
Where torchvision's own value or gradient is NaN, only finiteness is compared.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layers.losses.box import ciou, diou, giou
from yolact.testing.reference_cases import Case

LOSSES = {"giou": giou, "diou": diou, "ciou": ciou}
# relative, but values below 1 absolutely; gradients relative to the largest entry of their pair
TOLERANCES = {"": 1e-12, "_f32": 2e-6}

NOT_OFFERED = {
    "box losses of mmdet: gradient of ciou": "differentiates through the weight alpha, which the "
    "paper and torchvision hold constant",
}


def cases(root: Path) -> list[Case]:
    path = root.parent / "assigners_losses" / "6_box_losses" / "box_losses.npz"
    if not path.exists():
        return []
    found = []
    for name in LOSSES:
        for suffix, tolerance in TOLERANCES.items():
            found.append(
                Case(
                    f"box loss {name}{suffix}: values",
                    partial(_values_error, path, name, suffix),
                    tolerance,
                )
            )
            found.append(
                Case(
                    f"box loss {name}{suffix}: gradients",
                    partial(_gradients_error, path, name, suffix),
                    tolerance,
                )
            )
        found.append(Case(f"box loss {name}: finite", partial(_not_finite, path, name), 0))
    return found


def _computed(path: Path, name: str, suffix: str) -> tuple[dict, Tensor, Tensor]:
    """The stored arrays, our values (P,) and the gradient of their sum (P,4)."""
    arrays = np.load(path)
    dtype = torch.float32 if suffix else torch.float64
    predicted = torch.from_numpy(arrays["pred"]).to(dtype).requires_grad_()
    values = LOSSES[name](predicted, torch.from_numpy(arrays["target"]).to(dtype)).sum(1)
    (gradient,) = torch.autograd.grad(values.sum(), predicted)
    return arrays, values.detach(), gradient


def _values_error(path: Path, name: str, suffix: str) -> float:
    arrays, ours, _ = _computed(path, name, suffix)
    theirs = torch.from_numpy(arrays[f"tv_{name}{suffix}"])
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1))[~theirs.isnan()].max())


def _gradients_error(path: Path, name: str, suffix: str) -> float:
    arrays, _, ours = _computed(path, name, suffix)
    theirs = torch.from_numpy(arrays[f"tv_{name}_grad{suffix}"])
    error = (ours - theirs).abs() / theirs.abs().nan_to_num().amax(1, keepdim=True).clamp(min=1e-6)
    return float(error[~theirs.isnan()].max())


def _not_finite(path: Path, name: str) -> int:
    wrong = 0
    for suffix in TOLERANCES:
        _, values, gradient = _computed(path, name, suffix)
        wrong += int((~values.isfinite()).sum() + (~gradient.isfinite()).sum())
    return wrong
