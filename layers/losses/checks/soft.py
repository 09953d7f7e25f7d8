"""What a mask loss does with targets between 0 and 1: what it states (LossInfo.soft), against where
it is least as measured.

The loss function itself is measured, over whole maps: uniform regions, and masks whose border cells
are covered in part. Options of a term (region, sampling, balance) do not come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from layers.extras import make_extras
from layers.losses.mask import MaskLoss, MaskTerm, build_mask_loss

SIZE = 12  # pixels of a map's side
FINE = 8  # samples a pixel's side, of which the share inside a shape is taken
SHARES = tuple(tenth / 10 for tenth in range(1, 10))
LEVELS = 101  # uniform predictions that are tried, 0 and 1 among them
STEPS = (1e-4, 1e-2, 0.2)  # of probabilities, away from the target
DIRECTIONS = 6
SURE = 40.0  # a logit whose probability is 0 or 1 but for 4e-18
# what a value may lie below that at the target: of the spread of values, and for rounding
TOLERANCE, ROUNDING = 1e-9, 1e-13


@dataclass(frozen=True)
class SoftFinding:
    """does      "proper": no prediction that was tried costs less than the target itself. "not
              proper": one does. "broken": the function raises, or a value is not finite
    least     (share, p) of uniform regions: the p in steps of 0.01 at which they cost least
    why       how it is broken"""

    does: Literal["proper", "not proper", "broken"]
    least: tuple[tuple[float, float], ...] = ()
    why: str = ""

    @property
    def where(self) -> str:
        """Where a loss that is not proper is least, in words."""
        if all(abs(p - t) < 0.5 / LEVELS for t, p in self.least):
            return "inside masks whose border cells are covered in part"
        shares, levels = zip(*self.least, strict=True)
        if len(set(levels)) == 1:
            return f"at p = {levels[0]:g} for regions of every share from 0.1 to 0.9"
        return (
            f"at p = {', '.join(f'{p:g}' for p in levels)} for regions of "
            f"{', '.join(map(str, shares))}"
        )


def measure_soft(part: MaskTerm) -> SoftFinding:
    """Tries the loss function of a term, with its parameters, on soft targets in float64."""
    least: list[tuple[float, float]] = []
    does: Literal["proper", "not proper"] = "proper"
    for share, target in _maps():
        tried = _predictions(target)
        try:
            values = _values(part, tried, target)
        except Exception as error:  # a user's loss may raise anything
            return SoftFinding("broken", why=f"raises {type(error).__name__}: {error}")
        if not values.isfinite().all():
            return SoftFinding("broken", why="has a value that is not finite")
        lowest = int(values.argmin())
        spread, size = float(values.max() - values.min()), float(values.abs().max())
        if float(values[0] - values[lowest]) > max(TOLERANCE * spread, ROUNDING * size):
            does = "not proper"
        else:
            lowest = 0
        if share is not None:
            least.append((share, round(float(tried[lowest].mean()), 2)))
    return SoftFinding(does, tuple(least))


def soft_targets(loss: MaskLoss) -> str | None:
    """A check of the contract (contract.py): "proper" and "not proper" must be true."""
    stated = [(part, part.info.soft_of(part.params)) for part in loss.parts]
    stated = [(part, soft) for part, soft in stated if soft in ("proper", "not proper")]
    for part, soft in stated:
        found = measure_soft(part)
        if found.does == "broken":
            return f"states soft={soft!r}, but {found.why} for targets between 0 and 1"
        if soft == "proper" and found.does == "not proper":
            return f"states soft='proper', but is least {found.where}"
        if soft == "not proper" and found.does == "proper":
            return (
                "states soft='not proper', but is least at the target itself: state soft='proper'"
            )
    return "" if stated else None


def soft_notes(expression: str, plugins: Iterable[str] = ()) -> list[str]:
    """One sentence for each term that is not proper, or does not state what it is."""
    found = []
    for part in build_mask_loss(expression, plugins).parts:
        stated = part.info.soft_of(part.params)
        if stated == "not proper":
            found.append(f"{part.label} is least {measure_soft(part).where}")
        elif stated is None:
            found.append(
                f"{part.label} is given targets cut at 0.5, as its decorator does not state what "
                f"it does with those between: {what_soft_could_be(part)}"
            )
    return found


def what_soft_could_be(part: MaskTerm) -> str:
    """The statements that would be true of a loss, as measured."""
    does = measure_soft(part).does
    return (
        "soft='binary only'"
        if does == "broken"
        else f"soft={does!r} (as measured) or soft='binary only'"
    )


@cache
def _maps() -> tuple[tuple[float | None, Tensor], ...]:
    """(share, (SIZE,SIZE) float64) of uniform regions, and (None, target) of masks: a disc, a frame
    and a thin bar by the share of each pixel that they cover, and noise."""
    ones = torch.ones(SIZE, SIZE, dtype=torch.float64)
    place = (torch.arange(SIZE * FINE) + 0.5) / FINE
    y, x = torch.meshgrid(place, place, indexing="ij")
    apart = torch.maximum((y - 5.6).abs(), (x - 6.3).abs())
    shapes = (
        (y - 5.7) ** 2 + (x - 6.2) ** 2 <= 3.8**2,
        (apart <= 4.3) & (apart > 2.2),
        ((y - 4.4).abs() <= 0.3) & (x > 2.6) & (x < 9.1),
    )
    noise = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (
        *((share, share * ones) for share in SHARES),
        *((None, _covered(shape)) for shape in shapes),
        (None, noise),
    )


def _covered(fine: Tensor) -> Tensor:
    return fine.double().view(SIZE, FINE, SIZE, FINE).mean((1, 3))


def _predictions(target: Tensor) -> Tensor:
    """(K,SIZE,SIZE) probabilities: the target itself first, steps away from it in several
    directions, the target cut at 0.5, and uniform maps."""
    cut = (target > 0.5).double()
    levels = torch.linspace(0, 1, LEVELS, dtype=torch.float64)[:, None, None]
    away = [step * direction for direction in _directions(target, cut) for step in STEPS]
    return torch.cat(
        (
            target[None],
            (target + torch.stack(away)).clamp(0, 1),
            cut[None],
            levels.expand(-1, SIZE, SIZE),
        )
    )


def _directions(target: Tensor, cut: Tensor) -> Iterator[Tensor]:
    """Every pixel up, every pixel to the nearer of 0 and 1, and up and down at random; each way and
    back. Pixels of 0 and 1 stay in half of them."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.ones_like(target), cut - target]
    found += [
        torch.randint(2, target.shape, generator=generator).double() * 2 - 1
        for _ in range(DIRECTIONS)
    ]
    inside = ((target > 0) & (target < 1)).double()
    for direction in found:
        for sign in (1, -1):
            yield sign * direction
            yield sign * direction * inside


def _values(part: MaskTerm, tried: Tensor, target: Tensor) -> Tensor:
    """(K,) the loss of each prediction (K,H,W) over the whole map."""
    logits = tried.logit().clamp(-SURE, SURE)
    targets = target.expand_as(logits).contiguous()
    extras = make_extras(part.info.needs, target[None] > 0.5)
    own = {name: value.expand(len(logits), *value.shape[1:]) for name, value in extras.items()}
    with torch.no_grad():
        if part.info.kind == "region":
            return part.info.function(
                logits, targets, torch.ones_like(targets), **part.params, **own
            )
        return part.info.function(logits, targets, **part.params, **own).sum((1, 2))
