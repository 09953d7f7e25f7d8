"""Whether two mask losses are one loss: equal up to a constant factor in values and gradients, on a
fixed set of masks and logits.

Expressions are compared as written, with their regions, options and schedules: bce and
bce(region='image') differ, bce and 2*bce do not. What only shows in training (learned and matched
weights, balance, rescale, instances that depend on one another) must be the same on both sides:
terms are compared with terms of their own manner alone, and all by one common factor.

Masks are of 0 and 1. With soft=True, masks whose pixels are covered in part are compared too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from layers.losses.checks.contract import Example
from layers.losses.mask import MaskLoss, MaskTerm, build_mask_loss

SIZE = 20  # pixels of a mask's side
SCALES = (0.3, 1.0, 3.0)  # standard deviations of ordinary logits
SURE = 50.0  # a logit whose probability rounds to 0 or 1 even in float64
TOLERANCE = 1e-6  # relative, in float64
ALIKE = 1e-4  # less than this below a cosine of 1: worth comparing
NOISE = 1e-8  # of the largest number of a loss: what is smaller is not compared
TOTAL_STEPS = 99_991  # a length of training that no expression names as an end of its schedule
ORDINARY, SATURATED, DEGENERATE, SOFT = (
    "ordinary inputs",
    "logits so sure that p rounds to 0 or 1",
    "empty or full targets",
    "targets between 0 and 1",
)


class Manner(NamedTuple):
    """What a term does that inputs do not show; the names are those that expressions use, as far as
    they have one."""

    learned: bool
    match: bool
    balance: str
    pooled: bool
    rescale: bool


@dataclass(frozen=True)
class Print:
    """manners   of the groups of terms, in order
    inputs    of every kind of inputs (rows,1) values and (rows,H*W) gradients with respect to
              logits, group after group"""

    manners: list[Manner]
    inputs: dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LossComparison:
    """first = factor * second.

    factor      None where the gradients are not proportional on ordinary inputs, or where they
                train in another manner
    why         what that manner is, if it is that
    shifted     whether only the gradients agree: the values differ by what does not depend on the
                prediction, so both train alike
    except_at   kinds of inputs on which they differ all the same
    deviation   largest difference from proportionality on ordinary inputs, relative to an
                instance's largest number
    """

    first: str
    second: str
    factor: float | None
    shifted: bool = False
    except_at: tuple[str, ...] = ()
    deviation: float = 0.0
    why: str = ""

    @property
    def same(self) -> bool:
        """Whether they are one loss, up to the factor, wherever they were compared."""
        return self.factor is not None and not self.shifted and not self.except_at

    def __str__(self) -> str:
        if self.factor is None:
            why = self.why or f"they deviate from a constant ratio by {self.deviation:.2g}"
            return f"{self.first} and {self.second} are different losses: {why}"
        second = f"({self.second})" if " + " in self.second else self.second
        text = f"{self.first} = " + (
            self.second if abs(self.factor - 1) <= TOLERANCE else f"{self.factor:.6g} * {second}"
        )
        if self.shifted:
            text += (
                " in its gradients: the values differ by what the prediction cannot change, "
                "so both train alike"
            )
        return text + (f", except at {' and '.join(self.except_at)}" if self.except_at else "")


def same_up_to_factor(
    a: str, b: str, plugins: Iterable[str] = (), *, soft: bool = False
) -> float | None:
    """f where a = f * b in values and gradients on all inputs, None where they differ. ValueError
    for expressions that cannot be built."""
    found = compare_losses(a, b, plugins, soft=soft)
    return found.factor if found.same else None


def compare_losses(
    a: str, b: str, plugins: Iterable[str] = (), *, soft: bool = False
) -> LossComparison:
    """How two expressions relate. ValueError for expressions that cannot be built."""
    first, second = (build_mask_loss(text, plugins, total_steps=TOTAL_STEPS) for text in (a, b))
    steps = _steps(first, second)
    return _compare(
        first.expression,
        _fingerprint(first, steps, soft),
        second.expression,
        _fingerprint(second, steps, soft),
    )


def copies(
    expressions: Iterable[str],
    among: Iterable[str] = (),
    plugins: Iterable[str] = (),
    *,
    soft: bool = False,
) -> list[LossComparison]:
    """Proportional pairs: of two of the expressions, and of one of them and one of `among`. Losses
    that raise are left out."""
    losses = [build_mask_loss(text, plugins, total_steps=TOTAL_STEPS) for text in expressions]
    others = [build_mask_loss(text, plugins, total_steps=TOTAL_STEPS) for text in among]
    steps = _steps(*losses, *others)
    prints: dict[str, Print] = {}
    for loss in (*losses, *others):
        if loss.expression not in prints:
            try:
                prints[loss.expression] = _fingerprint(loss, steps, soft)
            except Exception:  # a user's loss may raise anything; its contract says so
                continue
    own, rest = (
        [loss.expression for loss in group if loss.expression in prints]
        for group in (losses, others)
    )
    own = list(dict.fromkeys(own))
    pairs = (*combinations(own, 2), *((a, b) for a in own for b in rest if b not in own))
    near = _near(prints)
    found = (_compare(a, prints[a], b, prints[b]) for a, b in pairs if b in near[a])
    return [comparison for comparison in found if comparison.factor is not None]


def _near(prints: dict[str, Print]) -> dict[str, set[str]]:
    """{expression: those that may be proportional to it}: of the same manners, and with gradients
    of one direction on ordinary inputs. One product finds them for all pairs.

    Gradients whose rows agree to TOLERANCE of their largest numbers have a cosine above 1 -
    (TOLERANCE * SIZE)^2, far above what is asked for.
    """
    alike: dict[tuple[Manner, ...], list[str]] = {}
    for expression, one in prints.items():
        alike.setdefault(tuple(one.manners), []).append(expression)
    near: dict[str, set[str]] = {expression: set() for expression in prints}
    for group in alike.values():
        directions = torch.stack([prints[name].inputs[ORDINARY][1].flatten() for name in group])
        directions /= directions.abs().amax(1, keepdim=True)  # no square of it overflows
        directions /= directions.norm(dim=1, keepdim=True)
        for i, j in (directions @ directions.T > 1 - ALIKE).nonzero().tolist():
            near[group[i]].add(group[j])
    return near


def _manner(part: MaskTerm) -> Manner:
    return Manner(part.schedule.learned, bool(part.match), part.balance, part.pooled, part.rescale)


def _compare(first: str, one: Print, second: str, two: Print) -> LossComparison:
    if one.manners != two.manners:
        return LossComparison(first, second, None, why=_difference(one.manners, two.manners))
    a, b = one.inputs, two.inputs
    factor = _ratio(a[ORDINARY][1], b[ORDINARY][1])
    if factor is None:
        return LossComparison(
            first, second, None, why="their gradients have no common ratio above 0"
        )
    values, gradients = (
        {kind: _deviation(a[kind][i], factor * b[kind][i], _floor(a, factor, b, i)) for kind in a}
        for i in (0, 1)
    )
    shifted = values[ORDINARY] > TOLERANCE
    if gradients[ORDINARY] > TOLERANCE:
        return LossComparison(
            first, second, None, deviation=max(values[ORDINARY], gradients[ORDINARY])
        )
    if any(manner.learned for manner in one.manners) and abs(factor - 1) > TOLERANCE:
        return LossComparison(
            first,
            second,
            None,
            why="their ratio is constant, but a learned weight does not keep it",
        )
    differs = {
        kind
        for kind in a
        if gradients[kind] > TOLERANCE or (values[kind] > TOLERANCE and not shifted)
    }
    return LossComparison(
        first,
        second,
        factor,
        shifted,
        tuple(kind for kind in a if kind in differs),
        gradients[ORDINARY],
    )


def _difference(one: list[Manner], two: list[Manner]) -> str:
    """In which respect two lists of manners differ, in words."""
    words = {
        "learned": "weight=learned",
        "match": "match='grad'",
        "balance": "balance",
        "rescale": "rescale",
        "pooled": "whether instances depend on one another",
    }
    found = [
        words[name]
        for i, name in enumerate(Manner._fields)
        if sorted(m[i] for m in one) != sorted(m[i] for m in two)
    ]
    return (
        f"their terms differ in {' and '.join(found)}"
        if found
        else "their terms combine options in another way"
    )


def _ratio(a: Tensor, b: Tensor) -> float | None:
    """The median ratio of the larger entries of two tensors (rows,M); None where it is not a number
    above 0."""
    large = (b.abs() > 1e-3 * b.abs().amax(1, keepdim=True)) & (b.abs() > NOISE * b.abs().max())
    if not large.any():
        return None
    ratio = float((a[large] / b[large]).median())
    return ratio if 0 < ratio < float("inf") else None


def _floor(a: dict, factor: float, b: dict, index: int) -> float:
    return NOISE * max(
        float(a[ORDINARY][index].abs().max()), factor * float(b[ORDINARY][index].abs().max())
    )


def _deviation(a: Tensor, b: Tensor, floor: float) -> float:
    """The largest difference of two tensors (rows,M), relative to the largest number of its row;
    infinite if a number is not finite."""
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    size = torch.maximum(a.abs().amax(1), b.abs().amax(1))
    error = (a - b).abs().amax(1) / size.clamp(min=1e-300)
    return float(error[size > floor].max()) if bool((size > floor).any()) else 0.0


def _fingerprint(loss: MaskLoss, steps: Iterable[int], soft: bool) -> Print:
    # no term depends on the step, but by its weight
    given = {kind: inputs for kind, inputs in _inputs().items() if soft or kind != SOFT}
    terms = {kind: _terms(loss, inputs) for kind, inputs in given.items()}
    gradients = [gradient for _, gradient in terms[ORDINARY]]
    if loss.match is not None:
        # before the first step
        loss.match.observe(
            torch.stack([gradient.square().sum() for gradient in gradients]), step=-2
        )
    with torch.no_grad():
        weights = [[float(weight) for weight in loss.weights(step)] for step in steps]
    groups = _groups(loss, gradients)

    def added(numbers: list[tuple[Tensor, Tensor]], part: int) -> Tensor:
        return torch.cat(
            [
                torch.stack([weight[i] * numbers[i][part] for i in rows]).sum(0)
                for _, rows in groups
                for weight in weights
            ]
        )

    found = {kind: (added(numbers, 0), added(numbers, 1)) for kind, numbers in terms.items()}
    return Print([manner for manner, _ in groups], found)


def _terms(loss: MaskLoss, given: Example) -> list[tuple[Tensor, Tensor]]:
    """(N,1) value and (N,H*W) gradient of every term, without its weight."""
    logits = given.logits.clone().requires_grad_()
    values = (
        loss.double()
        .terms(
            logits,
            given.target,
            given.boxes,
            extras=given.extras(loss.needs),
            generator=torch.Generator().manual_seed(0),
        )
        .values()
    )
    return [
        (
            value.detach()[:, None],
            torch.autograd.grad(value.sum(), logits, retain_graph=True)[0].flatten(1),
        )
        for value in values
    ]


def _groups(loss: MaskLoss, gradients: list[Tensor]) -> list[tuple[Manner, list[int]]]:
    """The terms, by index, that add up whatever training does: those of one manner, but each
    learned or matched one by itself, ordered by the direction of its gradient and then its size,
    neither of which depends on the order in which they are written."""
    direction = torch.randn(
        gradients[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    groups: dict[tuple, tuple[Manner, list[int]]] = {}
    for i, (part, gradient) in enumerate(zip(loss.parts, gradients, strict=True)):
        manner = _manner(part)
        own: tuple[float, ...] = ()
        if manner.learned or manner.match:
            norm = float(gradient.norm())
            own = (
                round(float((gradient * direction).sum()) / max(norm, 1e-300), 9),
                part.coefficient * norm,
            )
        groups.setdefault((manner, own), (manner, []))[1].append(i)
    return [groups[key] for key in sorted(groups)]


def _steps(*losses: MaskLoss) -> list[int]:
    """The steps at which schedules begin and end, and some between and beyond."""
    found = {0}
    for part in (part for loss in losses for part in loss.parts if part.schedule.varies):
        start, end = (
            part.schedule.start,
            TOTAL_STEPS if part.schedule.end is None else part.schedule.end,
        )
        found |= {start, start + (end - start) // 3, start + (end - start) // 2, end}
    return sorted(found)


@cache
def _inputs() -> dict[str, Example]:
    """Masks of several shapes, seen through boxes that fit, cut, exceed them or hold the whole map,
    with logits of several scales."""
    generator = torch.Generator().manual_seed(0)
    masks = _masks(generator)
    boxes = _boxes(masks)

    def draw(count: int) -> Tensor:
        return torch.randn(count, SIZE, SIZE, generator=generator, dtype=torch.float64)

    n = len(masks)
    flat = torch.cat((torch.zeros(2, SIZE, SIZE), torch.ones(2, SIZE, SIZE))).double()
    mostly_right = 2 * (2 * masks - 1) + draw(n)
    logits = torch.cat([scale * draw(n) for scale in SCALES] + [mostly_right])
    smooth = torch.nn.functional.avg_pool2d(masks, 3, stride=1, padding=1)
    times = len(SCALES) + 1
    return {
        ORDINARY: Example(logits, masks.repeat(times, 1, 1), boxes.repeat(times, 1)),
        SATURATED: Example(SURE * draw(n).sign(), masks, boxes),
        DEGENERATE: Example(2 * draw(4), flat, boxes[:4]),
        SOFT: Example(draw(n), smooth, boxes),
    }


def _masks(generator: torch.Generator) -> Tensor:
    """(N,SIZE,SIZE) float64: disc, ring, thin line, two parts, speck, half a map, ragged outlines
    as annotated objects have, noise."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")

    def disc(row: int, column: int, radius: float) -> Tensor:
        return (y - row) ** 2 + (x - column) ** 2 <= radius**2

    noise = torch.randn(4, 1, 5, 5, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(
        noise, size=(SIZE, SIZE), mode="bicubic", align_corners=False
    )[:, 0]
    ragged = [
        field > field.quantile(share)
        for field, share in zip(smooth, (0.5, 0.7, 0.85, 0.93), strict=True)
    ]
    static = torch.rand(SIZE, SIZE, generator=generator, dtype=torch.float64) < 0.3
    return torch.stack(
        [
            disc(9, 10, 5),
            disc(10, 9, 7) & ~disc(10, 9, 4),
            (y - x).abs() <= 0,
            disc(5, 5, 3) | disc(14, 13, 4),
            (y == 12) & (x == 6),
            x < SIZE // 2,
            *ragged,
            static,
        ]
    ).double()


def _boxes(masks: Tensor) -> Tensor:
    """(N,4) relative: by turns around the mask, half of that, larger than that, and the whole
    map."""
    boxes = []
    for row, mask in enumerate(masks):
        rows, columns = mask.amax(1).nonzero(), mask.amax(0).nonzero()
        box = (
            torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).double()
            / SIZE
        )
        width = box[2] - box[0]
        left, right = ((0.0, 0.0), (0.0, -width / 2), (-0.15, 0.2), (-1.0, 1.0))[row % 4]
        boxes.append(torch.stack((box[0] + left, box[1], box[2] + right, box[3])).clamp(0, 1))
        if row % 4 == 3:
            boxes[-1] = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    return torch.stack(boxes)
