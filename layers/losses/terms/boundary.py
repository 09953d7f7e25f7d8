"""Losses about where the boundary runs: two that read distances to the ground truth's boundary,
one that compares soft contours, one that weighs the overlap by the length of the boundary, and one
that looks inside the cells which the boundary cuts.

`distance` (N,H,W) is the signed map of signed_distance_map, in prototype pixels, computed once per
ground truth where data is loaded; where targets are coverages, that of subpixel_distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.extras import extra
from layers.losses.decorators import pixel_loss, region_loss
from layers.losses.terms.stable import absolute_error, cross_max, error, mean, ratio
from layers.masks import signed_distance_map
from layers.records import Bound

PARTS = 4  # sub-pixels a side of a prototype pixel: pixels of the network's input
MOST_ALPHA = 0.8  # of boundary_dou, as the authors recommend
EROSIONS = 10  # patches of errors count no deeper, as in the published code of the erosion form


extra(
    "distance",
    "signed distance to the boundary, in prototype pixels",
    subpixel="subpixel_distance",
)(signed_distance_map)


@extra(
    "subpixel_distance",
    "the same, measured at network input size: its boundary runs between prototype pixels",
    full=True,
)
def subpixel_distance(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """masks (M,S,S) bool -> (M,h,w): the mean over each cell of the signed distance to the
    boundary, in cells. As in signed_distance_map the boundary is at 0.5 (halfway between the inner
    border, 0, and the first pixel beyond it, 1), to which it is equal at size (S,S)."""
    if masks.shape[1:] == size:
        return signed_distance_map(masks)
    has_boundary = (masks.flatten(1).any(1) & ~masks.flatten(1).all(1))[:, None, None]
    fine = signed_distance_map(masks) - 0.5
    means = F.adaptive_avg_pool2d(fine, size) * (size[0] / masks.shape[1])
    return torch.where(has_boundary, means + 0.5, 0)


@pixel_loss(
    "boundary",
    "error of probabilities times the distance to the ground truth's boundary",
    needs=("distance",),
    signed=True,
    signed_when={"constant": False},
    soft=lambda params: "proper" if params["constant"] else "not proper",
    source="Boundary loss for highly unbalanced segmentation (Kervadec et al., MIDL 2019)",
)
def boundary(logits: Tensor, target: Tensor, *, distance: Tensor, constant: bool = True) -> Tensor:
    """phi (p - g), with phi the signed distance: the distance of every wrong pixel, weighted by how
    wrong it is.

    Combine it with another loss: the inner pixels of the border have distance 0, and empty targets
    have no boundary.

    constant   True: phi (p - g) >= 0, and 0 at a perfect mask. False: the published phi p, which
               has the same gradient where g is 0 or 1, but is negative for good masks"""
    if not constant:
        return distance * logits.sigmoid()
    return distance.abs() * absolute_error(logits, target)


@region_loss(
    "hausdorff",
    "squared error of probabilities times a power of the distance to the boundary",
    needs=("distance",),
    bounds={
        "alpha": Bound("(0, 10]", "published are 1 to 3, and larger powers of distances overflow")
    },
    soft="proper",
    source="Reducing the Hausdorff distance in medical image segmentation (Karimi and Salcudean, "
    "TMI 2019), section III",
)
def hausdorff(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    distance: Tensor,
    alpha: float = 2.0,
    two_sided: bool = False,
) -> Tensor:
    """Mean over the pixels of (p - g)^2 d^alpha, d >= 1 the distance of a pixel to the nearest one
    on the other side of the ground truth's boundary.

    alpha       > 0, at most 10; larger ones punish far errors more
    two_sided   adds what erosion finds, as their differentiable form without distances: the sum
                over k = 1 ... 10 of k^alpha E_k, E_1 the squared errors, E_k+1 the minima of E_k
                over a cross of 5 pixels. A patch of errors counts the more, the deeper it is,
                whichever boundary is far from the other. All on the device; an exact distance to
                the prediction's boundary would be computed on the host in every step. (The paper
                erodes by averages with a threshold, which has no gradient at p = 0.5.)
    An empty target has no boundary: its distance is 0, and only two_sided=True teaches it
    anything. With coverages, d is above 0.4: from the middle of a cell to half a cell beyond the
    boundary."""
    # the signed map is 0 on the inner border, 1 beyond it
    depth = torch.where(target > 0.5, 1 - distance, distance).to(logits.dtype)
    errors = error(logits, target).square()
    value = errors * depth.pow(alpha)
    if two_sided:
        value = value + _erosions(errors, weight, alpha)
    return mean(value, weight)


@region_loss(
    "boundary_agreement",
    "1 - Dice coefficient of soft contours, as differences between neighbours",
    bounds={"width": Bound("[1, inf)"), "smooth": Bound("[0, inf)")},
    spans=("width",),
    soft="proper",
    source="this project's; Boundary Loss for Remote Sensing Imagery (Bokhovkin and Burnaev, ISNN "
    "2019) compares soft contours as well, found by pooling",
)
def boundary_agreement(
    logits: Tensor, target: Tensor, weight: Tensor, *, width: int = 1, smooth: float = 1.0
) -> Tensor:
    """sum (d_p - d_g)^2 / (sum d_p^2 + d_g^2 + smooth): Dice loss (squared denominator) of the
    steps d that p and g take between pixels `width` apart, to the right and downwards. A step has a
    sign, so an object and its hole differ, and a perfect mask alone gives 0.

    width    >= 1, in prototype pixels; wider steps see contours that are further apart
    smooth   >= 0, in steps
    Steps from or to pixels of weight 0 do not count; the edges of the map are no contours."""
    error, total = torch.zeros(2, len(logits), dtype=logits.dtype, device=logits.device)
    for ours, theirs in _steps(logits.sigmoid(), target, weight, width):
        error = error + (ours - theirs).square().sum((1, 2))
        total = total + (ours.square() + theirs.square()).sum((1, 2))
    return ratio(error, total + smooth)


@region_loss(
    "boundary_dou",
    "errors over errors and what is right, the latter weighted by the share of boundary pixels",
    bounds={"smooth": Bound("[0, inf)")},
    soft="proper",
    source="Boundary difference over union loss for medical image segmentation (Sun, Luo and Li, "
    "MICCAI 2023)",
)
def boundary_dou(logits: Tensor, target: Tensor, weight: Tensor, *, smooth: float = 1e-5) -> Tensor:
    """E / (E + (1 - alpha) I + smooth), with E = sum w (p - g)^2, I = sum w p g and
    alpha = min(1 - 2 C/S, 0.8).

    C of the S object pixels have one of their four neighbours outside the object: 1 - alpha is
    twice the share of the boundary, so that a large object costs as much for errors along its
    boundary as a small one. alpha = -1 is a loss of Dice's kind. C and S are of g > 0.5, in the
    region; the map's and the region's edge are outside.

    smooth   >= 0, in pixels. The authors' code adds it to the numerator too, which costs 1e-5 / S
             at a perfect mask"""
    errors = (weight * error(logits, target).square()).sum((1, 2))
    right = (weight * logits.sigmoid() * target).sum((1, 2))
    inside = (weight * target > 0.5).to(logits.dtype)
    wide = F.pad(1 - inside, (1, 1, 1, 1), value=1.0)
    border = inside * cross_max(wide)[:, 1:-1, 1:-1]
    share = ratio(border.sum((1, 2)), inside.sum((1, 2)))
    rest = (2 * share).clamp(min=1 - MOST_ALPHA)  # 1 - alpha
    return ratio(errors, errors + rest * right + smooth)


@region_loss(
    "subpixel_bce",
    "cross-entropy; in cells that the boundary cuts, of the mean probability of their sub-pixels",
    soft="not proper",
    source="this project's; the expected coverage under the bilinear interpolation of "
    "eval.masks=subpixel's kind",
)
def subpixel_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the region of -g log P - (1-g) log(1-P). In a cell with 0 < g < 1,
    P = mean over its 4 x 4 sub-pixels s of sigmoid(z_s), z the logits enlarged bilinearly; in all
    others, and where a neighbour is not in the region, P = sigmoid(logit).

    So a share of one half may be learnt as a sharp edge through the cell, where bce asks for a
    logit of 0. It is least where P, not p, is the target, so it is "not proper" by this project's
    word. Where targets are 0 and 1 it is bce, and says nothing new: it is meant for
    loss.mask_target=coverage. Counting the cells waits for the device once a step."""
    value = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    near_edge = F.max_pool2d((weight <= 0).to(logits.dtype), 3, 1, 1) > 0
    place = ((target > 0) & (target < 1) & ~near_edge).nonzero(as_tuple=True)  # (n,) each
    share, parts = target[place], _subpixels(logits, place)
    number = math.log(parts.shape[1])
    log_p, log_rest = (F.logsigmoid(side).logsumexp(1) - number for side in (parts, -parts))
    return mean(value.index_put(place, -share * log_p - (1 - share) * log_rest), weight)


