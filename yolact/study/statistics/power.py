"""How many seeds a study needs: before it starts (power), and while an arm is undecided (seeds
still needed)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolact.study.statistics.inference import critical
from yolact.study.statistics.verdict import LEAST_SEEDS, LEVEL, MARGIN, spending

DRAWS, MOST_SEEDS, WANTED = 2000, 50, 0.8


@dataclass(frozen=True)
class Needed:
    """What an undecided arm needs. seeds: in all, so that 80 % reach a verdict; None where no
    number up to 50 does. Then either the images are too few (floor is the 95 % half-width that
    stays with any number of seeds, images how many equivalence wants of such images, of which the
    set has `images_now`), or, where it has enough, more than 50 seeds would be needed."""

    seeds: int | None
    floor: float
    images: int
    images_now: int

    def __str__(self) -> str:
        if self.seeds is not None:
            return f"about {self.seeds} seeds in all would decide it"
        if self.images <= self.images_now:
            return (
                f"more than {MOST_SEEDS} seeds would be needed: the images are enough, the "
                "seeds differ too much"
            )
        return (
            f"seeds will not decide (not {MOST_SEEDS}): any number of them leaves "
            f"+-{self.floor:.2f} from the images, and equivalence wants {self.images} images, of "
            f"{self.images_now} now"
        )


def seeds_needed(
    difference: float,
    s2: float,
    v: float,
    df: float,
    image: float,
    seeds: int,
    *,
    images: int,
    arms: int = 1,
    margin: float = MARGIN,
    level: float = LEVEL,
) -> Needed:
    """Seeds in all at which 80 % of continued studies reach better, worse or equivalent at level /
    arms.

    What is not known is drawn: the seed variance as v df / chi2_df, and the mean over all seeds on
    these images around the difference found. The seeds to come are simulated and join those that
    are there.
    """
    rng = np.random.default_rng(0)
    variance = v * df / rng.chisquare(df, DRAWS)
    mean = difference + np.sqrt(variance / seeds) * rng.standard_normal(DRAWS)
    fresh = (mean - difference)[:, None] + np.sqrt(variance)[:, None] * rng.standard_normal(
        (DRAWS, max(0, MOST_SEEDS - seeds))
    )
    # sums of what each seed is off `difference`, squared
    gone, squares = np.zeros(DRAWS), np.full(DRAWS, (seeds - 1) * s2)
    for total, added in enumerate(fresh.T, seeds + 1):
        gone, squares = gone + added, squares + added**2
        seed_part = (squares - gone**2 / total) / (total - 1) / total
        if (
            np.mean(
                _decided(
                    difference + gone / total, seed_part, image, total - 1, level / arms, margin
                )
            )
            >= WANTED
        ):
            break
    else:
        total = None
    return Needed(total, 1.96 * math.sqrt(image), math.ceil(9 * images * image / margin**2), images)


def _decided(
    d: np.ndarray, seed_part: np.ndarray, image: float, df: int, level: float, margin: float
) -> np.ndarray:
    differs = np.abs(d) > critical(seed_part, image, df, level)
    return differs | (margin - np.abs(d) > critical(seed_part, image, df, 2 * level))


@dataclass(frozen=True)
class Power:
    """What a planned study can find, in AP points and shares of studies. All at level / arms, as
    the least favoured arm has it.

    power       share that finds a true difference of `margin`
    smallest    the true difference found with 80 % power
    equivalent  share of arms without any difference that come out equivalent
    reachable   whether the images leave room for equivalence at all, with ever so many seeds
    """

    power: float
    smallest: float
    equivalent: float
    reachable: bool

    def __str__(self) -> str:
        can = (
            f"equivalence is reached by {100 * self.equivalent:.0f} % of arms without a difference"
            if self.reachable
            else "equivalence cannot be reached: the images alone leave more than the margin"
        )
        return (
            f"a difference as large as the margin is found with {100 * self.power:.0f} % power; "
            f"80 % power from a difference of {self.smallest:.2f} on; {can}"
        )


def plan_power(
    seeds: int | Sequence[int],
    *,
    arms: int,
    seed_sd: float,
    floor: float,
    margin: float = MARGIN,
    level: float = LEVEL,
    draws: int = 10_000,
) -> Power:
    """Simulates the planned study.

    seeds    their number, or the numbers at which one looks, [3, 5, 10]
    arms     K, without the baseline
    seed_sd  standard deviation over seeds of the difference to the baseline, AP points, as the
             reports print it
    floor    95 % half-width from the images alone, 1.96 sqrt(I), AP points
    """
    looks = [seeds] if isinstance(seeds, int) else list(seeds)
    if looks[-1] < LEAST_SEEDS or seed_sd < 0 or floor < 0 or arms < 1 or margin <= 0:
        raise ValueError(
            "a verdict needs at least 3 seeds, one arm beside the baseline, a margin above 0, and "
            "sd and floor not below 0"
        )
    image, rng = (floor / 1.96) ** 2, np.random.default_rng(0)
    noise = math.sqrt(image) * rng.standard_normal(draws)[:, None] + seed_sd * rng.standard_normal(
        (draws, looks[-1])
    )
    plan = [
        (noise[:, :s].mean(1), noise[:, :s].var(1, ddof=1) / s, s - 1, a / arms)
        for s, a in zip(looks, spending(looks, level))
        if s >= LEAST_SEEDS
    ]
    limits = [critical(seed_part, image, df, a) for _, seed_part, df, a in plan]

    def found(true: float) -> float:
        """The share that comes out better at some look."""
        return float(
            np.mean(
                np.any([true + error > limit for (error, *_), limit in zip(plan, limits)], axis=0)
            )
        )

    equivalent = np.any(
        [
            margin - np.abs(error) > critical(seed_part, image, df, 2 * a)
            for error, seed_part, df, a in plan
        ],
        axis=0,
    )
    low, high = 0.0, 20 * max(seed_sd, floor, 1e-9)
    while found(high) < WANTED:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= WANTED else (middle, high)
    from_images = float(critical(np.zeros(1), image, 2, 2 * max(a for *_, a in plan))[0])
    return Power(found(margin), high, float(equivalent.mean()), from_images < margin)
