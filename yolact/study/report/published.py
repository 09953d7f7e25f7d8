"""The mask-loss survey's published figures, and which of them belongs beside an arm. Imports no
torch.

From the README and the paper of github.com/selamikarakas/YolactLossSurvey (commit 2d73b33):
YOLACT++ on Cigarette butts, AP in percent on 200 images, one training a row. What a row computed
is said by its preset in data/survey.py; docs/reference/survey.md explains it, and prints the
figures again. A row holds every threshold that the paper or the README prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from data import survey
from data.resolve import published_tables
from data.schema import Config
from layers.losses.expr import Term, parse

ALL = (50, 55, 60, 65, 70, 75, 80, 85, 90, 95)
SOME = (50, 60, 65, 70, 75, 80, 90, 95)  # of the combinations: the paper's and the README's
BATCH = (50, 75, 90, 95)  # of the batch sizes: the paper's, and AP90
BASELINE = "bce"
# parameters that tell forms of one loss apart, not losses
_FORMS = {"outside", "region", "rescale", "delta"}
_DELTAS = {"2": "huber_delta2", "3": "huber_delta3"}  # rows of their own in the paper
_REMARKS = {
    "mse": "MSE by its formula, BCE by its committed config",
    "bce": "BCE at batch 8, though the text says 16",
    "0.5huber_bce": "BCE + 0.25 MSE, the latter uncropped; the README's AP95 of 83.25 is a slip, "
    "the paper prints 0.05",
    "log_cosh_bce": "log cosh of each pixel's BCE; a batch whose loss overflowed was skipped",
}


@dataclass(frozen=True)
class Published:
    """One row. name: of its preset; title: as printed; ap, by_threshold {50: ...}: percent;
    computed: what its code computed; shape: mask, or box where detection is meant."""

    name: str
    title: str
    fps: float | None
    ap: float
    by_threshold: dict[int, float]
    computed: str
    shape: str = "mask"


NOTE = (  # what the reader of a table with such rows must know
    "Published: github.com/selamikarakas/YolactLossSurvey and its paper, one training a row on the "
    "real Cigarette-butts set, 200 test images; its absolute figures are not comparable with those "
    "of another set, size or length. docs/reference/survey.md says what each row computed."
)


def published(config: Config) -> Published | None:
    """The row of the survey's single losses and combinations that stands beside a training, or
    None: with its mask loss, in whatever form, on a data set that the survey's tables belong to."""
    if published_tables(config.data.name) != survey.TABLES:
        return None
    return _BY_LOSS.get(_key(config.loss.mask))


def table_one(config: Config) -> list[Published]:
    """The rows of Table I beside a training with BCE, of its batch size: masks, then boxes."""
    if published(config) != baseline():
        return []
    return [row for (size, _), row in TABLE_ONE.items() if size == config.train.batch_size]


def baseline() -> Published:
    """BCE, which the survey compares with."""
    return ROWS[BASELINE]


def reference_loss(row: Published) -> str:
    """The loss that beta weights in a row alpha*L1 + L2: the survey added the other to it."""
    return plain_name(parse(_LOSSES[row.name])[0])


def plain_name(term: Term) -> str:
    """The loss that a term is a form of."""
    return term.name.removeprefix("survey_")


def _key(loss: str) -> frozenset:
    """{(loss, coefficient)} of an expression, the same for the survey's form of a loss and the loss
    that it is named after. A lone Huber loss with a delta that has a row goes by its delta."""
    try:
        terms = parse(loss)
    except ValueError:
        return frozenset()
    if not all(set(term.params) <= _FORMS for term in terms):
        return frozenset()
    if len(terms) == 1 and plain_name(terms[0]) == "huber":
        delta = terms[0].params.get("delta")
        name = _DELTAS.get(f"{delta:g}" if isinstance(delta, (int, float)) else "", "huber")
        return frozenset([(name, terms[0].coefficient)])
    return frozenset((plain_name(term), term.coefficient) for term in terms)


