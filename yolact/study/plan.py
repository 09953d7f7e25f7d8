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
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from data.messages import brief, reason
from data.resolve import ConfigError, flatten
from data.schema import NonNegativeInt, Positive, PositiveInt, Section
from data.yaml_text import read_yaml, write_yaml
from layers.names import did_you_mean
from yolact.study.folder.layout import study_file

# A setting that the study itself decides, and how
DECIDED = {
    "name": "name: of the study",
    "train.seed": "seeds:",
    "train.iterations": "budget:",
    "train.autoscale": "lr_rule: and equal:, which replace it",
}
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
PRIMARY = re.compile(rf"(mask|box)_({'|'.join(METRICS)})")
TUNE_SEED = 10_000  # far from the seeds that people report
SEED_STRIDE = 1000  # between the training seeds of two arms with paired: false

Seeds = tuple[NonNegativeInt, ...]
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
    def axes(self) -> list[str]:
        return [*self.settings, *self.grid, *self.zip]


class InitRun(Section):
    """A training whose last weights every run starts from."""

    base: str = Field("", description="its config; empty = the study's")
    settings: Settings = Field({}, description="settings on top of the study's")
    iterations: PositiveInt = Field(description="its length")
    seed: NonNegativeInt = Field(0, description="its seed")


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

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, value):
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


class Range(Section):
    low: float
    high: float
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
    trials: PositiveInt = Field(30, description="trials in all, over every process and every start")
    seed: NonNegativeInt = Field(TUNE_SEED, description="seed of each training, and of the sampler")
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
        "", description="checkpoint that every run starts from, or a training that makes it"
    )
    tune: Tune | None = Field(None, description="tuning before the comparison, equal for every arm")
    search: Search | None = Field(None, description="what --search looks for")
    allow_copies: bool = Field(
        False,
        description="allow arms whose mask losses are one loss up to a factor, as an A/A test "
        "needs",
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value):
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError("needs at least one seed")
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

    @field_validator("arms", "settings", "exclude", "tune", "search", "init_from", mode="before")
    @classmethod
    def _known_settings(cls, value, info: ValidationInfo):
        return _READERS[str(info.field_name)](value)


# ------------------------------------------------------------------------ what may be written short


def _settings(value: Any, where: str, *, base: bool = False) -> dict[str, Any]:
    """{dotted key: value} of nested or dotted settings. ValueError for unknown keys and for those
    that the study decides."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a mapping of settings, got {brief(value)}")
    content = dict(value)
    flat = {"base": content.pop("base")} if base and "base" in content else {}
    try:
        flat |= flatten(content, where)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    for key in flat:
        if key in DECIDED:
            raise ValueError(f"{where}: {key} is decided by {DECIDED[key]}")
    return flat


def _grid(value: Any, where: str) -> dict[str, list]:
    for axis, values in _settings(value, where, base=True).items():
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"{where}: {axis} needs a list of values, got {brief(values)}")
    return _settings(value, where, base=True)


def _tune_grid(value: Any, where: str) -> dict[str, list]:
    grid = _grid(value, where)
    if not grid:
        raise ValueError(f"{where}: needs settings to try, such as {{train.lr: [1e-4, 3e-4]}}")
    for axis, values in grid.items():
        if twice := [item for number, item in enumerate(values) if item in values[:number]]:
            raise ValueError(f"{where}: {axis} lists {brief(twice[0])} twice: a trial is made once")
    return grid


def _entry(value: Any, number: int) -> Any:
    where = f"arm {number}"
    if isinstance(value, str):
        value = {"loss.mask": value}
    if not isinstance(value, dict):
        raise ValueError(
            f"{where}: must be a loss, or a mapping of settings, grid or zip, got {brief(value)}"
        )
    content = {key: item for key, item in value.items() if key != "settings"}
    entry = {key: content.pop(key) for key in ("label",) if key in content}
    for key in ("grid", "zip", "tune"):
        if key in content:
            found = content.pop(key)
            entry[key] = (
                (_tune_grid if key == "tune" else _grid)(found, f"{where}: {key}") if found else {}
            )
    more = _settings(value.get("settings", {}), f"{where}: settings", base=True)
    return {**entry, "settings": {**_settings(content, where, base=True), **more}}


def _arms(value: Any) -> Any:
    if isinstance(value, dict):  # one grid or zip needs no list around it
        value = [value]
    return (
        [_entry(item, number) for number, item in enumerate(value, 1)]
        if isinstance(value, (list, tuple))
        else value
    )


def _tune(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            {**value, "grid": _tune_grid(value["grid"], "tune.grid")} if "grid" in value else value
        )
    return _nothing_but(value, Tune, "{grid: {train.lr: [1e-4, 3e-4]}}")


def _search(value: Any) -> Any:
    if not isinstance(value, dict):
        return _nothing_but(value, Search, "{settings: {...}, space: {...}}")
    space = value.get("space", {})
    if not isinstance(space, dict) or ("space" in value and not space):
        raise ValueError(
            f"search.space: needs what is searched, such as {{alpha: {{low: 0.1, high: 10}}}}, got "
            f"{brief(space)}"
        )
    for name, item in space.items():
        if not isinstance(item, (dict, Range)) and not (isinstance(item, (list, tuple)) and item):
            raise ValueError(
                f"search.space: {name} needs a range, {{low: 0.1, high: 10}}, or a list of values, "
                f"got {brief(item)}"
            )
    _settings({key: item for key, item in space.items() if "." in str(key)}, "search.space")
    return {**value, "settings": _settings(value.get("settings", {}), "search.settings")}


def _init(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            {**value, "settings": _settings(value["settings"], "init_from.settings")}
            if "settings" in value
            else value
        )
    if isinstance(value, (str, NoneType)):
        return value or ""
    return _nothing_but(
        value, InitRun, "{iterations: 500, settings: {...}}, or a checkpoint's path"
    )


def _nothing_but(value: Any, section: type[Section], example: str) -> Any:
    if value is not None and not isinstance(value, section):
        raise ValueError(f"must be {example}")
    return value


def _exclude(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    for number, item in enumerate(value, 1):
        if not item:
            raise ValueError(f"exclude {number}: names no setting, so it would leave out every arm")
    return [_settings(item, "exclude", base=True) for item in value]


_READERS = {
    "arms": _arms,
    "tune": _tune,
    "search": _search,
    "init_from": _init,
    "exclude": _exclude,
    "settings": lambda value: _settings(value, "settings"),
}


# --------------------------------------------------------------------------------- reading, writing


def load_study(path: str | Path) -> Study:
    """The study in a YAML file (runs/<study>/study.yaml too). ConfigError names the file, the key
    and the fix."""
    path = Path(path)
    if path.is_dir():
        path = study_file(path)
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such study file; those that come along are in configs/sweeps"
        ) from None
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
