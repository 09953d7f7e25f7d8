"""The mask-loss survey's published figures, and which of them belongs beside an arm. Imports no
torch.

From the README and the paper of github.com/selamikarakas/YolactLossSurvey (commit 2d73b33):
YOLACT++ on Cigarette butts, mask AP in percent on 200 images, one training a row. What a row
computed is said by its preset in data/survey.py; docs/reference/survey.md explains it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from data import survey
from data.resolve import published_tables
from data.schema import Config
from layers.losses.expr import Term, parse

ALL = (50, 55, 60, 65, 70, 75, 80, 85, 90, 95)
SOME = (50, 60, 70, 80, 90, 95)  # the columns of the table of combinations
BASELINE = "bce"
# parameters that tell forms of one loss apart, not losses
_FORMS = {"outside", "region", "rescale", "delta"}
_REMARKS = {
    "mse": "MSE by its formula, BCE by its committed config",
    "bce": "BCE at batch 8, though the text says 16",
    "0.5huber_bce": "BCE + 0.25 MSE, the latter uncropped; its printed AP95 of 83.25 cannot be "
    "and is left out",
}


@dataclass(frozen=True)
class Published:
    """One row. name: of its preset; title: as printed; ap, by_threshold {50: ...}: percent;
    computed: what its code computed."""

    name: str
    title: str
    fps: float | None
    ap: float
    by_threshold: dict[int, float]
    computed: str


NOTE = (  # what the reader of a table with such rows must know
    "Published: github.com/selamikarakas/YolactLossSurvey and its paper, one training a row on the "
    "real Cigarette-butts set, 200 test images; its absolute figures are not comparable with those "
    "of another set, size or length. docs/reference/survey.md says what each row computed."
)


def published(config: Config, *, batch_sizes: bool = False) -> Published | None:
    """The row of the survey that stands beside a training, or None: with its mask loss, in whatever
    form, on a data set that the survey's tables belong to. batch_sizes: the row of its batch size
    instead (Table I), of BCE alone."""
    if published_tables(config.data.name) != survey.TABLES:
        return None
    row = _BY_LOSS.get(_key(config.loss.mask))
    if batch_sizes:
        same = {8: replace(baseline(), computed="BCE"), 16: _ROWS["bce_batch16"]}
        return same.get(config.train.batch_size) if row == baseline() else None
    return row


def baseline() -> Published:
    """BCE, which the survey compares with."""
    return _ROWS[BASELINE]


def reference_loss(row: Published) -> str:
    """The loss that beta weights in a row alpha*L1 + L2: the survey added the other to it."""
    return plain_name(parse(_LOSSES[row.name])[0])


def plain_name(term: Term) -> str:
    """The loss that a term is a form of."""
    return term.name.removeprefix("survey_")


def _key(loss: str) -> frozenset:
    """{(loss, coefficient)} of an expression, the same for the survey's form of a loss and the loss
    that it is named after."""
    try:
        terms = parse(loss)
    except ValueError:
        return frozenset()
    plain = all(set(term.params) <= _FORMS for term in terms)
    return (
        frozenset((plain_name(term), term.coefficient) for term in terms) if plain else frozenset()
    )


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
# the same with AP50, AP60, AP70, AP80, AP90, AP95
_HYBRID: dict[str, tuple[str, tuple[float, ...]]] = {
    "2mse_bce": ("2MSE + BCE", (27.46, 80.53, 99.50, 99.50, 98.52, 97.42, 30.76, 0.13)),
    "3mse_bce": ("3MSE + BCE", (25.28, 79.01, 99.02, 99.02, 98.07, 93.27, 27.95, 0.00)),
    "2mse_huber": ("2MSE + Huber", (26.54, 75.44, 99.02, 97.13, 97.13, 92.18, 14.63, 0.00)),
    "3mse_huber": ("3MSE + Huber", (26.40, 78.00, 98.99, 98.01, 97.01, 93.71, 21.20, 0.00)),
    "2huber_bce": ("2Huber + BCE", (26.59, 82.37, 99.96, 98.75, 96.28, 96.09, 48.86, 0.82)),
    "3huber_bce": ("3Huber + BCE", (26.70, 83.24, 98.91, 98.91, 98.91, 96.85, 51.82, 0.38)),
    "0.5mse_bce": ("0.5MSE + BCE", (27.46, 84.43, 99.98, 99.98, 99.98, 97.98, 54.41, 2.08)),
    "0.5mse_huber": ("0.5MSE + Huber", (26.07, 71.37, 93.93, 92.71, 89.80, 84.60, 13.13, 0.00)),
    "0.5huber_bce": ("0.5Huber + BCE", (27.62, 82.35, 99.86, 99.86, 98.89, 97.84, 42.13)),
}


def _rows() -> dict[str, Published]:
    computed = {name: words for name, (_, words, *_) in survey.rows().items()} | _REMARKS
    rows = {
        "bce_batch16": Published(
            "bce_batch16", "BCE, batch 16", None, 84.67, {}, "BCE, lr x 2, half the iterations"
        )
    }
    for printed, columns in ((_SINGLE, ALL), (_HYBRID, SOME)):
        for name, (title, (fps, ap, *values)) in printed.items():
            found = dict(zip(columns, values))
            rows[name] = Published(name, title, fps, ap, found, computed[name])
    return rows


_ROWS = _rows()
_LOSSES = {BASELINE: "bce"} | {name: loss for name, (_, _, loss, _) in survey.rows().items()}
_BY_LOSS = {_key(_LOSSES[name]): row for name, row in _ROWS.items() if name != "bce_batch16"}
