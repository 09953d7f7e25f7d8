"""MaskLoss: the mask term alpha*L1 + beta*L2 + ... of an expression, computed per instance.

It owns what every term has in common: where a loss counts (region, outside, sampling), what it is
divided by, how instances are balanced, and its weight over training. The criterion owns what
concerns images: subsets of positives, their rescaling, and the division by the number of positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.extras import COVERED
from layers.losses.expr import Term, format_terms, parse, unordered
from layers.losses.gradients import GradientMatch
from layers.losses.options import (
    OPTIONS,
    Schedule,
    Selection,
    draw_points,
    read_sampling,
    read_weight,
)
from layers.losses.plugins import load_plugins
from layers.losses.registry import MASK_LOSSES, RESERVED, LossInfo, ParameterError, get
from layers.masks import box_sides, box_window

PROTOTYPE_STRIDE = 4  # of the prototypes, in pixels of the network's input
MATCH_STEPS = 100  # steps over which match='grad' measures, unless told otherwise
# prototype pixels that a box grows by before pixels outside it stop counting, as the published crop
PADDING = 1
MIN_AREA = 0.01  # square prototype pixels: a box without area must not divide by 0
# p rounds to 0 and BCE costs exactly 100 at a ground-truth pixel, as with the published clamp of
# log at -100
OUTSIDE_LOGIT = -100.0
WHOLE_LOGIT = 80.0  # where a floor is computed at a target of 1: BCE costs 2e-35


class LossError(ValueError):
    """A loss does not do what its kind promises; `what` says so of a loss that was named
    already."""

    def __init__(self, name: str, what: str):
        super().__init__(f"{name} {what}")
        self.what = what


@dataclass(frozen=True)
class MaskTerm:
    """One term of the sum, checked against the registry.

    plain    the term in canonical form, without coefficient, weight and match
    params   every parameter of the loss function
    rescale  whether the criterion makes up for positives that were not sampled
    The other fields are the options of MaskLoss.
    """

    plain: Term
    info: LossInfo
    params: dict[str, Any]
    coefficient: float
    schedule: Schedule
    region: str
    outside: str
    rescale: bool
    balance: str
    match: str | None
    sampling: Selection | None

    @property
    def label(self) -> str:
        """Names the term's unweighted value."""
        return str(self.plain)

    def weight(self, step: int, total_steps: int | None = None) -> float:
        """coefficient x weight(step), without the factors that training finds (weight=learned,
        match='grad')."""
        return self.coefficient * self.schedule.at(step, total_steps)

    @property
    def pooled(self) -> bool:
        """Whether the loss function itself makes instances depend on one another."""
        return self.info.is_pooled(self.params)

    @property
    def random(self) -> bool:
        """Whether the value depends on a generator."""
        return self.sampling is not None and self.sampling.points > 0


