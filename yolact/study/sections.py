"""The sections of a study's file: an entry of arms, the start of every run, tuning, search."""

from __future__ import annotations

import re
from math import prod
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, StrictBool, field_validator, model_validator

from data.fields import Positive, PositiveInt, Section, Seed

TUNE_SEED = 10_000  # far from the seeds that people report
MOST_SEEDS, MOST_ARMS, MOST_TRIALS = 1000, 1000, 10_000
MOST_RUNS = 20_000  # arms x seeds: each is resolved before the first is trained
FIGURE = r"(mask|box)_ap(50|55|60|65|70|75|80|85|90|95|_small|_medium|_large)?"
SEED_STRIDE = 1000  # between the training seeds of two arms with paired: false

Seeds = Annotated[tuple[Seed, ...], Field(max_length=MOST_SEEDS)]
Settings = dict[str, Any]  # {"section.field": value}; an arm's may also hold "base"
Grid = dict[str, list]


class ArmEntry(Section):
    """One entry of arms: settings alone, or those of every point of a grid or zip."""

    label: str = Field("", description="name of the arm in tables; empty = what it changes")
    settings: Settings = Field({}, description="what it changes; 'base' may be among it")
    grid: Grid = Field({}, description="every combination of these values is an arm")
    zip: Grid = Field({}, description="the first of all values is an arm, the second of all, ...")
    tune: Grid = Field(
        {}, description="the arm's own grid of settings to tune; empty = the study's"
    )

    @model_validator(mode="after")
    def _consistent(self):
        if self.grid and self.zip:
            raise ValueError("an entry of arms is a grid or a zip, not both: write two entries")
        if self.label and (self.grid or self.zip):
            raise ValueError(
                f"label: {self.label!r} would name every arm of the grid or zip: leave it out, or "
                "write the arms one by one"
            )
        if prod(map(len, self.tune.values())) > MOST_TRIALS:
            raise ValueError(f"tune: makes more than {MOST_TRIALS} trials")
        lengths = {axis: len(values) for axis, values in self.zip.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "the lists of a zip must have one length, got "
                f"{', '.join(f'{k}: {n}' for k, n in lengths.items())}"
            )
        if len(self.axes) > len(set(self.axes)):
            raise ValueError(f"{next(a for a in self.axes if self.axes.count(a) > 1)} is set twice")
        return self

    @property
    def count(self) -> int:
        """How many arms the entry makes."""
        if self.zip:
            return len(next(iter(self.zip.values())))
        return prod(map(len, self.grid.values()))

    @property
    def axes(self) -> list[str]:
        return [*self.settings, *self.grid, *self.zip]


class InitRun(Section):
    """A training whose last weights runs start from: one for all, or one for each seed."""

    base: str = Field("", description="its config; empty = the study's")
    settings: Settings = Field({}, description="settings on top of the study's")
    iterations: PositiveInt = Field(description="its length")
    seed: Seed = Field(0, description="its seed")
    per_seed: StrictBool = Field(
        False,
        description="a start for each seed, trained with it: seed k of every arm starts from "
        "start k",
    )

    @model_validator(mode="after")
    def _consistent(self):
        if self.per_seed and self.seed:
            raise ValueError(
                f"seed: {self.seed} would be of one start, and per_seed makes one for each seed: "
                "leave out one of the two"
            )
        return self


class Tune(Section):
    """The same number of trials for every arm, on images cut from the training set."""

    grid: Grid = Field(
        description="settings to try, every combination: {train.lr: [...], loss.mask_weight: [...]}"
    )
    seeds: Seeds = Field((TUNE_SEED,), description="seeds of the trials; none of them is reported")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the training images that trials are scored on"
    )
    budget: PositiveInt | None = Field(
        None, description="iterations of a trial; none = the study's budget"
    )

    @model_validator(mode="after")
    def _consistent(self):
        if prod(map(len, self.grid.values())) * len(self.seeds) > MOST_TRIALS:
            raise ValueError(f"tune.grid makes more than {MOST_TRIALS} trials of an arm")
        return self

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, value):
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


class ReportSection(Section):
    """What a study's report keeps."""

    keep_detections: StrictBool = Field(
        True,
        description="report.py --keep also keeps the masks of detections, some 50 bytes each, "
        "for pictures",
    )


class ExternalRow(Section):
    """A row of somebody else's: COCO results that the report evaluates, or figures as printed."""

    results: str = Field(
        "", description="COCO results file on the study's validation set; the report evaluates it"
    )
    figures: dict[str, FiniteFloat] = Field(
        {}, description="AP in points as printed: {mask_ap: 34.1, mask_ap50: 53.3}"
    )
    source: str = Field("", description="where the row is from; figures need it")

    @model_validator(mode="after")
    def _consistent(self):
        if bool(self.results) == bool(self.figures):
            raise ValueError("external: a row needs results: or figures:, one of the two")
        if self.figures and not self.source.strip():
            raise ValueError("external: a row of figures needs its source:")
        for name, value in self.figures.items():
            if not re.fullmatch(FIGURE, name):
                raise ValueError(
                    f"external: figures has {name!r}: name metrics as mask_ap, mask_ap50 or box_ap"
                )
            if not 0 <= value <= 100:
                raise ValueError(f"external: {name}: {value:g} is not in AP points, 0 to 100")
        return self


class Range(Section):
    low: FiniteFloat
    high: FiniteFloat
    log: bool = Field(False, description="uniform in the logarithm")
    step: Positive | None = Field(None, description="only low, low + step, ...")

    @model_validator(mode="after")
    def _consistent(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"needs low < high{', above 0 with log: true' if self.log else ''}, got "
                f"{self.low:g} and {self.high:g}"
            )
        return self


class Search(Section):
    """What --search draws: settings with {placeholders}, and the range of each."""

    settings: Settings = Field(
        {}, description="settings with placeholders: {loss.mask: 'bce + {alpha}*mse'}"
    )
    space: dict[str, Range | list] = Field(
        description="a range or a list of values for each placeholder, or for a setting by its key"
    )
    trials: Annotated[PositiveInt, Field(le=MOST_TRIALS)] = Field(
        30, description="trials in all, over every process and every start"
    )
    seed: Seed = Field(TUNE_SEED, description="seed of each training, and of the sampler")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the training images that trials are scored on"
    )
    budget: PositiveInt | None = Field(
        None, description="iterations of a trial; none = the study's budget"
    )

    @property
    def placeholders(self) -> set[str]:
        return {
            name
            for value in self.settings.values()
            if isinstance(value, str)
            for name in re.findall(r"\{(\w+)\}", value)
        }