# {row: (title as printed, (FPS, AP, AP50, AP55 ... AP95))}
_SINGLE: dict[str, tuple[str, tuple[float, ...]]] = {
    "bce": (
        "BCE",
        (22.21, 83.65, 99.99, 99.99, 99.99, 99.99, 98.99, 98.01, 98.01, 89.95, 49.81, 1.82),
    ),
    "dice": (
        "Dice Loss",
        (22.37, 0.34, 1.87, 1.15, 0.36, 0.09, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),
    ),
    "huber": (
        "Huber Loss",
        (21.89, 80.53, 99.96, 99.96, 98.97, 98.97, 97.98, 97.00, 95.79, 85.39, 30.20, 1.05),
    ),
    "log_cosh_dice": (
        "Log Cosh Dice",
        (21.35, 71.56, 98.96, 98.96, 98.96, 98.94, 97.98, 95.86, 83.48, 39.03, 3.40, 0.00),
    ),
    "mse": (
        "MSE Loss",
        (22.89, 79.21, 98.95, 98.95, 98.95, 97.96, 97.96, 96.94, 93.60, 82.84, 25.92, 0.02),
    ),
    "log_cosh_bce": (
        "Log Cosh BCE",
        (21.46, 80.65, 99.78, 99.78, 99.78, 98.84, 98.84, 97.90, 95.47, 82.11, 32.16, 1.84),
    ),
    "huber_bce": (
        "Huber Loss + BCE",
        (23.89, 81.36, 99.00, 99.00, 99.00, 99.00, 98.00, 97.00, 95.72, 83.89, 42.59, 0.33),
    ),
    "huber_mse": (
        "Huber Loss + MSE",
        (21.78, 78.39, 99.85, 99.85, 99.85, 98.87, 98.86, 97.80, 93.35, 75.13, 20.33, 0.00),
    ),
    "bce_mse": (
        "BCE + MSE",
        (21.48, 80.54, 99.78, 99.78, 99.78, 99.78, 98.86, 98.79, 96.75, 83.25, 28.58, 0.05),
    ),
}
# of the paper alone: (AP, AP50, AP55, AP65, AP75, AP95)
_DELTA: dict[str, tuple[str, tuple[float, ...]]] = {
    "huber_delta2": ("Huber Loss, delta 2", (79.03, 99.90, 98.89, 98.89, 97.38, 0.00)),
    "huber_delta3": ("Huber Loss, delta 3", (76.74, 98.82, 98.82, 98.78, 96.75, 0.00)),
}
# the combinations of the README's second table, with AP65 and AP75 from the paper:
# (FPS, AP, AP50, AP60, AP65, AP70, AP75, AP80, AP90, AP95)
_HYBRID: dict[str, tuple[str, tuple[float, ...]]] = {
    "2mse_bce": (
        "2MSE + BCE",
        (27.46, 80.53, 99.50, 99.50, 98.52, 98.52, 98.52, 97.42, 30.76, 0.13),
    ),
    "3mse_bce": (
        "3MSE + BCE",
        (25.28, 79.01, 99.02, 99.02, 98.07, 98.07, 96.95, 93.27, 27.95, 0.00),
    ),
    "2mse_huber": (
        "2MSE + Huber",
        (26.54, 75.44, 99.02, 97.13, 97.13, 97.13, 95.19, 92.18, 14.63, 0.00),
    ),
    "3mse_huber": (
        "3MSE + Huber",
        (26.40, 78.00, 98.99, 98.01, 98.00, 97.01, 95.97, 93.71, 21.20, 0.00),
    ),
    "2huber_bce": (
        "2Huber + BCE",
        (26.59, 82.37, 99.96, 98.75, 98.71, 96.28, 96.28, 96.09, 48.86, 0.82),
    ),
    "3huber_bce": (
        "3Huber + BCE",
        (26.70, 83.24, 98.91, 98.91, 98.91, 98.91, 98.89, 96.85, 51.82, 0.38),
    ),
    "0.5mse_bce": (
        "0.5MSE + BCE",
        (27.46, 84.43, 99.98, 99.98, 99.98, 99.98, 98.98, 97.98, 54.41, 2.08),
    ),
    "0.5mse_huber": (
        "0.5MSE + Huber",
        (26.07, 71.37, 93.93, 92.71, 92.71, 89.80, 89.55, 84.60, 13.13, 0.00),
    ),
    "0.5huber_bce": (
        "0.5Huber + BCE",
        (27.62, 82.35, 99.86, 99.86, 99.86, 98.89, 98.89, 97.84, 42.13, 0.05),
    ),
}
# Table I, {(batch, shape): (AP, AP50, AP75, AP95)}
_BATCHES = {
    (2, "mask"): (82.19, 98.63, 97.53, 1.18),
    (2, "box"): (75.91, 98.84, 96.59, 0.28),
    (8, "mask"): (83.65, 99.99, 98.01, 1.82),
    (8, "box"): (79.91, 99.99, 98.99, 0.22),
    (16, "mask"): (84.67, 98.95, 98.95, 2.23),
    (16, "box"): (77.27, 98.94, 97.91, 0.10),
}
_SCHEDULES = {2: "lr / 4, 4 x the iterations", 8: "", 16: "lr x 2, half the iterations"}


def _rows() -> dict[str, Published]:
    computed = {name: words for name, (_, words, *_) in survey.rows().items()} | _REMARKS
    rows = {}
    for printed, columns in ((_SINGLE, ALL), (_HYBRID, SOME)):
        for name, (title, (fps, ap, *values)) in printed.items():
            found = dict(zip(columns, values, strict=True))
            rows[name] = Published(name, title, fps, ap, found, computed[name])
    for name, (title, (ap, *values)) in _DELTA.items():
        found = dict(zip((50, 55, 65, 75, 95), values, strict=True))
        rows[name] = Published(name, title, None, ap, found, computed[name])
    return rows


def _table_one() -> dict[tuple[int, str], Published]:
    rows = {}
    for (batch, shape), (ap, *values) in _BATCHES.items():
        found = dict(zip((50, 75, 95), values, strict=True))
        title = f"BCE, batch {batch}, {'boxes' if shape == 'box' else 'masks'}"
        computed = ", ".join(filter(None, ("BCE", _SCHEDULES[batch])))
        name = f"bce_batch{batch}"
        rows[batch, shape] = Published(name, title, None, ap, found, computed, shape)
    return rows


ROWS = _rows()
TABLE_ONE = _table_one()
_LOSSES = {BASELINE: "bce"} | {name: loss for name, (_, _, loss, _) in survey.rows().items()}
_BY_LOSS = {_key(_LOSSES[name]): row for name, row in ROWS.items()}
