"""Losses per instance from areas: logits, target and weight (N,H,W), the last two in [0,1] -> (N,)
>= 0.

p = sigmoid(logit), g = target, w = weight; sums run over the pixels of one instance:
TP = sum w p g, FP = sum w p (1-g), FN = sum w (1-p) g, TN = sum w (1-p) (1-g).

One minus a ratio of areas is computed as a ratio with the errors FP and FN in its numerator: the
same number, exactly 0 where nothing is wrong, and without cancellation. An instance without any
pixel of positive weight costs 0. Every reduction is per instance: pooling all instances into one
area, as some libraries do, is a different loss.

With g between 0 and 1, products p g are least wrong at a p of 0 or 1, not at p = g (Wang et al.,
NeurIPS 2023): such a loss states soft="not proper".
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from layers.losses.decorators import Soft, region_loss
from layers.losses.terms.stable import absolute_error, focal_bce, log_cosh, mean, power, ratio
from layers.records import Bound

SMOOTH = Bound("[0, inf)")
FACTOR = Bound("(0, inf)", "at 0 errors of that kind would cost nothing")
TVERSKY = (
    "Tversky loss function for image segmentation using 3D fully convolutional deep "
    "networks (Salehi et al., MLMI 2017)"
)


def _soft_of_dice(params: dict[str, Any]) -> Soft:
    return "proper" if params["denominator"] == "squares" else "not proper"


class Areas(NamedTuple):
    """Soft counts of pixels per instance, each (N,)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def areas(logits: Tensor, target: Tensor, weight: Tensor) -> Areas:
    """The errors keep their digits where p rounds to 1; what is right is the rest of the constant
    areas of object and background."""
    inside = weight * target
    outside = weight - inside
    fn, fp = (inside * (-logits).sigmoid()).sum((1, 2)), (outside * logits.sigmoid()).sum((1, 2))
    return Areas(
        (inside.sum((1, 2)) - fn).clamp(min=0), fp, fn, (outside.sum((1, 2)) - fp).clamp(min=0)
    )


@region_loss(
    "dice",
    "1 - Dice coefficient",
    bounds={"smooth": SMOOTH},
    soft=_soft_of_dice,
    source="V-Net (Milletari et al., 3DV 2016), section 3",
)
def dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    denominator: Literal["sum", "squares"] = "sum",
    smooth: float = 1.0,
) -> Tensor:
    """1 - (2 sum w p g + smooth) / (D + smooth).

    denominator   'sum': D = sum w (p + g); 'squares': D = sum w (p^2 + g^2), as V-Net has it
    smooth        >= 0, in pixels; 0 makes an empty target cost 1 for any prediction that is not
                  exactly empty"""
    if denominator == "sum":
        tp, fp, fn, _ = areas(logits, target, weight)
        return ratio(fp + fn, 2 * tp + fp + fn + smooth)
    error = absolute_error(logits, target).square()
    total = (weight * (logits.sigmoid().square() + target.square())).sum((1, 2))
    return ratio((weight * error).sum((1, 2)), total + smooth)


