"""The keys of a config, `section.field`, and the forms in which they are written: nested sections,
dotted keys, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from data.fields import Section
from data.schema import Config
from layers.names import did_you_mean
from layers.problems import shown

SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
KEYS = (
    "name",
    "dataset",
    *(f"{section}.{field}" for section, model in SECTIONS.items() for field in model.model_fields),
)


class ConfigError(ValueError):
    """A config that cannot be used; the message names the file or override, the key and the reason
    in one line."""


def given(dotted: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """The settings of a call: `dotted` ones, and the sections that are not None."""
    return {key: value for key, value in sections.items() if value is not None} | dict(dotted)


def flatten(content: Mapping[Any, Any], origin: str) -> dict[str, Any]:
    """Nested sections, dotted keys or both -> {dotted key: value}, every key known and set once.
    ConfigError otherwise; it begins with `origin`."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        for name, item in _items(str(key), value, origin).items():
            if name not in KEYS:
                raise ConfigError(f"{origin}: {unknown_key(name)}")
            if name in flat:
                raise ConfigError(f"{origin}: {name} is set twice: set it once, in either form")
            flat[name] = item
    return flat


def _items(key: str, value: Any, origin: str) -> dict[str, Any]:
    if key not in SECTIONS:
        return {key: value}
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: {key}: is a section of settings, got {shown(value)}")
    return {f"{key}.{field}": item for field, item in value.items()}


def unknown_key(key: str) -> str:
    """One line for a key that no config has, with the nearest that there are."""
    hint = did_you_mean(key, KEYS)
    if not hint:  # the field may be right and its section missing or wrong
        fields = {known: known.rpartition(".")[2] for known in KEYS}
        field = key.rpartition(".")[2]
        same = [known for known in KEYS if fields[known] == field]
        near = same or [known for known in KEYS if did_you_mean(field, [fields[known]])][:3]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if not hint and "." not in key:
        hint = f"; keys are written section.field, with the sections {', '.join(SECTIONS)}"
    return f"unknown key {key}{hint}"


def type_of(key: str) -> Any:
    """The annotation of a setting."""
    section, _, field = key.rpartition(".")
    return SECTIONS[section].model_fields[field].annotation if section else str


def may_be_none(key: str) -> bool:
    return type(None) in get_args(type_of(key))
