"""From a name, a YAML file or a finished run's config.yaml, and key=value overrides, to a checked
Config.

Later layers win: the defaults of data/schema.py, the named config, the YAML file, the overrides. No
data set, weights or network is touched, but for the count of training images that train.epochs
needs. Importing this module imports no torch; load_config imports the loss and assigner registries
to check names, unless told not to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from data import config as user
from data.contents import read_text
from data.length import images_there, with_iterations
from data.messages import brief, first_line, reason
from data.schema import Config
from data.settings import (
    KEYS,
    SECTIONS,
    ConfigError,
    flatten,
    given,
    may_be_none,
    type_of,
    unknown_key,
)
from data.yaml_text import read_yaml, write_yaml
from layers.names import unknown_name
from layers.problems import ProblemError

RUN_CONFIG = "config.yaml"  # in a run's folder: what it was trained with
AUTOSCALE_BATCH = 8  # the batch size that published learning rates and iteration counts belong to
# settings that are newer than runs that are kept: those are found by the hash in their names
ADDED = (
    "augment.copy_paste",
    "augment.photometric_at",
    "augment.reduced_decode",
    "augment.rotation",
    "augment.scale_jitter",
    "augment.vertical_flip",
    "data.cache",
    "data.val_truth",
    "eval.masks",
    "eval.precision",
    "loss.class_weights",
    "loss.mask_target",
    "loss.mask_stride",
    "loss.mask_iou_target",
    "loss.semantic_target",
    "model.freeze_backbone",
    "train.cache_features",
    "train.epochs",
    "train.max_minutes",
    "train.patience",
    "train.repeat_threshold",
    "train.trackers",
)
_OTHER_LENGTHS = ("train.epochs", "train.max_minutes")  # than train.iterations
_SCALED = ("train.lr", "train.iterations", "train.lr_steps")


def load_config(
    name_or_file: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    check_names: bool = True,
    dataset: str | None = None,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    assign: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    eval: Mapping[str, Any] | None = None,
    **dotted: Any,
) -> Config:
    """The checked config of a name of data/config.py (with or without `_config`), a YAML file, a
    run folder, or a mapping.

    overrides are "section.field=value" strings, values in YAML; "dataset=NAME" replaces the whole
    data section by an entry of DATASETS. The keywords say the same in Python: a section as
    train=dict(lr=1e-3), or a key as **{"train.lr": 1e-3}. check_names=False skips what needs torch:
    the names, parameters and plugins of losses and assigners. ConfigError for anything a user got
    wrong.
    """
    values, origin, fixed, own = _source(name_or_file)
    origins = dict.fromkeys(values, origin)
    sections = dict(model=model, data=data, augment=augment, assign=assign, loss=loss, train=train)
    keywords = flatten(given(dotted, dataset=dataset, eval=eval, **sections), "load_config")
    changes = _read_overrides(overrides, keywords)
    _choose_dataset(values, changes)
    _choose_length(values, changes)
    values.update(changes)
    origins.update({key: "override" for key in changes})
    values = {key: value for key, value in values.items() if key != "dataset"}
    config = _validate(values, origins, origin)
    config = _with_length(_autoscale(config, fixed | set(changes)), own | set(changes))
    if check_names:
        check_names_of(config)
    return config


def dump_yaml(config: Config) -> str:
    """The whole config as YAML; load_config of a file with this text gives an equal config."""
    return write_yaml(config.model_dump())


def config_hash(config: Config) -> str:
    """12 hex digits that depend on every setting but the name; on those of ADDED only where they
    are not what they were before there was a choice, their default."""
    content = config.model_dump(mode="json", exclude={"name"})
    for key in ADDED:
        section, field = key.split(".")
        if (
            getattr(getattr(config, section), field)
            == SECTIONS[section].model_fields[field].default
        ):
            del content[section][field]
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settings_of(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.field": value} of a config as model_dump() gives it."""
    flat: dict[str, Any] = {}
    for section, value in dumped.items():
        if isinstance(value, dict):
            flat |= {f"{section}.{field}": item for field, item in value.items()}
        else:
            flat[section] = value
    return flat


def list_configs() -> list[str]:
    return sorted(user.CONFIGS)


def list_datasets() -> list[str]:
    return sorted(user.DATASETS)


def published_tables(dataset: str) -> str:
    """The printed tables that belong beside runs on a data set, by the name in its data section;
    '' where none do."""
    return user.DATASETS.get(dataset, {}).get("published", "")


# ------------------------------------------------------------------------------------------ sources


class _Source(NamedTuple):
    """{dotted key: value}, where it comes from, the keys that autoscale leaves alone, and those
    that a file sets on top of its base."""

    values: dict[str, Any]
    origin: str
    fixed: set[str] = set()
    own: set[str] = set()