@region_loss(
    "generalized_dice",
    "1 - Dice coefficient over object and background, each weighted by its inverse squared area",
    soft="not proper",
    source="Generalised Dice overlap as a deep learning loss function (Sudre et al., DLMIA 2017)",
)
def generalized_dice(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - 2 sum_l w_l sum p_l g_l / sum_l w_l sum (p_l + g_l) over l = object, background, with w_l
    = 1 / (sum g_l)^2.

    A class without ground truth counts as 1 pixel large, where the paper's weight is infinite."""
    tp, fp, fn, tn = areas(logits, target, weight)
    on, off = ((weight * mask).sum((1, 2)).clamp(min=1).pow(-2) for mask in (target, 1 - target))
    return ratio((on + off) * (fp + fn), on * (2 * tp + fp + fn) + off * (2 * tn + fp + fn))


@region_loss(
    "jaccard",
    "1 - soft IoU",
    bounds={"smooth": SMOOTH},
    soft="not proper",
    source="Optimizing intersection-over-union in deep neural networks (Rahman and Wang, ISVC "
    "2016)",
)
def jaccard(logits: Tensor, target: Tensor, weight: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 - (TP + smooth) / (TP + FP + FN + smooth); smooth >= 0, in pixels."""
    tp, fp, fn, _ = areas(logits, target, weight)
    return ratio(fp + fn, tp + fp + fn + smooth)


@region_loss(
    "tversky",
    "1 - Tversky index: Dice with a weight for each kind of error",
    bounds={"alpha": FACTOR, "beta": FACTOR, "smooth": SMOOTH},
    soft="not proper",
    source=TVERSKY,
)
def tversky(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
) -> Tensor:
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth).

    alpha, beta   > 0, weights of false positives and of false negatives; 0.5 and 0.5 is Dice, 1 and
                  1 is Jaccard
    smooth        >= 0, in pixels"""
    tp, fp, fn, _ = areas(logits, target, weight)
    errors = alpha * fp + beta * fn
    return ratio(errors, tp + errors + smooth)


@region_loss(
    "focal_tversky",
    "a power of 1 - Tversky index",
    bounds={"alpha": FACTOR, "beta": FACTOR, "gamma": Bound("(0, inf)"), "smooth": SMOOTH},
    soft="not proper",
    source="A novel focal Tversky loss function with improved attention U-Net (Abraham and Khan, "
    "ISBI 2019)",
)
def focal_tversky(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1.0,
) -> Tensor:
    """(1 - Tversky index)^gamma per instance; alpha, beta and smooth as in tversky.

    gamma   > 0, the exponent itself. The paper writes the exponent as 1/gamma and takes gamma =
            4/3, which is 0.75 here: below 1 it makes the gradient larger on instances that are
            almost right"""
    return power(tversky(logits, target, weight, alpha=alpha, beta=beta, smooth=smooth), gamma)


@region_loss(
    "log_cosh_dice",
    "log cosh of the Dice loss",
    bounds={"smooth": SMOOTH},
    soft=_soft_of_dice,
    source="A survey of loss functions for semantic segmentation (Jadon, CIBCB 2020)",
)
def log_cosh_dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    denominator: Literal["sum", "squares"] = "sum",
    smooth: float = 1.0,
) -> Tensor:
    """log cosh(dice), about dice^2 / 2; parameters as in dice."""
    return log_cosh(dice(logits, target, weight, denominator=denominator, smooth=smooth))


@region_loss(
    "log_cosh_bce_dice",
    "log cosh of cross-entropy plus Dice loss",
    bounds={"smooth": SMOOTH},
    soft=_soft_of_dice,
    source="after the log-cosh BCE Dice loss that Xin and Sun (ICCC 2021) name; the formula is "
    "this project's reading of the name",
)
def log_cosh_bce_dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    denominator: Literal["sum", "squares"] = "sum",
    smooth: float = 1.0,
) -> Tensor:
    """log cosh(BCE + dice), BCE averaged over the pixels of the instance; parameters as in dice.

    No exact definition of this loss (LCBD) is published in the open, and public code under its name
    leaves the log cosh out. This is the form that goes with log cosh(dice), not a quotation."""
    return log_cosh(
        mean(_bce(logits, target), weight)
        + dice(logits, target, weight, denominator=denominator, smooth=smooth)
    )


@region_loss(
    "unified_focal",
    "focal cross-entropy and focal Tversky loss of object and background in one",
    bounds={
        "mix": Bound("[0, 1]"),
        "delta": Bound("(0, 1)"),
        "gamma": Bound("[0, 1)", "1 - gamma is an exponent above 0"),
    },
    soft="binary only",
    source="Unified Focal loss (Yeung et al., Computerized Medical Imaging and Graphics 2022)",
)
def unified_focal(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    form: Literal["symmetric", "asymmetric"] = "symmetric",
    mix: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
) -> Tensor:
    """mix * Tversky part + (1 - mix) * cross-entropy part, each of two classes, per instance, as in
    the authors' code.

    Cross-entropy part: mean of d_t (1 - p_t)^gamma BCE with d_t = delta on object pixels and 1 -
    delta on background. Tversky part: mean over object and background of (1 - TI)^(1 - gamma), TI =
    TP / (TP + delta FN + (1 - delta) FP) of that class.

    form    'asymmetric': the object keeps its plain cross-entropy (no focusing) and the background
            its plain 1 - TI
    mix     0 to 1, share of the Tversky part (lambda in the paper)
    delta   0 < delta < 1, weight of the object in one part and of false negatives in the other
    gamma   0 <= gamma < 1; 0 has no focusing"""
    symmetric = form == "symmetric"
    focal = focal_bce(logits, target, gamma if symmetric else gamma - gamma * target)  # (N,H,W)
    share = (target * (2 * delta - 1)).add_(1 - delta).mul_(weight)  # w d_t
    entropy = ratio((share * focal).sum((1, 2)), weight.sum((1, 2)))
    tp, fp, fn, tn = areas(logits, target, weight)
    missed = delta * fn + (1 - delta) * fp
    # the background's false negatives are the object's false positives
    invaded = delta * fp + (1 - delta) * fn
    front = power(ratio(missed, tp + missed), 1 - gamma)
    back = power(ratio(invaded, tn + invaded), 1 - gamma if symmetric else 1)
    return mix * (front + back) / 2 + (1 - mix) * entropy


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