class MaskLoss(nn.Module):
    """loss(logits, target, boxes) -> (N,), the weighted sum of its terms per instance, before any
    division by the number of positives.

    MaskLoss("bce + 0.5*power(k=2)", ["my_losses.py"]): the text or its terms, and files or modules
    that register losses of one's own. ValueError shows the place of a mistake: syntax, unknown
    loss, unknown or wrong parameter, a term given twice.

    expression   canonical text: written order kept, defaults and `1*` dropped
    key          equal for losses that differ only in the order of terms and parameters
    needs        names of the (N,...) tensors that must be in `extras`
    total_steps  length of training in optimiser steps, where schedules without `end` finish; None =
                 unknown
    stride       of the targets, in pixels of the network's input. 4 = that of the prototypes; below
                 it, targets are larger than logits, which are brought to their size bilinearly.
                 Where this page says prototype pixels, those of the target are meant

    region='box' (default)      pixels outside the matched box, grown by 1 pixel, have weight 0; a
                                pixel loss is summed and divided by the area of the box itself
                                (neither grown nor clipped) in prototype pixels
    region='image'              every pixel counts; a pixel loss is divided by H*W
    outside='ignore' (default)  with region='box', nothing outside the grown box costs anything
    outside='charge'            the published form: p is set to 0 out there and ground truth out
                                there costs L(0, 1), 100 for BCE
    sampling=hardest(share)     of a pixel loss, only the costliest pixels of the region count;
                                sampling=points(n): only n of them, mostly unsure ones. What is
                                chosen stands for the whole region, so hardest(1) changes nothing.
                                With a stride below 4, points(n) reads the logits between prototype
                                pixels, and no larger map is made
    balance='none' (default)    every positive counts alike, so a ground truth as often as it has
                                positives
    balance='sqrt_area'|'equal' the positives of a ground truth share a total of the root of its
    mask's area, or of 1; within an image,
                                whose total stays as it was
    weight=learned              the term weighs exp(-s) and s is added, s a parameter from 0 on:
                                uncertainty weighting (Kendall et al., CVPR 2018, equation 7, times
                                2)
    match='grad'                the coefficient is the ratio of gradient norms at the prototypes to
                                the first term that is not matched; the criterion measures it in the
                                first steps (see GradientMatch)
    Region losses are scale-free and not divided by anything.
    """

    def __init__(
        self,
        expression: str | Iterable[Term],
        plugins: Iterable[str] = (),
        *,
        total_steps: int | None = None,
        match_steps: int = MATCH_STEPS,
        stride: int = PROTOTYPE_STRIDE,
    ):
        super().__init__()
        load_plugins(plugins)
        self.parts, canonical = read_terms(expression)
        self.expression = format_terms(canonical)
        self.key = unordered(canonical)
        self.needs = tuple(sorted({name for part in self.parts for name in part.info.needs}))
        self.stride = stride
        if stride != PROTOTYPE_STRIDE:
            _check_points(self.parts, stride)
        self.total_steps = total_steps
        learned = sum(part.schedule.learned for part in self.parts)
        self.log_variance = nn.Parameter(torch.zeros(learned)) if learned else None
        self.match = None
        if any(part.match for part in self.parts):
            reference = next(i for i, part in enumerate(self.parts) if not part.match)
            self.match = GradientMatch(
                [bool(part.match) for part in self.parts],
                reference,
                self.parts[reference].coefficient,
                match_steps,
            )

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        boxes: Tensor,
        *,
        step: int = 0,
        extras: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """logits (N,H,W), target (N,H,W), boxes (N,4) XYXY relative -> (N,).

        target: in [0,1], bool, or the uint8 shares of extras.coverage, which are read as such only
        where a term looks.
        float16 and bfloat16 are lifted to float32. extras: what `needs` names, and for `balance`
        image (N,) and ground_truth (N,), the indices that tell whose positives these are (default:
        one image, each of another ground truth). `generator` draws sampled points (default: torch's
        global one). ValueError for disagreeing shapes, missing extras, or a loss function that
        returns another shape or dtype than its kind promises."""
        values = self.terms(logits, target, boxes, step=step, extras=extras, generator=generator)
        # an expression has a term at least, so the sum is no plain 0
        return cast(
            Tensor,
            sum(
                weight * value
                for weight, value in zip(self.weights(step), values.values(), strict=True)
            )
            + self.penalty(),
        )

    def terms(
        self,
        logits: Tensor,
        target: Tensor,
        boxes: Tensor,
        *,
        step: int = 0,
        extras: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        parts: Iterable[MaskTerm] | None = None,
    ) -> dict[str, Tensor]:
        """{label: (N,)}: each term without its coefficient and weight, in written order. parts: of
        these terms only. Other arguments as in forward."""
        parts = self.parts if parts is None else tuple(parts)
        _check_shapes(logits, target, boxes, self.stride)
        extras = self._extras(extras or {}, logits.shape[0])
        with torch.autocast(logits.device.type, enabled=False):
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()
            # loss functions need not handle an empty batch; the graph is kept
            if logits.shape[0] == 0:
                return {part.label: logits.sum((1, 2)) for part in parts}

            view = _Region(
                logits,
                target,
                boxes.to(logits.dtype),
                PADDING * PROTOTYPE_STRIDE // self.stride,
            )
            own = {name: extras[name] for name in self.needs}
            own = {
                name: extra.to(logits.dtype) if extra.is_floating_point() else extra
                for name, extra in own.items()
            }
            values = [_evaluate(part, view, own, generator) for part in parts]
            return {
                part.label: value
                if part.balance == "none"
                else value * _balance(part.balance, view.target, extras)
                for part, value in zip(parts, values, strict=True)
            }

    @torch.no_grad()
    def floors(
        self, target: Tensor, boxes: Tensor, *, extras: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """{label: (N,)}: what a term costs where p is the target, which is the least that it can
        cost: the entropy of bce, 0 of mse. Arguments and values as of `terms`, without logits.

        Terms that are least elsewhere (LossInfo.soft) have none, nor have those that draw pixels.
        A target of 0 and 1 has floors of 0, but for what outside='charge' charges."""
        proper = [
            part
            for part in self.parts
            if part.info.soft_of(part.params) == "proper" and not part.random
        ]
        if not proper:
            return {}
        share = read_target(target, boxes.dtype)
        # processors are slow with the logarithm of 0, and with what is below the normal numbers
        whole = torch.where(share > 0.5, WHOLE_LOGIT, -WHOLE_LOGIT).to(share.dtype)
        logits = torch.where((share > 0) & (share < 1), share.logit(eps=1e-6), whole)
        return self.terms(logits, target, boxes, extras=extras, parts=proper)

    def weights(self, step: int) -> list[float | Tensor]:
        """What each term is multiplied by at this step, a 0-d tensor where training finds it."""
        found: list[float | Tensor] = [part.weight(step, self.total_steps) for part in self.parts]
        if self.log_variance is not None:
            precisions = iter(torch.exp(-self.log_variance))
            found = [
                weight * next(precisions) if part.schedule.learned else weight
                for part, weight in zip(self.parts, found, strict=True)
            ]
        if self.match is not None:
            factors = self.match.factors(step)
            found = [
                weight * factors[i] if part.match else weight
                for i, (part, weight) in enumerate(zip(self.parts, found, strict=True))
            ]
        return found

    @torch.no_grad()
    def changing_weights(self, step: int) -> dict[str, float]:
        """{label: weight at this step} of the terms whose weight is not a constant. Waits for the
        device where training finds one."""
        return {
            part.label: float(weight)
            for part, weight in zip(self.parts, self.weights(step), strict=True)
            if part.schedule.shape or part.match
        }

    def penalty(self) -> float | Tensor:
        """What each instance costs for the learned weights: the sum of their s."""
        return 0.0 if self.log_variance is None else self.log_variance.sum()

    def check_size(self, size: tuple[int, int]) -> None:
        """ValueError where a parameter spans more prototype pixels than a map of this size has:
        nothing would be left to compare, and the term would be 0."""
        for part in self.parts:
            for name in part.info.spans:
                if part.params[name] >= min(size):
                    raise ValueError(
                        f"loss.mask: {part.label} has {name}={part.params[name]} prototype pixels, "
                        f"and the prototypes are {size[0]} x {size[1]}: choose a {name} below "
                        f"{min(size)}"
                    )

    def extra_repr(self) -> str:
        return self.expression

    def _extras(self, extras: Mapping[str, Tensor], n: int) -> Mapping[str, Tensor]:
        absent = [name for name in self.needs if name not in extras]
        if absent:
            raise ValueError(f"mask loss {self.expression!r} needs extras {', '.join(absent)}")
        wrong = [name for name in self.needs if extras[name].shape[0] != n]
        if wrong:
            raise ValueError(f"extras {', '.join(wrong)} must have {n} rows, one per instance")
        return extras


def build_mask_loss(
    expr: str,
    plugins: Iterable[str] = (),
    *,
    total_steps: int | None = None,
    match_steps: int = MATCH_STEPS,
) -> MaskLoss:
    """MaskLoss(...), under the name that scripts know."""
    return MaskLoss(expr, plugins, total_steps=total_steps, match_steps=match_steps)


def read_terms(
    expression: str | Iterable[Term],
) -> tuple[tuple[MaskTerm, ...], tuple[Term, ...]]:
    """The terms of an expression, checked against the registry, and their canonical forms."""
    terms = parse(expression) if isinstance(expression, str) else tuple(expression)
    parts: list[MaskTerm] = []
    canonical = []
    for term in terms:
        try:
            part, plain = _build(term)
        except ParameterError as error:
            raise term.mistake(str(error), error.parameter) from None
        except ValueError as error:
            raise term.mistake(str(error)) from None
        if any(part.label == other.label for other in parts):
            raise term.mistake(f"{part.label} is there twice: write one term with one coefficient")
        parts.append(part)
        canonical.append(plain)
    if all(part.match for part in parts):
        raise terms[0].mistake("match='grad' needs another term to be matched to")
    return tuple(parts), tuple(canonical)


def _build(term: Term) -> tuple[MaskTerm, Term]:
    """The checked term and its canonical form."""
    info = get(term.name)
    own = {name: value for name, value in term.params.items() if name not in RESERVED}
    params = MASK_LOSSES.check(info, own)
    options = {
        p.name: p.check(term.params[p.name]) if p.name in term.params else p.default
        for p in OPTIONS
    }
    sampling = (
        read_sampling(term.params["sampling"]) if term.params.get("sampling") is not None else None
    )
    schedule = read_weight(term.params.get("weight", 1))
    if sampling and info.kind == "region":
        raise ParameterError(
            f"sampling chooses pixels, and {info.name} has one value per instance", "sampling"
        )
    if sampling and options["outside"] == "charge":
        raise ParameterError(
            "sampling chooses pixels of the region: leave outside='charge' out", "sampling"
        )
    if options["outside"] == "charge" and options["region"] == "image":
        raise ParameterError(
            "outside='charge' is for region='box': the whole image has no outside, so leave one "
            "of them out",
            "outside",
        )
    if options["match"] and schedule.learned:
        raise ParameterError(
            "a weight is matched or learned: leave one of match='grad' and weight=learned out",
            "match",
        )
    final = {**params, **options, "weight": schedule.value, "sampling": sampling and sampling.value}
    defaults = {
        **info.defaults,
        **{p.name: p.default for p in OPTIONS},
        "weight": 1.0,
        "sampling": None,
    }
    changed = {name: final[name] for name in term.params if final[name] != defaults[name]}
    own = {name: value for name, value in changed.items() if name not in ("weight", "match")}
    plain = Term(term.name, 1.0, own)
    part = MaskTerm(plain, info, params, term.coefficient, schedule, **options, sampling=sampling)
    return part, Term(term.name, term.coefficient, changed)


class _Region:
    """The instances seen through their boxes, at the size H x W of the target: each form is
    computed once, when a term first needs it."""

    def __init__(self, logits: Tensor, target: Tensor, boxes: Tensor, padding: int):
        self.given, self.carried, self.boxes, self.padding = logits, target, boxes, padding
        _, height, width = target.shape
        self.size = (height, width)

    @cached_property
    def target(self) -> Tensor:
        """(N,H,W) in [0,1], in the type of the logits."""
        return read_target(self.carried, self.given.dtype)

    @cached_property
    def logits(self) -> Tensor:
        """(N,H,W)"""
        if self.given.shape[1:] == self.size:
            return self.given
        return F.interpolate(self.given[:, None], self.size, mode="bilinear", align_corners=False)[
            :, 0
        ]

    @cached_property
    def keep(self) -> Tensor:
        """(N,H,W) bool, True inside the grown box."""
        return box_window(self.boxes, self.size, self.padding)

    @cached_property
    def charged(self) -> Tensor:
        """(N,H,W) logits with p = 0 outside the grown box."""
        return self.logits.masked_fill(~self.keep, OUTSIDE_LOGIT)

    def target_at(self, part: MaskTerm, index: Tensor) -> Tensor:
        """(N,n) flat indices into H x W -> (N,n) of target_of(part), without making the others."""
        chosen = read_target(self.carried.flatten(1).gather(1, index), self.given.dtype)
        return _cut(chosen) if part.info.cuts_target(part.params) else chosen

    def logits_at(self, index: Tensor) -> Tensor:
        """(N,n) flat indices into H x W -> (N,n) of `logits`, without making the others."""
        height, width = self.size
        place = torch.stack((index % width, index // width), 2)  # (N,n,2) column, row
        place = (2 * place + 1) / place.new_tensor([width, height]) - 1
        return F.grid_sample(
            self.given[:, None],
            place[:, None].to(self.given.dtype),
            padding_mode="border",
            align_corners=False,
        )[:, 0, 0]

    @cached_property
    def cut(self) -> Tensor:
        """(N,H,W) the target in {0,1}."""
        return _cut(self.target)

    def target_of(self, part: MaskTerm) -> Tensor:
        """(N,H,W) the target, cut where the loss is of 0 and 1 only."""
        return self.cut if part.info.cuts_target(part.params) else self.target

    def box_area(self) -> Tensor:
        """(N,) areas of the boxes in prototype pixels, at least MIN_AREA."""
        height, width = self.size
        sides = self.boxes[:, 2:] - self.boxes[:, :2]  # (N,2)
        return (sides[:, 0] * width * (sides[:, 1] * height)).clamp(min=MIN_AREA)


def _evaluate(
    part: MaskTerm, view: _Region, extras: Mapping[str, Tensor], generator: torch.Generator | None
) -> Tensor:
    """(N,) unweighted value of one term."""
    keywords = {**part.params, **{name: extras[name] for name in part.info.needs}}
    in_box = part.region == "box"
    if part.random and view.given.shape != view.carried.shape:
        return _evaluate_points(part, view, keywords, generator)
    charge = in_box and part.outside == "charge"
    logits = view.charged if charge else view.logits
    if part.info.kind == "region":
        weight = view.keep.to(logits.dtype) if in_box and not charge else torch.ones_like(logits)
        # (N,)
        return _checked(
            part, part.info.function(logits, view.target_of(part), weight, **keywords), logits, 1
        )
    # (N,H,W)
    pixels = _checked(part, part.info.function(logits, view.target_of(part), **keywords), logits, 3)
    if part.sampling is not None:
        inside = view.keep if in_box else torch.ones_like(logits, dtype=torch.bool)
        pixels = pixels * part.sampling.weights(pixels, logits, inside, generator)
    elif in_box and not charge:
        pixels = pixels * view.keep
    total = pixels.sum((1, 2))
    return total / view.box_area() if in_box else total / (view.size[0] * view.size[1])


def _evaluate_points(
    part: MaskTerm, view: _Region, keywords: dict[str, Any], generator: torch.Generator | None
) -> Tensor:
    """(N,) of a pixel loss with sampling=points(n), whose logits are read between the pixels of
    the map that is given."""
    assert part.sampling is not None, "called for terms that sample"
    in_box, (height, width) = part.region == "box", view.size
    rows, columns = (
        box_sides(view.boxes, view.size, view.padding)
        if in_box
        else (view.boxes.new_ones((len(view.boxes), side), dtype=torch.bool) for side in view.size)
    )
    index = draw_points(view.logits_at, (rows, columns), part.sampling.points, generator)
    logits = view.logits_at(index)[:, None]  # (N,1,n), as a map of one row
    here = {
        name: value.flatten(1).gather(1, index)[:, None]
        if isinstance(value, Tensor) and value.shape == view.carried.shape
        else value
        for name, value in keywords.items()
    }
    target = view.target_at(part, index)[:, None]
    pixels = _checked(part, part.info.function(logits, target, **here), logits, 3)  # (N,1,n)
    total = pixels.mean((1, 2)) * rows.sum(1) * columns.sum(1)
    return total / view.box_area() if in_box else total / (height * width)


@torch.no_grad()
def _balance(kind: str, target: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    """(N,) factors of the instances, whose sum over an image is its number of instances."""
    rows = torch.arange(target.shape[0], device=target.device)
    ground_truth, image = (
        extras.get("ground_truth", rows),
        extras.get("image", torch.zeros_like(rows)),
    )
    wanted = (
        target.sum((1, 2), dtype=torch.float32).clamp(min=1).sqrt()
        if kind == "sqrt_area"
        else torch.ones_like(rows).float()
    )
    weight = wanted / _same(ground_truth).sum(1)
    in_image = _same(image).to(weight.dtype)
    return weight * in_image.sum(1) / (in_image @ weight)


def _same(index: Tensor) -> Tensor:
    """(N,) -> (N,N) bool."""
    return index[:, None] == index[None]


def _checked(part: MaskTerm, value: Tensor, logits: Tensor, dims: int) -> Tensor:
    name, shape = f"{part.info.kind} loss {part.info.name!r}", logits.shape[:dims]
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise LossError(name, f"must return a tensor of shape {tuple(shape)}, got {got}")
    if value.dtype != logits.dtype:
        raise LossError(
            name,
            f"must return floating-point numbers in the dtype of its logits, {logits.dtype}, got "
            f"{value.dtype}",
        )
    return value


def _cut(target: Tensor) -> Tensor:
    return (target > 0.5).to(target.dtype)


def read_target(target: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mask target is carried as, floats, bool or uint8 coverages -> floats in [0,1]."""
    return target.to(dtype) / COVERED if target.dtype == torch.uint8 else target.to(dtype)


def _check_points(parts: Iterable[MaskTerm], stride: int) -> None:
    for part in parts:
        if part.random and part.info.reads_whole_target(part.params):
            raise ValueError(
                f"loss.mask: {part.label} reads a mask as a whole, and points at "
                f"loss.mask_stride={stride} are all that is computed: leave sampling out, or set "
                f"loss.mask_stride={PROTOTYPE_STRIDE}"
            )


def _check_shapes(logits: Tensor, target: Tensor, boxes: Tensor, stride: int) -> None:
    n = logits.shape[0]
    fits = (
        target.shape == logits.shape
        if stride == PROTOTYPE_STRIDE
        else target.dim() == 3 and len(target) == n
    )
    if logits.dim() != 3 or not fits or boxes.shape != (n, 4):
        raise ValueError(
            "expected logits (N,H,W), target (N,H,W) and boxes (N,4), got "
            f"{tuple(logits.shape)}, {tuple(target.shape)} and {tuple(boxes.shape)}"
        )
