"""Words for what pydantic finds wrong with a config."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic_core import ErrorDetails

from layers.losses.expr import ExpressionError
from layers.names import did_you_mean

_WORDS = {  # by the first word of pydantic's error type
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "bool": "must be true or false",
    "string": "must be text",
    "tuple": "must be a list, [a, b]",
    "dict": "must be a mapping, {key: value}",
    "missing": "is missing",
}


def brief(value: Any) -> str:
    """The value in at most 80 characters."""
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def choices_of(annotation: Any) -> list[str]:
    """The values of the Literal types in an annotation."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in choices_of(part)]


def reason(item: ErrorDetails, annotation: Any = None) -> str:
    """Why pydantic refused a value, from one item of ValidationError.errors(). annotation: of the
    setting, for its choices."""
    kind, context = item["type"], item.get("ctx", {})
    choices = choices_of(annotation)
    bounds = {
        "greater_than": ("gt", ">"),
        "greater_than_equal": ("ge", ">="),
        "less_than": ("lt", "<"),
        "less_than_equal": ("le", "<="),
    }
    if kind in bounds:
        name, sign = bounds[kind]
        return f"must be {sign} {context[name]:g}"
    if kind == "too_long":
        return f"must hold at most {context['max_length']} values"
    if kind == "literal_error" and choices:
        return f"must be one of {', '.join(choices)}{did_you_mean(str(item['input']), choices)}"
    if kind == "value_error":
        return first_line(context["error"])
    return _WORDS.get(kind.split("_")[0], item["msg"][0].lower() + item["msg"][1:])


def first_line(error: ValueError) -> str:
    """The message without the picture of the place that ExpressionError draws under it."""
    if isinstance(error, ExpressionError):
        return f"{error.message} (column {error.position + 1})"
    return str(error)