def _subpixels(logits: Tensor, place: tuple[Tensor, ...]) -> Tensor:
    """(n,16) logits of the sub-pixels of n cells, each a mean of the cell and its neighbours with
    the weights of bilinear interpolation (align_corners=False). The map's edge is repeated."""
    instance, row, column = place
    wide = F.pad(logits[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]  # (N,H+2,W+2)
    offset = torch.arange(3, device=logits.device)
    around = wide[
        instance[:, None, None],
        row[:, None, None] + offset[:, None],
        column[:, None, None] + offset,
    ]  # (n,3,3)
    middle = (torch.arange(PARTS, dtype=logits.dtype, device=logits.device) + 0.5) / PARTS - 0.5
    shares = torch.stack((-middle, 1 - middle.abs(), middle)).clamp(min=0)  # (3,4)
    return torch.einsum("nij,ia,jb->nab", around, shares, shares).flatten(1)


def _steps(
    p: Tensor, target: Tensor, weight: Tensor, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(d_p, d_g) to the right and downwards, 0 where one of the two pixels does not count."""
    for dim in (1, 2):
        both = _first(weight, dim, width) * _last(weight, dim, width)
        ours, theirs = ((_last(m, dim, width) - _first(m, dim, width)) * both for m in (p, target))
        yield ours, theirs


def _first(m: Tensor, dim: int, width: int) -> Tensor:
    return m.narrow(dim, 0, max(0, m.shape[dim] - width))


def _last(m: Tensor, dim: int, width: int) -> Tensor:
    return m.narrow(dim, min(width, m.shape[dim]), max(0, m.shape[dim] - width))


def _erosions(errors: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """(N,H,W) sum over k of k^alpha times the errors eroded k - 1 times."""
    # 1 - errors, and 0, which no maximum notices, at pixels of weight 0
    absent = weight * (1 - errors)
    total = errors
    for k in range(2, EROSIONS + 1):
        absent = cross_max(absent)
        total = total + k**alpha * (1 - absent)
    return total