def _source(name_or_file: str | Path | Mapping) -> _Source:
    if isinstance(name_or_file, Mapping):
        return _Source(flatten(dict(name_or_file), "config"), "config")
    text = str(name_or_file)
    for name in (text, text.removesuffix("_config")):
        if name in user.CONFIGS:
            return _Source(_named(name), f"config {name}")
    path = Path(text)
    if path.is_dir() and (path / RUN_CONFIG).is_file():
        path = path / RUN_CONFIG
    if path.is_file():
        return _file(path)
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{path}: no such config file")
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder without a {RUN_CONFIG}: give a run's folder, a YAML file or a "
            "config name"
        )
    problem = unknown_name("config", text.removesuffix("_config"), user.CONFIGS)
    raise ConfigError(f"{problem} (--list configs shows all; a file ends in .yaml)")


def _named(name: str) -> dict[str, Any]:
    values = flatten(user.CONFIGS[name], f"config {name} in data/config.py")
    _choose_dataset(values, {})
    return values


def _file(path: Path) -> _Source:
    try:
        content = read_yaml(read_text(path, "config file"))
    except ProblemError as error:  # it names the file
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: expected `key: value` lines, found "
            f"{type(content).__name__ if content is not None else 'nothing'}"
        )
    base = content.pop("base", None)
    own = flatten(content, str(path))
    own.setdefault("name", path.stem)
    if base is None:
        missing = [section for section in ("model", "data", "train") if section not in content]
        if "dataset" in content and "data" in missing:
            missing.remove("data")
        if missing:
            raise ConfigError(
                f"{path}: without `base: NAME` the file must be a whole config, but it has no "
                f"{' or '.join(missing)} section"
            )
        _choose_dataset(own, {})
        return _Source(own, str(path))
    name = str(base).removesuffix("_config")
    if name not in user.CONFIGS:
        raise ConfigError(f"{path}: base: {unknown_name('config', name, user.CONFIGS)}")
    values = _named(name)
    _choose_dataset(values, own)
    values.update(own)
    # A rate written beside the batch size was chosen for it.
    fixed = {key for key in _SCALED if key in own} if "train.batch_size" in own else set()
    _refuse_two_lengths(own, f"{path}: ")
    return _Source(values, str(path), fixed, set(own))


