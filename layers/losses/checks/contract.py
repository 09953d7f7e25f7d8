"""What every mask loss must do, as checks that run on any expression: built-in losses, plugins and
combinations.

Each check takes a MaskLoss and returns "", one sentence that says what is wrong, or None where it
does not apply. Scheduled weights are constants at their largest here. `outcomes` gives all checks
for one expression, `variants` the expressions that cover a loss: its defaults, and every other
choice of its switches. `refuse_broken` is the short form for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layers.extras import EXTRAS, make_extras
from layers.losses.checks.soft import soft_targets, what_soft_could_be
from layers.losses.expr import Term
from layers.losses.mask import PADDING, PROTOTYPE_STRIDE, LossError, MaskLoss, build_mask_loss
from layers.losses.registry import get
from layers.masks import box_window

SIZE = 16  # pixels of a test map's side
SURE = 50.0  # a logit whose probability rounds to 0 or 1
ROUNDING = 1e-5  # of values around 1 in float32
DESCENT_STEPS, DESCENT_RATE = 300, 0.3
# what may remain of the loss above a perfect mask, and what IoU with the target must be reached
DESCENT_GAP, DESCENT_IOU = 0.05, 0.95


@dataclass(frozen=True)
class Result:
    """Outcome of one check on one expression; message is empty where it passed, None where the
    check does not apply."""

    check: str
    expression: str
    message: str | None

    @property
    def failed(self) -> bool:
        return bool(self.message)

    @property
    def applies(self) -> bool:
        return self.message is not None


@dataclass
class Example:
    """logits and target (N,H,W), boxes (N,4) relative, and the extras that belong to the target."""

    logits: Tensor
    target: Tensor
    boxes: Tensor

    def extras(self, needs: Iterable[str]) -> dict[str, Tensor]:
        return make_extras(needs, self.target > 0.5)

    def apply(self, loss: MaskLoss, logits: Tensor | None = None) -> Tensor:
        """(N,) value, at other logits if given."""
        unknown = sorted(set(loss.needs) - set(EXTRAS.names()))
        if unknown:
            raise LossError(
                loss.expression,
                f"needs {', '.join(unknown)}, but no function is registered that makes it "
                f"(layers.extras.extra); there is {', '.join(EXTRAS.names())}",
            )
        # a loss that samples pixels draws the same in every call
        generator = torch.Generator().manual_seed(0)
        return loss(
            self.logits if logits is None else logits,
            self.target,
            self.boxes,
            extras=self.extras(loss.needs),
            generator=generator,
        )

    def subset(self, rows: Tensor | slice) -> Example:
        return Example(self.logits[rows], self.target[rows], self.boxes[rows])


def variants(name: str) -> list[str]:
    """Expressions of one loss: its defaults, and for each choice and each switch the other values,
    one at a time."""
    found = [name]
    for param in get(name).params:
        others = [choice for choice in param.choices if choice != param.default] + (
            [not param.default] if param.type is bool else []
        )
        found += [str(Term(name, 1.0, {param.name: other})) for other in others]
    return found


def outcomes(expression: str, plugins: tuple[str, ...] = ()) -> list[Result]:
    """Every check on one expression; the first one alone where it fails, since its mistake would be
    all others'."""
    loss, results = at_full_weight(expression, plugins), []
    for check in CHECKS:
        message = _outcome(check, loss)
        results.append(Result(check.__name__.replace("_", " "), loss.expression, message))
        if check is shape and message:
            break
    return results


def notes(expression: str, plugins: tuple[str, ...] = ()) -> list[str]:
    """What is no mistake but should be known: one sentence each."""
    return [
        f"{part.label} reads the whole target, pixels outside the box included"
        for part in build_mask_loss(expression, plugins).parts
        if part.region == "box" and part.info.reads_whole_target(part.params)
    ]


