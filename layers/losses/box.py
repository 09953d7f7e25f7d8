"""Box losses: what the predicted box of a positive anchor costs. The registry, smooth L1 on
offsets, and the IoU losses on boxes.

P positives. A function of kind "offsets" reads predicted and wanted offsets (P,4), one of kind
"corners" predicted and matched boxes (P,4), corners in input pixels. It returns (P,n), the parts
that a positive's loss is the sum of.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.boxes import CENTER_VARIANCE, SIZE_VARIANCE, area, decode, encode
from layers.losses.expr import Call
from layers.records import Bound, Chosen, Fn, Record, Registry

EPS = 1e-7  # square pixels added to areas that divide, as in torchvision
# anchor sides by which, and factor by which, a box whose IoU is taken may differ from its anchor
FARTHEST = 1000.0

BOX_LOSSES = Registry("box loss", Record)


def box_loss(
    name: str,
    kind: Literal["offsets", "corners"],
    summary: str,
    *,
    bounds: dict[str, Bound] | None = None,
    source: str = "",
) -> Callable[[Fn], Fn]:
    """Register fn(predicted (P,4), wanted (P,4), *, ...) -> (P,n), see above.

    ValueError if another module has the name or the signature is another."""
    return lambda function: BOX_LOSSES.register(
        function,
        ("predicted", "wanted"),
        name=name,
        kind=kind,
        summary=summary,
        bounds=bounds,
        source=source,
    )


class BoxLoss:
    """loss(deltas, boxes, anchors, image_size) -> (P,n); its sum over n is the loss of a positive,
    its whole sum that of the batch.

    IoU losses see boxes in input pixels, not relative ones: EPS would be a thousandth of the area
    of a box of 10 x 10 of 1000 x 1000. Boxes farther than FARTHEST from their anchor are measured
    at that distance, with the gradient there, so that value and gradient are finite for any finite
    offsets and lead back."""

    def __init__(self, chosen: Chosen[Record]):
        self.chosen = chosen

    @property
    def expression(self) -> str:
        return self.chosen.expression

    def __call__(self, deltas: Tensor, boxes: Tensor, anchors: Tensor, image_size: int) -> Tensor:
        """deltas (P,4) predicted offsets, boxes (P,4) matched corners and anchors (P,4) centres,
        both relative -> (P,n)."""
        if self.chosen.record.kind == "offsets":
            return self.chosen(deltas, encode(boxes, anchors))
        return self.chosen(decode(_within_reach(deltas), anchors * image_size), boxes * image_size)


@torch.no_grad()
def predicted_iou(deltas: Tensor, boxes: Tensor, anchors: Tensor, image_size: int) -> Tensor:
    """(P,) IoU in [0,1] of the predicted boxes with the matched ones; arguments as in BoxLoss."""
    iou, _ = _iou(decode(_within_reach(deltas), anchors * image_size), boxes * image_size)
    return iou.clamp(0, 1)


def build_box_loss(expression: str | Call | Chosen[Record]) -> BoxLoss:
    """The loss that an expression such as `smooth_l1(beta=0.5)` describes; parsed and checked ones
    are not read again. ValueError names the mistake and the nearest valid name."""
    return BoxLoss(BOX_LOSSES.read(expression))


@box_loss(
    "smooth_l1",
    "offsets",
    "L1 of the offsets, quadratic below beta",
    bounds={"beta": Bound("[0, inf)")},
    source="Fast R-CNN (Girshick, ICCV 2015), equation 3; beta = 1 as YOLACT",
)
def smooth_l1_of_offsets(predicted: Tensor, wanted: Tensor, *, beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, |d| - beta/2 elsewhere, for each of the four offsets:
    (P,4)."""
    return F.smooth_l1_loss(predicted, wanted, reduction="none", beta=beta)


# The IoU losses are torchvision.ops' (generalized_, distance_, complete_box_iou_loss) without its
# masked indexing, for which the host waits five times, and without its NaN where a box has no
# height.


@box_loss(
    "giou",
    "corners",
    "1 - IoU + share of the enclosing box that neither covers",
    source="Generalized Intersection over Union (Rezatofighi et al., CVPR 2019), algorithm 1",
)
def giou(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU + (C - U) / C, in [0, 2]; U area of the union, C of the smallest box around both:
    (P,1)."""
    iou, union = _iou(predicted, wanted)
    width, height = _enclosing(predicted, wanted).unbind(1)
    enclosing = width * height  # (P,)
    return (1 - iou + (enclosing - union) / (enclosing + EPS))[:, None]


@box_loss(
    "diou",
    "corners",
    "1 - IoU + squared distance of the centres / diagonal of the enclosing box",
    source="Distance-IoU Loss (Zheng et al., AAAI 2020), equation 7",
)
def diou(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU + d^2 / c^2, in [0, 2]; d distance of the centres, c diagonal of the smallest box
    around both: (P,1)."""
    iou, _ = _iou(predicted, wanted)
    return (1 - iou + _centre_distance(predicted, wanted))[:, None]


@box_loss(
    "ciou",
    "corners",
    "diou + difference of aspect ratios",
    source="Distance-IoU Loss (Zheng et al., AAAI 2020), equations 8 to 11",
)
def ciou(predicted: Tensor, wanted: Tensor) -> Tensor:
    """DIoU + alpha v with v = (2/pi (atan(w/h) - atan(w'/h')))^2 and alpha = v / (1 - IoU + v), a
    constant to the gradient: (P,1)."""
    iou, _ = _iou(predicted, wanted)
    v = (2 / pi * (_slope(wanted) - _slope(predicted))) ** 2  # (P,)
    alpha = (v / ((1 - iou).clamp(min=0) + v + EPS)).detach()
    return (1 - iou + _centre_distance(predicted, wanted) + alpha * v)[:, None]


def _iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(P,4) corners each -> (P,) IoU and (P,) area of the union, with gradients."""
    # relu: no gradient where boxes only touch
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).relu()
    shared = sides[:, 0] * sides[:, 1]
    union = area(a) + area(b) - shared
    return shared / (union + EPS), union


def _enclosing(a: Tensor, b: Tensor) -> Tensor:
    """(P,4) corners each -> (P,2) width and height of the smallest box around both."""
    return torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])


def _centre_distance(a: Tensor, b: Tensor) -> Tensor:
    """(P,) squared distance of the centres, relative to the squared diagonal of the smallest box
    around both."""
    distance = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2  # (P,2)
    return distance.square().sum(1) / (_enclosing(a, b).square().sum(1) + EPS)


def _slope(boxes: Tensor) -> Tensor:
    """(P,) angle whose tangent is width / height; 0 for a box without area in the point where it
    is."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return torch.atan(width / height.clamp(min=EPS))


def _within_reach(deltas: Tensor) -> Tensor:
    """Offsets (P,4) brought within FARTHEST of their anchors, with the gradient of the result."""
    shift, stretch = FARTHEST / CENTER_VARIANCE, log(FARTHEST) / SIZE_VARIANCE
    reached = torch.cat(
        (deltas[:, :2].clamp(-shift, shift), deltas[:, 2:].clamp(-stretch, stretch)), 1
    )
    # the limit's value, and a gradient that leads back where clamp has none
    return reached.detach() + (deltas - deltas.detach())