def _choose_dataset(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Expand a data set named in `changes` (or else in `values`) in place; other data.* keys of
    `changes` still apply on top."""
    source = (
        changes if "dataset" in changes or changes.get("data.name") in user.DATASETS else values
    )
    chosen = source.pop("dataset", None)
    if chosen is None:
        chosen = source.get("data.name")
        if not isinstance(chosen, str) or chosen not in user.DATASETS:
            return
    name = str(chosen)
    for candidate in (name, name.removesuffix("_dataset")):
        if candidate in user.DATASETS:
            name = candidate
    if name not in user.DATASETS:
        raise ConfigError(
            f"{unknown_name('data set', name, user.DATASETS)} (--list datasets shows all)"
        )
    fields = {key: value for key, value in user.DATASETS[name].items() if key != "published"}
    entry = flatten({"data": {**fields, "name": name}}, f"data set {name} in data/config.py")
    if source is changes:
        for key in [key for key in values if key.startswith("data.")]:
            del values[key]
        values.update(entry)
    else:
        values.update({key: value for key, value in entry.items() if key not in values})


def _choose_length(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """A length of `changes` replaces those of `values`, in place."""
    _refuse_two_lengths(changes, "")
    for key in _OTHER_LENGTHS:
        if "train.iterations" in changes or any(map(_is_set, map(changes.get, _OTHER_LENGTHS))):
            values.pop(key, None)


def _refuse_two_lengths(values: Mapping[str, Any], where: str) -> None:
    """ConfigError where iterations are given, and epochs or minutes too."""
    other = next((key for key in _OTHER_LENGTHS if _is_set(values.get(key))), None)
    if other and "train.iterations" in values:
        raise ConfigError(f"{where}{other} and train.iterations are both given: give one of them")


def _is_set(value: Any) -> bool:
    return value is not None and str(value).lower() != "none"


# ---------------------------------------------------------------------------------------- overrides


def _read_overrides(overrides: Iterable[str], keywords: dict[str, Any]) -> dict[str, Any]:
    """{key: value} of key=value texts, which may repeat a key, and of keywords, which may not."""
    changes: dict[str, Any] = {}
    for text in overrides:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"{text!r} is not key=value: write for example train.lr=1e-3")
        if key not in KEYS:
            raise ConfigError(
                _unknown_section(key) if key in SECTIONS else f"{text}: {unknown_key(key)}"
            )
        if key in keywords:
            raise ConfigError(f"{text}: {key} is given as a keyword too: give it once")
        changes[key] = parse_value(key, raw, text)
    return changes | keywords


def _unknown_section(section: str) -> str:
    fields = ", ".join(f"{section}.{field}" for field in list(SECTIONS[section].model_fields)[:4])
    return f"{section} is a section: set its fields one by one, {fields}, ..."


def parse_value(key: str, raw: str, text: str) -> Any:
    """What stands behind key=: YAML, but of a setting that is text, an expression or a path, the
    word itself. ConfigError, which begins with `text`, for broken YAML."""
    raw = raw.strip()
    quoted = len(raw) >= 2 and raw[0] == raw[-1] and raw[0] in "'\"" and raw[0] not in raw[1:-1]
    if key in KEYS and type_of(key) is str:
        return raw[1:-1] if quoted else raw
    try:
        return read_yaml(raw)
    except ValueError as error:
        raise ConfigError(f"{brief(text)}: {error}") from None


# --------------------------------------------------------------------------------------- validation


def _validate(values: dict[str, Any], origins: dict[str, str], default_origin: str) -> Config:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        _refuse_bool(key, value, origins.get(key, default_origin))
        if isinstance(value, str) and value.lower() == "none" and may_be_none(key):
            value = None
        section, _, field = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[field] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(
                _message(item, values, origins, default_origin) for item in error.errors()[:3]
            )
        ) from None


def _refuse_bool(key: str, value: Any, origin: str) -> None:
    """true for a number would quietly become 1."""
    if isinstance(value, bool) and bool not in (type_of(key), *get_args(type_of(key))):
        raise ConfigError(
            f"{_prefix(origin)}{key}={str(value).lower()}: this setting is not a switch that is "
            "true or false"
        )


def _prefix(origin: str) -> str:
    return "" if origin == "override" else f"{origin}: "


def _message(
    item: ErrorDetails, values: dict[str, Any], origins: dict[str, str], default_origin: str
) -> str:
    """One pydantic error in words: `train.lr=-1: must be > 0`."""
    key = ".".join(str(part) for part in item["loc"][:2])
    place = "".join(f"[{part}]" for part in item["loc"][2:] if isinstance(part, int))
    why = reason(item, type_of(key) if key in KEYS else None)
    if key in values:
        shown = item["input"] if place else values[key]
        return f"{_prefix(origins.get(key, default_origin))}{key}{place}={brief(shown)}: {why}"
    # a rule about several fields; an override is the likely culprit
    if key in SECTIONS or not key:
        touched = [
            name
            for name, origin in origins.items()
            if origin == "override" and name.startswith(key)
        ]
        prefix = (
            f"{', '.join(f'{name}={brief(values[name])}' for name in touched)}: "
            if touched
            else _prefix(default_origin)
        )
        return f"{prefix}{why}"
    return f"{_prefix(default_origin)}{key}: {why}"


def _autoscale(config: Config, fixed: set[str]) -> Config:
    """YOLACT's rule: lr x b/8, iterations and lr_steps / (b/8), except for `fixed` keys. Switched
    off in the result once applied."""
    train = config.train
    if not train.autoscale or train.batch_size == AUTOSCALE_BATCH:
        return config
    factor = train.batch_size / AUTOSCALE_BATCH
    scaled = {
        "lr": train.lr * factor,
        "iterations": max(1, int(train.iterations // factor)),
        "lr_steps": tuple(sorted({max(1, int(step // factor)) for step in train.lr_steps})),
    }
    changes = {key: value for key, value in scaled.items() if f"train.{key}" not in fixed}
    return config.model_copy(
        update={"train": train.model_copy(update={**changes, "autoscale": False})}
    )


def _with_length(config: Config, chosen: set[str]) -> Config:
    """The config with its epochs as iterations, where its training images are there to be counted.
    Where the length comes later, it notes which settings were chosen beside it."""
    if config.train.epochs is None and config.train.max_minutes is None:
        return config
    names = {key.removeprefix("train.") for key in chosen if key.startswith("train.")}
    train = config.train.keeping(names)
    if train.epochs is not None:
        train = with_iterations(train, images_there(config.data))
    return config.model_copy(update={"train": train})


def check_names_of(config: Config) -> None:
    """ConfigError for an unknown name or a wrong parameter in the expressions of losses and
    assigner, and for plugins that do not load. Imports torch."""
    from layers.assign import build_assigner
    from layers.losses.box import build_box_loss
    from layers.losses.checks.contract import refuse_broken
    from layers.losses.classification import build_class_loss
    from layers.losses.plugins import load_plugins

    try:
        load_plugins(config.loss.plugins)
    except ValueError as error:  # it names loss.plugins
        raise ConfigError(str(error)) from None
    checks: dict[str, Callable[[str], object]] = {
        "loss.mask": lambda text: refuse_broken(
            text,
            total_steps=config.train.iterations,
            stride=config.loss.mask_stride,
            soft=config.loss.mask_target == "coverage",
        ),
        "loss.box": build_box_loss,
        "loss.classification": lambda text: build_class_loss(text, config.class_weights),
        "assign.name": build_assigner,
    }
    for key, check in checks.items():
        section, field = key.split(".")
        text = getattr(getattr(config, section), field)
        try:
            check(text)
        except ValueError as error:
            raise ConfigError(f"{key}={text}: {first_line(error)}") from None
