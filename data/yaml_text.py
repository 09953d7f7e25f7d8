"""Reading and writing config YAML: no surprises of YAML 1.1, no duplicate keys, no Python
objects."""

from __future__ import annotations

import re
from typing import Any

import yaml

# YAML 1.1, which PyYAML follows, reads 1e-4 as a string, "no" as False, 010 as eight and 1:30 as
# ninety.
MOST_VALUES = 100_000  # in a document; the largest study here has some hundreds
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+(_[0-9]+)*", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    """Quotes every string that either YAML 1.1 or this module's reader would take for something
    else."""

    yaml_implicit_resolvers = {
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    mapping: dict = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)) or key in mapping:
            problem = (
                "appears twice"
                if isinstance(key, (str, int, float, bool))
                else "is not a plain name"
            )
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} {problem}", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _Inline(list):
    """A list written on one line, [a, b]."""


_Dumper.add_representer(
    _Inline,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=True
    ),
)


def read_yaml(text: str) -> Any:
    """The value of one YAML document. ValueError with the line where it is malformed or repeats a
    key, and where it holds more than MOST_VALUES values."""
    loader = None
    try:
        loader = _Loader(text)  # a SafeLoader: plain data only
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MOST_VALUES:
            raise ValueError(f"holds more than {MOST_VALUES} values, aliases (*name) written out")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not readable as YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds where every alias is written out: a text of 1 kB may name 10^9
    of them. known: of the nodes looked at before, 0 of those that are being looked at."""
    count = known.get(id(node))
    if count == 0:
        raise ValueError("holds an alias (*name) inside of what it names")
    if count is None:
        known[id(node)] = 0
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        count = known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return count


def write_yaml(value: Any) -> str:
    """YAML text of plain data, keys in their order and each list on one line (wrapped); read_yaml
    gives the value back."""
    return yaml.dump(
        _inline_lists(value), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True
    )


def _inline_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inline_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _Inline(_inline_lists(item) for item in value)
    return value
