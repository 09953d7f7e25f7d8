"""A copy of a model that is made to predict: batch norm folded into convolutions, weights in the
layout and type of its products. The model itself is left as it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from yolact.dcn import DeformConv2d
from yolact.engine.precision import AUTOCAST, Choice
from yolact.model import Yolact


def prepared(model: Yolact, choice: Choice) -> Yolact:
    """A copy of `model` in evaluation mode for `choice`; the model itself where nothing changes.

    Weights of plain convolutions are stored in the autocast type, which would cast them in every
    forward pass. The mask-IoU net computes in float32, as detection does.
    """
    if not (choice.folded or choice.channels_last):
        return model
    made = copy.deepcopy(model).eval()
    made.requires_grad_(False)
    if choice.folded:
        fold_batchnorm(made)
    if choice.channels_last:
        made.to(memory_format=torch.channels_last)
    dtype = AUTOCAST[choice.precision]
    if dtype is not None:
        for name, module in made.named_modules():
            if isinstance(module, nn.Conv2d) and not _in_float32(name):
                module.to(dtype)
    return made


def _in_float32(name: str) -> bool:
    return name.startswith("maskiou_net.") or name.endswith(".conv_offset_mask")


@torch.no_grad()
def fold_batchnorm(module: nn.Module) -> None:
    """Multiplies batch norm with running statistics into the convolutions before it, in place.

    y = (w x + b - m) g / s + c is a convolution with w g / s and (b - m) g / s + c, where s =
    sqrt(v + eps). Pairs are convN and bnN of a block, and neighbours in a Sequential.
    """
    children = dict(module.named_children())
    names = list(children)
    for name, child in children.items():
        fold_batchnorm(child)
        if not isinstance(child, (nn.Conv2d, DeformConv2d)):
            continue
        after = name.replace("conv", "bn")
        if isinstance(module, nn.Sequential):
            after = names[min(names.index(name) + 1, len(names) - 1)]
        norm = children.get(after)
        if isinstance(norm, nn.BatchNorm2d):
            _fold(child, norm)
            setattr(module, after, nn.Identity())


def _fold(conv: nn.Conv2d | DeformConv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    # in float64, and rounded once
    factor = norm.weight.double() / (variance.double() + norm.eps).sqrt()  # (O,)
    bias: Tensor = torch.zeros_like(mean) if conv.bias is None else conv.bias
    conv.weight.copy_(conv.weight.double() * factor[:, None, None, None])
    moved = (bias.double() - mean.double()) * factor + norm.bias.double()
    conv.bias = nn.Parameter(moved.to(conv.weight.dtype), requires_grad=False)
