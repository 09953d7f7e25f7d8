"""Loss forms of the YOLACT mask-loss survey's published code
(github.com/selamikarakas/YolactLossSurvey), for replaying its figures only.

All are per pixel, from p = sigmoid(logit): where p rounds to 0 or 1, they see nothing of the logit.
The "Dice" is no area ratio: use dice, log_cosh_dice, log_cosh_bce and huber for the losses that the
names promise. The survey's MSE and BCE are mse and bce here, its crop is outside='charge', and its
second term of a combination is region='image', rescale=False.

unsummed=True, of three of them, replays what its code does when they are that second term: it
leaves the pixels of all instances unsummed and takes their mean at the very end, so the term is
divided once more by all pixels of all instances. It ran with one image a batch only.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from layers.losses.decorators import pixel_loss
from layers.losses.terms.stable import clamped_bce, log_cosh
from layers.records import Bound

SMOOTH = 0.1
SOURCE = "YolactLossSurvey, commit 2d73b33"
UNSUMMED = {"unsummed": True}


@pixel_loss(
    "survey_dice",
    "survey replay: a Dice-like error of each single pixel",
    soft="binary only",
    source=SOURCE,
    pooled_when=UNSUMMED,
)
def survey_dice(logits: Tensor, target: Tensor, *, unsummed: bool = False) -> Tensor:
    """1 - (2 p t + 0.1) / (p + t + 0.1), without any sum."""
    return _shared(_dice(logits, target), unsummed)


@pixel_loss(
    "survey_log_cosh_dice",
    "survey replay: log cosh of the Dice-like error of each single pixel",
    soft="binary only",
    source=SOURCE,
    pooled_when=UNSUMMED,
)
def survey_log_cosh_dice(logits: Tensor, target: Tensor, *, unsummed: bool = False) -> Tensor:
    """log cosh of survey_dice."""
    return _shared(log_cosh(_dice(logits, target)), unsummed)


@pixel_loss(
    "survey_log_cosh_bce",
    "survey replay: log cosh of each pixel's cross-entropy from clamped probabilities",
    soft="proper",
    source=SOURCE,
    pooled_when=UNSUMMED,
)
def survey_log_cosh_bce(logits: Tensor, target: Tensor, *, unsummed: bool = False) -> Tensor:
    """log cosh of -t log p - (1-t) log(1-p), logarithms clamped at -100. The original overflows to
    infinity from 89 on, this does not."""
    return _shared(log_cosh(clamped_bce(logits, target)), unsummed)


@pixel_loss(
    "survey_huber",
    "survey replay: Huber loss with any delta",
    soft="proper",
    source=SOURCE,
    bounds={"delta": Bound("(0, inf)")},
)
def survey_huber(logits: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    """e = p - t: e^2 / 2 where |e| <= delta, else delta (|e| - delta/2).

    Exactly MSE/2 for every delta >= 1: the survey's deltas 1, 1.3, 1.5, 2 and 3 are one loss."""
    return F.huber_loss(logits.sigmoid(), target, reduction="none", delta=delta)


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    # p + t - 2 p t = |p - t|, t being 0 or 1
    return F.l1_loss(p, target, reduction="none") / (p + target + SMOOTH)


def _shared(pixels: Tensor, unsummed: bool) -> Tensor:
    return pixels / pixels.numel() if unsummed else pixels
