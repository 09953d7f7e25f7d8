"""Losses per pixel: (N,H,W) logits and a (N,H,W) target in [0,1] -> (N,H,W) >= 0. Cropping and
averaging are MaskLoss's (mask.py).

p = sigmoid(logit), t = target, p_t = p where t = 1 and 1 - p where t = 0. Logarithms are taken from
logits: finite, with a gradient, at any logit. Each loss states by `soft` what it does with t
between 0 and 1; those of "binary only" see 0 and 1 only.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from layers.losses.decorators import pixel_loss
from layers.losses.terms.stable import focal_bce, log_cosh
from layers.records import Bound


@pixel_loss(
    "bce",
    "binary cross-entropy",
    soft="proper",
    source="YOLACT (Bolya et al., ICCV 2019), section 3.1",
)
def bce(logits: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1-t) log(1-p), computed from logits: no clamp and a gradient even where p rounds
    to 0 or 1."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@pixel_loss(
    "weighted_bce",
    "cross-entropy, object pixels weighted by alpha and background by 1 - alpha",
    bounds={"alpha": Bound("(0, 1)", "at 0 or 1 one of the two classes would cost nothing")},
    whole_when={"alpha": None},
    soft="proper",
    source="Instance segmentation loss functions (ReasonField Lab / SoftwareMill, 2022), weighted "
    "binary cross-entropy",
)
def weighted_bce(logits: Tensor, target: Tensor, *, alpha: float | None = None) -> Tensor:
    """-alpha t log p - (1-alpha) (1-t) log(1-p).

    alpha   weight of object pixels, 0 < alpha < 1. None: the background's share of the instance's
            map, so that both classes weigh the same over the whole map; then a target without an
            object pixel, or without background, costs nothing
    For t between 0 and 1 it is alpha t + (1-alpha) (1-t) times BCE, which is least at p = t.
    A positive-class weight w, as pos_weight of other libraries, is
    (1+w)*weighted_bce(alpha=w/(1+w))."""
    share = 1 - target.mean((1, 2), keepdim=True) if alpha is None else alpha  # (N,1,1)
    return (target * share + (1 - target) * (1 - share)) * bce(logits, target)


@pixel_loss(
    "focal",
    "cross-entropy, pixels that are right already weighted down",
    bounds={
        "alpha": Bound("(0, 1)", "alpha=None weights both classes by 1"),
        "gamma": Bound("[0, inf)"),
    },
    soft="binary only",
    source="Focal Loss for Dense Object Detection (Lin et al., ICCV 2017), equation 5",
)
def focal(
    logits: Tensor, target: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, with alpha_t = alpha on object pixels and 1 - alpha on
    background; None: alpha_t = 1.

    gamma   >= 0; 0 is weighted cross-entropy
    p_t has two cases, so targets between 0 and 1 are cut at 0.5."""
    value = focal_bce(logits, target, gamma)
    return value if alpha is None else value * (target * alpha + (1 - target) * (1 - alpha))


@pixel_loss(
    "mse",
    "squared error of probabilities",
    soft="proper",
    source="Brier, Verification of forecasts expressed in terms of probability, 1950, for two "
    "classes and one of them counted",
)
def mse(logits: Tensor, target: Tensor) -> Tensor:
    """(p - t)^2."""
    return F.mse_loss(logits.sigmoid(), target, reduction="none")


@pixel_loss(
    "l1",
    "absolute error of probabilities",
    soft="proper",
    source="Robust loss functions under label noise for deep neural networks (Ghosh et al., AAAI "
    "2017), half of MAE",
)
def l1(logits: Tensor, target: Tensor) -> Tensor:
    """|p - t|."""
    return F.l1_loss(logits.sigmoid(), target, reduction="none")


@pixel_loss(
    "smooth_l1",
    "absolute error of probabilities, squared below beta",
    soft="proper",
    source="Fast R-CNN (Girshick, ICCV 2015), equation 3",
    bounds={
        "beta": Bound(
            "(0, 1)",
            "probabilities differ by at most 1, so with beta >= 1 it is MSE/(2 beta): use mse",
        )
    },
)
def smooth_l1(logits: Tensor, target: Tensor, *, beta: float = 0.1) -> Tensor:
    """e = p - t: e^2 / (2 beta) where |e| < beta, else |e| - beta/2. The same as huber(delta=beta)
    / beta."""
    return F.smooth_l1_loss(logits.sigmoid(), target, reduction="none", beta=beta)


@pixel_loss(
    "huber",
    "squared error of probabilities, linear beyond delta",
    soft="proper",
    source="Huber, Robust estimation of a location parameter, 1964",
    bounds={
        "delta": Bound(
            "(0, 1)",
            "probabilities differ by at most 1, so with delta >= 1 it is exactly MSE/2: use "
            "0.5*mse",
        )
    },
)
def huber(logits: Tensor, target: Tensor, *, delta: float = 0.5) -> Tensor:
    """e = p - t: e^2 / 2 where |e| <= delta, else delta (|e| - delta/2)."""
    return F.huber_loss(logits.sigmoid(), target, reduction="none", delta=delta)


@pixel_loss(
    "log_cosh_bce",
    "log cosh of the cross-entropy of each pixel",
    soft="proper",
    source="YolactLossSurvey (github.com/selamikarakas/YolactLossSurvey), in a form that cannot "
    "overflow",
)
def log_cosh_bce(logits: Tensor, target: Tensor) -> Tensor:
    """log cosh(BCE): about BCE^2 / 2 where it is small, BCE - log 2 where it is large."""
    return log_cosh(bce(logits, target))