def at_full_weight(expression: str, plugins: tuple[str, ...] = ()) -> MaskLoss:
    """The loss with each schedule at the larger of its ends, so that no term is multiplied by 0."""
    loss = build_mask_loss(expression, plugins)
    loss.parts = tuple(replace(part, schedule=part.schedule.highest) for part in loss.parts)
    return loss


def refuse_broken(
    expression: str,
    plugins: tuple[str, ...] = (),
    total_steps: int | None = None,
    stride: int = PROTOTYPE_STRIDE,
    soft: bool = False,
) -> None:
    """ValueError that names the first term with values of a wrong shape or type, a negative one
    undeclared, or one that is not finite, a term whose weight is 0 in all of total_steps steps of
    training, if they are known, and one that cannot be computed at this stride of the targets.
    soft: targets lie between 0 and 1, so a term that does not state what it does with them is
    refused too.

    Milliseconds, for a loss that is about to be trained; `outcomes` finds more."""
    for part in MaskLoss(expression, plugins, total_steps=total_steps, stride=stride).parts:
        if total_steps and not any(part.weight(step, total_steps) for step in (0, total_steps - 1)):
            raise ValueError(
                f"the term {part.label} has weight={part.schedule.value}, which is 0 in all "
                f"{total_steps} steps of the training: let it start earlier, or leave the term out"
            )
        message = _first_mistake(part.plain)
        if not message and soft and part.info.soft_of(part.params) is None:
            raise ValueError(
                f"the term {part.label} does not state what it does with targets between 0 and 1: "
                f"give its decorator {what_soft_could_be(part)}"
            )
        if not message:
            continue
        own = [name for name, value in part.params.items() if value != part.info.defaults[name]]
        if own and not _first_mistake(Term(part.info.name)):
            raise ValueError(
                f"the term {part.label} {message}: choose another {' or '.join(own)}; "
                f"{part.info.name} alone is sound"
            )
        raise ValueError(
            f"the term {part.label} {message}: mend the loss (python scripts/losses.py check shows "
            "all that is wrong)"
        )


def _first_mistake(term: Term) -> str | None:
    loss = MaskLoss([term])
    return next(
        filter(None, (_outcome(check, loss) for check in (shape, finite_at_extremes, sign))), None
    )


def _outcome(check: Callable[[MaskLoss], str | None], loss: MaskLoss) -> str | None:
    try:
        return check(loss)
    except LossError as error:
        return error.what
    except Exception as error:  # a user's loss may raise anything
        return f"raises {type(error).__name__}: {error}"


