"""What a study's file may write short, a reader for each key: a loss alone for an arm, one grid
without a list around it, nested settings for dotted ones."""

from __future__ import annotations

from types import NoneType
from typing import Any

from data.messages import brief
from data.resolve import ConfigError, flatten
from data.schema import Config, Section
from yolact.study.sections import MOST_ARMS, InitRun, Range, Search, Tune

# A setting that the study itself decides, and how
DECIDED = {
    "name": "name: of the study",
    "train.seed": "seeds:",
    "train.iterations": "budget:",
    "train.epochs": "budget:, which counts iterations",
    "train.max_minutes": "budget:, one length for all runs: a slower arm would train fewer steps, "
    "and AP would tell of the machine too",
    "train.patience": "budget:, one length for all runs: AP of arms that ended earlier or later "
    "would tell of the length too",
    "train.autoscale": "lr_rule: and equal:, which replace it",
}


def comparable(config: Config) -> Config:
    """The config itself. ConfigError where its runs may end early, so that AP of arms would tell of
    their length too, or where machines may choose otherwise."""
    if config.train.patience:
        raise ConfigError(
            f"train.patience={config.train.patience} of the base ends runs early, and arms can be "
            "compared at one length alone: choose a base without it"
        )
    if config.train.max_minutes is not None:
        raise ConfigError(
            f"train.max_minutes={config.train.max_minutes:g} of the base sets the length by the "
            "machine's speed, and arms can be compared at one length alone: choose a base without "
            "it, and give budget: in iterations"
        )
    auto = [
        f"{section}.{key}"
        for section, key in (
            ("train", "precision"),
            ("train", "channels_last"),
            ("eval", "precision"),
        )
        if getattr(getattr(config, section), key) == "auto"
    ]
    if auto:
        raise ConfigError(
            f"{auto[0]}=auto may come to another value on another machine, and runs of a study are "
            f"compared in one: state {auto[0]}"
        )
    return config


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
        if len(values) > MOST_ARMS:
            raise ValueError(f"{where}: {axis} has {len(values)} values; {MOST_ARMS} are the most")
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


def _external(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"external: must be {{label: results.json}}, got {brief(value)}")
    return {
        label: {"results": row} if isinstance(row, str) else row for label, row in value.items()
    }


READERS = {
    "external": _external,
    "arms": _arms,
    "tune": _tune,
    "search": _search,
    "init_from": _init,
    "exclude": _exclude,
    "settings": lambda value: _settings(value, "settings"),
}
