"""A study in one YAML file: arms, seeds, budget, and what is decided before the first run. Imports
no torch.

    base: yolact_plus_small_cigarettes
    settings: {train.batch_size: 16}          # of every arm
    arms:                                     # one loss is short for {loss.mask: ...}
      - bce
      - 0.5*mse + bce
      - grid: {loss.mask: [dice, bce + dice], loss.mask_weight: [3, 6.125]}
    baseline: bce
    seeds: 5                                  # 0, 1, 2, 3, 4
    budget: 4000                              # iterations

docs/reference/sweeps.md describes every key. arms.py makes arms and configs of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from data.contents import read_text
from data.fields import Positive, PositiveInt, Section
from data.messages import brief, reason
from data.resolve import ConfigError
from data.yaml_text import read_yaml, write_yaml
from layers.names import did_you_mean
from layers.problems import ProblemError, is_line
from yolact.study.folder.layout import study_file
from yolact.study.sections import (
    MOST_ARMS,
    MOST_RUNS,
    MOST_SEEDS,
    SEED_STRIDE,
    ArmEntry,
    ExternalRow,
    InitRun,
    Range,
    ReportSection,
    Search,
    Seeds,
    Settings,
    Tune,
)
from yolact.study.shorthand import READERS

METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
PRIMARY = re.compile(rf"(mask|box)_({'|'.join(METRICS)})")


class Study(Section):
    name: str = Field(description="folder under runs/; the file's name if it is left out")
    description: str = Field("", description="what the study asks")
    base: str = Field(
        description="config that every arm starts from: a name of data/config.py or a file"
    )
    settings: Settings = Field({}, description="settings of every arm, the baseline too")
    arms: tuple[ArmEntry, ...] = Field(description="list of arms, grids and zips")
    exclude: tuple[Settings, ...] = Field(
        (), description="arms of grids that have all of these settings are left out"
    )
    baseline: str = Field(description="label of the arm that the others are compared with")
    seeds: Seeds = Field(description="a number of seeds (0, 1, ...) or a list")
    added_seeds: Seeds = Field(
        (), description="seeds beyond the plan; verdicts that use them are exploratory"
    )
    amended: tuple[str, ...] = Field(
        (),
        description="what was changed after the first run (sweep.py --amend); verdicts are "
        "exploratory",
    )
    budget: PositiveInt = Field(
        description="iterations of every run (with equal: images, of a run at the base's batch "
        "size)"
    )
    equal: Literal["iterations", "images"] = Field(
        "iterations", description="what arms of different batch sizes have in common"
    )
    lr_rule: Literal["constant", "linear", "sqrt"] = Field(
        "constant",
        description="learning rate of an arm of batch b: the base's, or that times b / base's "
        "batch, or times its root",
    )
    paired: bool = Field(
        True,
        description="arms share their seeds; false = each trains with seeds of its own, as an A/A "
        "test needs",
    )
    primary: str = Field(
        "mask_ap", description="the metric that verdicts are about: mask_ap, mask_ap50, box_ap, ..."
    )
    margin: Positive = Field(
        0.5,
        description="differences of the primary metric below this many points count as equivalent",
    )
    looks: tuple[PositiveInt, ...] = Field(
        (),
        description="numbers of seeds after which one looks, [3, 5, 10]; empty = once, at the end",
    )
    init_from: str | InitRun = Field(
        "",
        description="checkpoint that every run starts from, or a training that makes it, or one "
        "for each seed",
    )
    tune: Tune | None = Field(None, description="tuning before the comparison, equal for every arm")
    search: Search | None = Field(None, description="what --search looks for")
    report: ReportSection = Field(ReportSection(), description="what its report keeps")
    external: dict[str, ExternalRow] = Field(
        {},
        description="rows of others beside the arms, without verdicts: {label: results.json}",
    )
    allow_copies: bool = Field(
        False,
        description="allow arms whose mask losses are one loss up to a factor, as an A/A test "
        "needs",
    )

    @property
    def looked_at(self) -> str:
        """When one looks at the results, in words."""
        if self.looks:
            return f"after {', '.join(map(str, self.looks))} seeds"
        return f"once, after {len(self.seeds)} seeds"

    @property
    def start_per_seed(self) -> bool:
        """Whether seed k of every arm starts from a training of its own seed."""
        return isinstance(self.init_from, InitRun) and self.init_from.per_seed

    @property
    def one_start(self) -> bool:
        """Whether all runs start from one checkpoint, so that verdicts hold given this start."""
        return bool(self.init_from) and not self.start_per_seed

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value):
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError("needs at least one seed")
            if value > MOST_SEEDS:
                raise ValueError(f"{MOST_SEEDS} seeds are the most")
            return tuple(range(value))
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a number of seeds, or a list of seeds")
        return value

    @field_validator("seeds", "added_seeds", "budget", "margin", "looks", mode="before")
    @classmethod
    def _no_truth_value(cls, value):
        if any(
            isinstance(item, bool)
            for item in (value if isinstance(value, (list, tuple)) else [value])
        ):
            raise ValueError("must be a number, not true or false")
        return value

    @field_validator("primary")
    @classmethod
    def _metric(cls, value):
        if not PRIMARY.fullmatch(value):
            choices = [f"{kind}_{metric}" for kind in ("mask", "box") for metric in METRICS]
            raise ValueError(f"is none of {', '.join(choices)}{did_you_mean(value, choices)}")
        return value

    @field_validator("name")
    @classmethod
    def _folder(cls, value):
        if not re.fullmatch(r"[A-Za-z0-9][\w.+=-]*", value):
            raise ValueError(
                "must be usable as a folder name: letters, digits, and . _ + = - after the first"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self):
        seeds = [*self.seeds, *self.added_seeds]
        if not self.arms:
            raise ValueError("arms: lists nothing to compare")
        if not self.seeds:
            raise ValueError("seeds: needs at least one seed")
        arms = sum(entry.count for entry in self.arms)
        if arms > MOST_ARMS:
            raise ValueError(f"arms: makes {brief(arms)} arms, and {MOST_ARMS} are the most")
        if arms * len(seeds) > MOST_RUNS:
            raise ValueError(
                f"arms: {arms} of them and {len(seeds)} seeds make {arms * len(seeds)} runs, and "
                f"{MOST_RUNS} are the most"
            )
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"seeds: {next(s for s in seeds if seeds.count(s) > 1)} is listed more than once"
            )
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks must ascend, got {list(self.looks)}")
        if not self.paired and max(seeds) >= SEED_STRIDE:
            raise ValueError(
                f"seeds: with paired: false they must be below {SEED_STRIDE}, which tells the "
                f"arms' own seeds apart, got {max(seeds)}"
            )
        if self.looks and self.looks[-1] != len(self.seeds):
            raise ValueError(
                f"the last of looks is the number of seeds, {len(self.seeds)}, got "
                f"{list(self.looks)}"
            )
        if self.tune and set(self.tune.seeds) & set(seeds):
            raise ValueError(
                f"tune.seeds: {min(set(self.tune.seeds) & set(seeds))} is a reported seed too: "
                "trials need seeds of their own"
            )
        if any(entry.tune for entry in self.arms) and not self.tune:
            raise ValueError(
                "an arm has a tune: grid, but the study has no tune: every arm must be tuned, the "
                "baseline too"
            )
        if self.search and self.search.placeholders - set(self.search.space):
            raise ValueError(
                "search.space: has no range for "
                f"{', '.join(sorted(self.search.placeholders - set(self.search.space)))}"
            )
        if self.search:
            unused = [
                name
                for name in self.search.space
                if name not in self.search.placeholders and "." not in name
            ]
            if unused:
                raise ValueError(
                    f"search.space: {', '.join(unused)} is neither a placeholder in "
                    "search.settings nor a setting"
                )
        return self

    @field_validator("external")
    @classmethod
    def _named(cls, value):
        for label in value:
            if not label.strip() or not is_line(label):
                raise ValueError(f"external: {label!r} is no label of one line")
        return value

    @field_validator(*READERS, mode="before")
    @classmethod
    def _known_settings(cls, value, info: ValidationInfo):
        return READERS[str(info.field_name)](value)


def load_study(path: str | Path) -> Study:
    """The study in a YAML file (runs/<study>/study.yaml too). ConfigError names the file, the key
    and the fix."""
    path = Path(path)
    if path.is_dir():
        path = study_file(path)
    try:
        if_absent = "check the path; those that come along are in configs/sweeps"
        content = read_yaml(read_text(path, "study file", if_absent=if_absent))
    except ProblemError as error:  # it names the file
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: expected the keys of a study, such as base:, arms:, baseline:, seeds:, "
            "budget:"
        )
    return read_study({"name": path.stem, **content}, str(path))


def read_study(content: dict[str, Any], origin: str = "study") -> Study:
    """The study of a mapping. ConfigError names the origin, the key and the fix."""
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        meant = [
            item
            for item in error.errors()
            if not (isinstance(item["input"], dict) and _OTHER_FORM.match(str(*item["loc"][-1:])))
        ]
        raise ConfigError(f"{origin}: {'; '.join(_message(item) for item in meant[:3])}") from None


def dump_study(study: Study) -> str:
    """The whole study as YAML; load_study of a file with this text gives an equal study."""
    return write_yaml(study.model_dump())


# of a union: how pydantic calls what a mapping was not meant to be
_OTHER_FORM = re.compile(r"str$|list\[")
_PARTS: dict[str, type[Section]] = {
    "tune": Tune,
    "search": Search,
    "init_from": InitRun,
    "arms": ArmEntry,
    "report": ReportSection,
    "external": ExternalRow,
}


def _message(item: ErrorDetails) -> str:
    """One pydantic error in words: `margin=0: must be > 0`."""
    path = [
        part
        for part in item["loc"]
        if part not in ("InitRun", "Range") and not str(part).startswith(("list[", "function-"))
    ]
    key = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        return f"unknown key {key}{did_you_mean(str(path[-1]), _section(path).model_fields)}"
    setting = Study.model_fields.get(key)
    why = reason(item, setting.annotation if setting else None)
    if item["type"] == "missing":
        field = _section(path).model_fields[str(path[-1])]
        return f"{key}: {why}: {field.description or 'give a value'}"
    return (
        why
        if not key or why.startswith(key)
        else f"{key}={brief(item['input'])}: {why}"
        if _plain(item["input"])
        else f"{key}: {why}"
    )


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _section(path: Sequence[int | str]) -> type[Section]:
    """Whose key the last of a path is."""
    if len(path) == 1:
        return Study
    return Range if path[:2] == ["search", "space"] else _PARTS[str(path[0])]