def examples(dtype: torch.dtype = torch.float32) -> Example:
    """A disc, a frame, a rectangle at the map's edge and a speck, with unsure logits; their boxes
    fit them."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = (y - 8) ** 2 + (x - 7) ** 2 <= 20
    frame = (
        ((y - 7).abs() <= 4) & ((x - 8).abs() <= 4) & ~(((y - 7).abs() <= 2) & ((x - 8).abs() <= 2))
    )
    edge = (y < 6) & (x >= 9)
    speck = (y == 11) & (x == 4)
    target = torch.stack((disc, frame, edge, speck)).to(dtype)
    boxes = torch.tensor(
        [
            [0.1875, 0.25, 0.75, 0.8125],
            [0.25, 0.1875, 0.8125, 0.75],
            [0.5625, 0, 1, 0.375],
            [0.25, 0.6875, 0.3125, 0.75],
        ],
        dtype=dtype,
    )
    generator = torch.Generator().manual_seed(0)
    return Example(
        torch.randn(target.shape, generator=generator, dtype=torch.float64).to(dtype), target, boxes
    )


def extremes() -> Iterator[tuple[str, Example]]:
    """Inputs at which formulas divide by 0 or take the logarithm of 0, with their names."""
    given = examples()
    sign = 2 * given.target - 1
    yield "|logit| = 50, all pixels right", Example(SURE * sign, given.target, given.boxes)
    yield "|logit| = 50, all pixels wrong", Example(-SURE * sign, given.target, given.boxes)
    yield (
        "|logit| = 1000, half the pixels wrong",
        Example(1000 * given.logits.sign(), given.target, given.boxes),
    )
    for name, target in (
        ("empty target", torch.zeros_like(given.target)),
        ("full target", torch.ones_like(given.target)),
    ):
        for logits in (
            given.logits,
            torch.full_like(given.logits, -SURE),
            torch.full_like(given.logits, SURE),
        ):
            yield name, Example(logits, target, given.boxes)
    yield "a box without any pixel", Example(given.logits, given.target, given.boxes + 3)


def shape(loss: MaskLoss) -> str:
    """Its shape, its dtype, and that it depends on the logits."""
    given = examples()
    logits = given.logits.requires_grad_()
    value = given.apply(loss)
    if value.shape != given.logits.shape[:1]:
        return f"gives {tuple(value.shape)} for {len(given.logits)} instances"
    if value.dtype != torch.float32 or examples(torch.float64).apply(loss).dtype != torch.float64:
        return "does not keep the dtype of its logits"
    slope = (
        torch.autograd.grad(value.sum(), logits, allow_unused=True)[0]
        if value.requires_grad
        else None
    )
    return "has no gradient with respect to the logits" if slope is None else ""


def sign(loss: MaskLoss) -> str | None:
    if is_signed(loss):
        return None
    lowest = min(
        float(given.apply(loss).detach().min())
        for given in (examples(), *(inputs for _, inputs in extremes()))
    )
    return "" if lowest >= -1e-6 else f"is negative ({lowest:.3g}), but not declared signed"


def zero_at_a_perfect_mask(loss: MaskLoss) -> str | None:
    if is_signed(loss):
        return None
    given = examples()
    worst = float(given.apply(loss, SURE * (2 * given.target - 1)).detach().abs().max())
    return "" if worst <= ROUNDING else f"is {worst:.3g} for a perfect, sure prediction"


def finite_at_extremes(loss: MaskLoss) -> str:
    for name, given in extremes():
        for dtype in (torch.float32, torch.float64):
            logits = given.logits.to(dtype, copy=True).requires_grad_()
            value = given.apply(loss, logits)
            (gradient,) = torch.autograd.grad(value.sum(), logits)
            if not value.isfinite().all():
                return f"has a value that is not finite: {name}"
            if not gradient.isfinite().all():
                return f"has a gradient that is not finite: {name}"
    return ""


def no_instances(loss: MaskLoss) -> str:
    given = examples().subset(slice(0, 0))
    logits = given.logits.requires_grad_()
    value = given.apply(loss, logits)
    value.sum().backward()
    return "" if value.shape == (0,) and logits.grad is not None else "fails without instances"


def gradient(loss: MaskLoss) -> str:
    given = examples(torch.float64).subset(slice(0, 2))
    logits = given.logits.requires_grad_()
    right = torch.autograd.gradcheck(
        lambda x: given.apply(loss, x), logits, raise_exception=False, fast_mode=True
    )
    return "" if right else "has a gradient that is not the derivative of its value"


def half_precision(loss: MaskLoss) -> str:
    given = examples()
    for dtype in (torch.bfloat16, torch.float16):
        half = given.logits.to(dtype)
        if not torch.equal(given.apply(loss, half), given.apply(loss, half.float())):
            return f"differs for {dtype} logits from the same logits in float32"
    return ""


def weight_zero(loss: MaskLoss) -> str | None:
    """Logits outside the grown boxes must not matter, nor the target there, but to terms that are
    known to read all of it."""
    if any(part.region != "box" or part.outside != "ignore" for part in loss.parts):
        return None
    given = examples(torch.float64)
    outside = _outside(given)
    logits = torch.where(outside, -3 * given.logits + 1, given.logits).requires_grad_()
    value = given.apply(loss, logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    if not torch.allclose(value, given.apply(loss), rtol=1e-9, atol=1e-12) or bool(
        gradient[outside].any()
    ):
        return "depends on logits outside the box"
    if not loss.needs and not any(
        part.balance == "sqrt_area" or part.info.reads_whole_target(part.params)
        for part in loss.parts
    ):
        other = Example(
            given.logits, torch.where(outside, 1 - given.target, given.target), given.boxes
        )
        if not torch.allclose(other.apply(loss), given.apply(loss), rtol=1e-9, atol=1e-12):
            return "depends on ground truth outside the box"
    return ""


def permutation(loss: MaskLoss) -> str | None:
    if _draws(loss):
        return None
    given = examples(torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    same = torch.allclose(
        given.subset(order).apply(loss), given.apply(loss)[order], rtol=1e-9, atol=1e-12
    )
    return "" if same else "mixes instances: their order changes their values"


def alone(loss: MaskLoss) -> str | None:
    """But for what is declared to depend on the other instances."""
    if _draws(loss) or any(part.pooled or part.balance != "none" for part in loss.parts):
        return None
    given = examples(torch.float64)
    together = given.apply(loss)
    for row in range(len(together)):
        if not torch.allclose(
            given.subset(slice(row, row + 1)).apply(loss)[0], together[row], rtol=1e-9, atol=1e-12
        ):
            return "mixes instances: one of them alone has another value than among others"
    return ""


def flips(loss: MaskLoss) -> str | None:
    if _draws(loss):
        return None
    given = examples(torch.float64)
    for axis, low, name in ((2, 0, "left and right"), (1, 1, "top and bottom")):
        boxes = given.boxes.clone()
        boxes[:, low], boxes[:, low + 2] = 1 - given.boxes[:, low + 2], 1 - given.boxes[:, low]
        mirrored = Example(given.logits.flip(axis), given.target.flip(axis), boxes)
        if not torch.allclose(mirrored.apply(loss), given.apply(loss), rtol=1e-9, atol=1e-12):
            return f"changes when {name} are swapped"
    return ""


def descent(loss: MaskLoss) -> str:
    """From random logits, steps down the gradient must come close to the loss of a perfect mask,
    and to that mask.

    Pixels that never had a gradient are left out of the second comparison: those of distance 0, and
    those outside boxes."""
    given = examples().subset(slice(0, 3))
    best = float(given.apply(loss, SURE * (2 * given.target - 1)).detach().sum())
    logits = given.logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=DESCENT_RATE)
    touched = torch.zeros_like(given.target, dtype=torch.bool)
    start = float(given.apply(loss).detach().sum())
    for _ in range(DESCENT_STEPS):
        optimizer.zero_grad()
        given.apply(loss, logits).sum().backward()
        touched |= logits.grad != 0
        optimizer.step()
    end = float(given.apply(loss, logits.detach()).detach().sum())
    if not start > best:
        return "a perfect mask costs no less than a random one"
    if end - best > DESCENT_GAP * (start - best):
        return (
            f"descending its gradient stops at {(end - best) / (start - best):.0%} of the way "
            "above a perfect mask"
        )
    found, wanted = (logits.detach() > 0) & touched, (given.target > 0.5) & touched
    iou = float((found & wanted).sum() / (found | wanted).sum().clamp(min=1))
    return (
        ""
        if iou >= DESCENT_IOU
        else f"descending its gradient ends at an IoU of {iou:.2f} with the target"
    )


CHECKS: tuple[Callable[[MaskLoss], str | None], ...] = (
    shape,
    sign,
    zero_at_a_perfect_mask,
    finite_at_extremes,
    no_instances,
    gradient,
    half_precision,
    weight_zero,
    permutation,
    alone,
    flips,
    descent,
    soft_targets,
)


def is_signed(loss: MaskLoss) -> bool:
    """Whether any term of the loss may be negative."""
    return any(part.info.is_signed(part.params) for part in loss.parts)


def _draws(loss: MaskLoss) -> bool:
    return any(part.random for part in loss.parts)


def _outside(given: Example) -> Tensor:
    _, height, width = given.logits.shape
    return ~box_window(given.boxes, (height, width), PADDING)
