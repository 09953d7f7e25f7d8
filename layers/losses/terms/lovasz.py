"""The Lovász extension of the Jaccard loss: a convex surrogate of 1 - IoU, per instance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from layers.losses.decorators import region_loss
from layers.losses.terms.stable import absolute_error, ratio


@region_loss(
    "lovasz",
    "Lovász extension of 1 - IoU, of hinge errors or of errors of probabilities",
    soft=lambda params: "proper" if params["kind"] == "softmax" else "binary only",
    source="The Lovász-Softmax loss (Berman et al., CVPR 2018)",
)
def lovasz(
    logits: Tensor, target: Tensor, weight: Tensor, *, kind: Literal["hinge", "softmax"] = "hinge"
) -> Tensor:
    """sum_k e_k (J_k - J_(k-1)): errors e in falling order, J_k the Jaccard loss if exactly the k
    largest errors were wrong pixels.

    kind     'hinge': e = max(0, 1 - logit) on object pixels and max(0, 1 + logit) on background,
             Jaccard loss of the object 'softmax': e = |p - g|, averaged over those of object and
             background that the target has, as two-class Lovász-Softmax
    weight   a pixel counts by its weight in every area, so pixels of weight 0 do not count
    A target of g between 0 and 1 counts as g pixels of object and 1 - g of background; hinge errors
    are of 0 and 1 only.
    J is a constant of the differentiation. Where errors tie, their order does not change the value,
    but which pixel gets which gradient."""
    g, w = target.flatten(1), weight.flatten(1)  # (N,HW)
    x = logits.flatten(1)
    errors = (1 - x * (2 * g - 1)).relu() if kind == "hinge" else absolute_error(x, g)
    # equal errors sort fast
    errors, order = errors.masked_fill(w == 0, 0).sort(dim=1, descending=True)
    # weights of object and background, largest error first
    on, off = (mask.gather(1, order).cumsum(1) for mask in (w * g, w * (1 - g)))
    wrong = on + off
    jaccard = ratio(wrong, on[:, -1:] + off)  # (N,HW)
    if kind == "softmax":
        has_object, has_background = ((total[:, -1:] > 0).to(errors.dtype) for total in (on, off))
        share = ratio(torch.ones_like(has_object), has_object + has_background)
        jaccard = jaccard.mul_(has_object * share).add_(
            ratio(wrong, off[:, -1:] + on).mul_(has_background * share)
        )
    return (errors * torch.cat((jaccard[:, :1], jaccard.diff(dim=1)), 1)).sum(1)
