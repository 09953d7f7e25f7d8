"""The mask-loss survey's tables as presets: what each row computed, and the corrected form beside
it. Plain data for data/config.py.

The rows are those of github.com/selamikarakas/YolactLossSurvey (commit 2d73b33) and its paper;
docs/reference/survey.md explains them. A replay starts from yolact_plus_base_cigarettes and differs
in what the published code did: its form of the loss, nine outputs of the classifier, images in file
order, batch 16 with scaled lr and iterations unless its row is known to have had another. The
corrected form of a row is the base itself with the loss that the row's name promises, on the row's
schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PREFIX = "survey/"
TABLES = "mask-loss survey"  # what `published` says of the data sets that they belong to
BASE = "yolact_plus_base_cigarettes"
BATCH = {"train.batch_size": 16}  # of the experiments, by the paper's text

# class_names=('cig_butt') is a string there, so it counts as 8 classes; label_map sends the one
# category of the set to the first of them.
REPLAY = {
    "data.class_names": ("cig_butt", *(f"unused_{n}" for n in range(1, 8))),
    "data.label_map": {1: 0},
    "train.shuffle": False,
}

BOX = "outside='charge'"  # the term that the code crops
# the term that it adds uncropped, divided by the size of the map instead of the box's area
MAP = "region='image', rescale=False"

# name: (row, what it computed, loss.mask of the replay, loss.mask of the corrected form or None
# where another row's is that form)
SINGLE = {
    "dice": (
        "Table II, Dice Loss",
        "Dice of every single pixel, not of areas",
        f"survey_dice({BOX})",
        "dice",
    ),
    "huber": (
        "Table II, Huber Loss",
        "delta 1, which is exactly MSE/2",
        f"survey_huber({BOX})",
        "huber(delta=0.5)",
    ),
    "log_cosh_dice": (
        "Table II, Log Cosh Dice",
        "log cosh of every single pixel's Dice",
        f"survey_log_cosh_dice({BOX})",
        "log_cosh_dice",
    ),
    "mse": (
        "Table II, MSE Loss",
        "by its formula; the committed config gives mse_as_committed",
        f"mse({BOX})",
        "mse",
    ),
    "mse_as_committed": (
        "Table II, MSE Loss",
        "BCE, as its config sets a key that nothing reads",
        f"bce({BOX})",
        None,
    ),
    "huber_bce": (
        "Table II, Huber + BCE",
        "BCE + MSE/2, the latter uncropped",
        f"bce({BOX}) + survey_huber({MAP})",
        "bce + huber(delta=0.5)",
    ),
    "huber_mse": (
        "Table II, Huber + MSE",
        "MSE/2 + MSE, the latter uncropped",
        f"survey_huber({BOX}) + mse({MAP})",
        "huber(delta=0.5) + mse",
    ),
    "bce_mse": (
        "Table II, BCE + MSE",
        "BCE + MSE, the latter uncropped",
        f"bce({BOX}) + mse({MAP})",
        "bce + mse",
    ),
    "huber_delta2": (
        "Huber, delta 2",
        "exactly MSE/2, as every delta from 1 on",
        f"survey_huber(delta=2, {BOX})",
        None,
    ),
    "huber_delta3": (
        "Huber, delta 3",
        "exactly MSE/2, as every delta from 1 on",
        f"survey_huber(delta=3, {BOX})",
        None,
    ),
    "huber_delta1_3": (
        "Huber, delta 1.3",
        "exactly MSE/2, as every delta from 1 on",
        f"survey_huber(delta=1.3, {BOX})",
        None,
    ),
    "huber_delta1_5": (
        "Huber, delta 1.5",
        "exactly MSE/2, as every delta from 1 on",
        f"survey_huber(delta=1.5, {BOX})",
        None,
    ),
    "log_cosh_bce": (
        "Log Cosh BCE",
        "finite here, where the original overflowed",
        f"survey_log_cosh_bce({BOX})",
        "log_cosh_bce",
    ),
}

# Table III, alpha L1 + L2: alpha weights the uncropped term alone. name: (alpha, L1, L2)
HYBRIDS = {
    f"{alpha}{first}_{second}": (alpha, first, second)
    for first, second, alphas in (
        ("mse", "bce", (2, 3, 0.5)),
        ("mse", "huber", (2, 3, 0.5)),
        ("huber", "bce", (2, 3, 0.5)),
    )
    for alpha in alphas
}
TITLES = {"mse": "MSE", "bce": "BCE", "huber": "Huber"}
FORMULAS = {"mse": "MSE", "bce": "BCE", "huber": "MSE/2"}
REPLAYED = {"mse": "mse", "bce": "bce", "huber": "survey_huber"}
CORRECTED = {"mse": "mse", "bce": "bce", "huber": "huber(delta=0.5)"}


def rows() -> dict[str, tuple[str, str, str, str | None]]:
    """Tables II and III but for BCE, in the form of SINGLE."""
    return {**SINGLE, **{name: _hybrid(*parts) for name, parts in HYBRIDS.items()}}


def presets() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, one line that says what it computes, changes to BASE)."""
    yield from _bce()
    for name, (row, computed, replay, corrected) in rows().items():
        yield f"{PREFIX}{name}", f"{row}: {computed}", {**REPLAY, **BATCH, "loss.mask": replay}
        if corrected is not None:
            yield (
                f"{PREFIX}{name}_corrected",
                f"{row}, corrected: {corrected}, one class, shuffled",
                {**BATCH, "loss.mask": corrected},
            )


def _bce() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The rows of BCE, which differ in batch size and schedule."""
    replay = {**REPLAY, "loss.mask": f"bce({BOX})"}
    yield (
        f"{PREFIX}bce",
        "Tables I and II, BCE: batch 8, though the text says 16 for Table II",
        replay,
    )
    yield (
        f"{PREFIX}bce_batch2",
        "Table I, batch 2: a quarter of the lr and 4 x the iterations, by autoscale",
        {**replay, "train.batch_size": 2},
    )
    yield (
        f"{PREFIX}bce_batch16",
        "Table I, batch 16: lr x 2 and half the iterations, by autoscale",
        {**replay, **BATCH},
    )
    yield (
        f"{PREFIX}bce_lr_1e-3",
        "BCE, batch 8, lr 1e-3 of the committed config (the paper says 1e-4)",
        {**replay, "train.lr": 1e-3},
    )
    yield (
        f"{PREFIX}bce_corrected",
        "Table II, BCE, corrected: bce at the other rows' batch 16, one class, shuffled",
        BATCH,
    )
    for size in (2, 8, 16):
        yield (
            f"{PREFIX}bce_batch{size}_corrected",
            f"Table I, batch {size}, corrected: equal lr and iterations, one class, shuffled",
            {"train.batch_size": size, "train.autoscale": False},
        )


def _hybrid(alpha: float, first: str, second: str) -> tuple[str, str, str, str]:
    """A row of HYBRIDS, in the form of SINGLE."""
    factor = alpha / 2 if first == "huber" else alpha
    computed = (
        f"{FORMULAS[second]} + {'' if factor == 1 else f'{factor:g} '}MSE, the latter uncropped"
    )
    replay = f"{REPLAYED[second]}({BOX}) + {alpha}*{REPLAYED[first]}({MAP})"
    return (
        f"Table III, {alpha}{TITLES[first]} + {TITLES[second]}",
        computed,
        replay,
        f"{CORRECTED[second]} + {alpha}*{CORRECTED[first]}",
    )
