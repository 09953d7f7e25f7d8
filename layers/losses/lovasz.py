"""The Lovász extension of the Jaccard loss: a convex surrogate of 1 - IoU, per instance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from layers.losses.registry import region_loss
from layers.losses.stable import absolute_error, ratio


@region_loss("lovasz", "Lovász extension of 1 - IoU, of hinge errors or of errors of probabilities",
             source="The Lovász-Softmax loss (Berman et al., CVPR 2018)")
def lovasz(logits: Tensor, target: Tensor, weight: Tensor, *, kind: Literal["hinge", "softmax"] = "hinge") -> Tensor:
    """sum_k e_k (J_k - J_(k-1)): errors e in falling order, J_k the Jaccard loss if exactly the k largest errors were wrong pixels.

    kind     'hinge': e = max(0, 1 - logit) on object pixels and max(0, 1 + logit) on background, Jaccard loss of the object
             'softmax': e = |p - g|, averaged over those of object and background that the target has, as two-class Lovász-Softmax
    weight   a pixel counts by its weight in every area, so pixels of weight 0 do not count
    J is a constant of the differentiation. Where errors tie, their order does not change the value, but which pixel gets which gradient."""
    g, w = target.flatten(1), weight.flatten(1)  # (N,HW)
    x = logits.flatten(1)
    errors = (1 - x * (2 * g - 1)).relu() if kind == "hinge" else absolute_error(x, g)
    errors, order = errors.sort(dim=1, descending=True)
    on, off = (mask.gather(1, order) for mask in (w * g, w * (1 - g)))  # weights of object and background pixels, largest error first
    front = (errors * _increments(on, off)).sum(1)
    if kind == "hinge":
        return front
    back = (errors * _increments(off, on)).sum(1)
    has_front, has_back = ((mask.sum(1) > 0).to(errors.dtype) for mask in (on, off))
    return ratio(has_front * front + has_back * back, has_front + has_back)


def _increments(member: Tensor, other: Tensor) -> Tensor:
    """Growth (N,HW) of the Jaccard loss with each further wrong pixel. member, other: weights of the class' pixels and of the rest."""
    missed, added = member.cumsum(1), other.cumsum(1)
    loss = ratio(missed + added, member.sum(1, keepdim=True) + added)
    return torch.cat((loss[:, :1], loss.diff(dim=1)), 1)
