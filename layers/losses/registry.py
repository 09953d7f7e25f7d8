"""Mask losses by name: a loss is one function with a decorator, described by one LossInfo record.

    @pixel_loss("huber", "...", bounds={"delta": Bound("(0, 1)")})
    def huber(logits, target, *, delta=0.5): ...            # (N,H,W), (N,H,W) in {0,1} -> (N,H,W)

    @region_loss("dice", "...")
    def dice(logits, target, weight, *, smooth=1.0): ...    # + weight (N,H,W) in [0,1] -> (N,)

Keyword-only parameters are what an expression can set. Their types come from the annotation or the
default (typing.Literal lists choices), their bounds from `bounds`. A parameter named in `needs` is
an extra tensor that the caller supplies, and is not set in expressions. Importing this module
registers every built-in loss.
"""

from __future__ import annotations

import difflib
import inspect
import keyword
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from layers.losses.expr import Call, format_value

Kind = Literal["pixel", "region"]
# options of every term, see mask.py
RESERVED = ("weight", "region", "match", "sampling", "balance", "outside", "rescale")
# that expressions know as values of weight and sampling
WORDS = ("ramp", "cosine", "learned", "hardest", "points")

_losses: dict[str, LossInfo] = {}


class ParameterError(ValueError):
    """A wrong parameter; `parameter` is its name, for whoever knows where it stands in the text."""

    def __init__(self, message: str, parameter: str):
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True)
class Bound:
    """An interval as mathematics writes it, "(0, 1]" or "[0, inf)", and why a value outside is
    refused."""

    interval: str
    why: str = ""

    def __post_init__(self):
        low, high = self.ends
        if self.interval[0] not in "[(" or self.interval[-1] not in "])" or not low < high:
            raise ValueError(f"{self.interval!r} is not an interval such as '(0, 1]' or '[0, inf)'")

    @property
    def ends(self) -> tuple[float, float]:
        low, high = self.interval[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, value: float) -> bool:
        low, high = self.ends
        above = value > low if self.interval[0] == "(" else value >= low
        below = value < high if self.interval[-1] == ")" else value <= high
        return above and below


@dataclass(frozen=True)
class Param:
    """One parameter that an expression can set. type is bool, int, float or str; optional ones may
    be None."""

    name: str
    type: type
    default: Any
    optional: bool = False
    choices: tuple[str, ...] = ()
    bound: Bound | None = None

    def check(self, value: Any) -> Any:
        """The value in the parameter's type. ParameterError says what is allowed."""
        if value is None and self.optional:
            return None
        if self.type is float and type(value) is int:
            value = float(value)
        if (
            isinstance(value, Call)
            and self.type in (int, float)
            and value.name.lower() in ("nan", "inf")
        ):
            raise ParameterError(f"{self.name}={value} must be finite", self.name)
        if isinstance(value, Call) and self.type is str and not (value.args or value.params):
            raise ParameterError(
                f"{self.name}={value} must be {self.allowed}: {self.name}='{value}'", self.name
            )
        if type(value) is not self.type:
            raise ParameterError(
                f"{self.name}={format_value(value)} must be {self.allowed}", self.name
            )
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"{self.name}={value!r} is unknown{suggest(value, self.choices)}", self.name
            )
        if self.type is float and not math.isfinite(value):
            raise ParameterError(f"{self.name}={value!r} must be finite", self.name)
        if self.bound and value not in self.bound:
            why = f": {self.bound.why}" if self.bound.why else ""
            raise ParameterError(
                f"{self.name}={value!r} is outside {self.bound.interval}{why}", self.name
            )
        return value

    @property
    def allowed(self) -> str:
        kind = {
            bool: "True or False",
            int: "a whole number",
            float: "a number",
            str: "a 'word' in quotes",
        }[self.type]
        return " or ".join([kind] + ["None"] * self.optional) + (
            f" in {self.bound.interval}" if self.bound else ""
        )


@dataclass(frozen=True)
class LossInfo:
    """What is known about a registered loss.

    name, kind      how expressions call it; "pixel" -> (N,H,W), "region" -> (N,); those of box and
                    class losses are explained there
    summary         one line for listings
    function        the function itself
    params          parameters that an expression can set, with default, type and bounds
    needs           extra per-instance tensors that the caller supplies by these names
    signed          True where the value may be negative and is not 0 at a perfect mask
    signed_when     parameter values of which one must be set for that; empty = always
    pooled_when     parameter values of which each makes instances depend on one another, on purpose
    source          where the formula comes from (paper and equation), may be empty
    spans           parameters in prototype pixels, which must be below the sides of the prototypes
    whole_when      parameter values of which each makes a pixel loss read its whole target, pixels
                    outside the region included
    """

    name: str
    kind: str
    summary: str
    function: Callable
    params: tuple[Param, ...] = ()
    needs: tuple[str, ...] = ()
    signed: bool = False
    source: str = ""
    signed_when: dict[str, Any] = field(default_factory=dict)
    pooled_when: dict[str, Any] = field(default_factory=dict)
    whole_when: dict[str, Any] = field(default_factory=dict)
    spans: tuple[str, ...] = ()

    def is_signed(self, params: dict[str, Any]) -> bool:
        """Whether the loss with these parameters (all of them) may be negative."""
        return self.signed and (
            not self.signed_when
            or any(params[name] == value for name, value in self.signed_when.items())
        )

    def is_pooled(self, params: dict[str, Any]) -> bool:
        """Whether the value of an instance depends on the others with these parameters (all of
        them)."""
        return any(params[name] == value for name, value in self.pooled_when.items())

    def reads_whole_target(self, params: dict[str, Any]) -> bool:
        """Whether a pixel's value depends on the target at others with these parameters (all of
        them)."""
        return any(params[name] == value for name, value in self.whole_when.items())

    @property
    def signature(self) -> str:
        """The call with every default, as a listing shows it: huber(delta=0.5)."""
        values = ", ".join(f"{p.name}={p.default!r}" for p in self.params)
        return f"{self.name}({values})" if values else self.name

    @property
    def defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.params}


def pixel_loss(
    name: str,
    summary: str,
    *,
    bounds: dict[str, Bound] | None = None,
    needs: Iterable[str] = (),
    signed: bool = False,
    signed_when: dict[str, Any] | None = None,
    pooled_when: dict[str, Any] | None = None,
    spans: Iterable[str] = (),
    whole_when: dict[str, Any] | None = None,
    source: str = "",
) -> Callable[[Callable], Callable]:
    """Register fn(logits (N,H,W), target (N,H,W) in {0,1}, *, ...) -> (N,H,W): a loss per pixel,
    neither cropped nor reduced.

    The other arguments are fields of LossInfo; the source is added to the docstring. ValueError if
    the name is taken or reserved, or the signature is not this one."""
    fields = {
        "signed": signed,
        "signed_when": signed_when or {},
        "pooled_when": pooled_when or {},
        "spans": tuple(spans),
        "whole_when": whole_when or {},
        "source": source,
    }
    return _decorator(
        "pixel", ("logits", "target"), name, summary, bounds or {}, tuple(needs), fields
    )


def region_loss(
    name: str,
    summary: str,
    *,
    bounds: dict[str, Bound] | None = None,
    needs: Iterable[str] = (),
    signed: bool = False,
    signed_when: dict[str, Any] | None = None,
    pooled_when: dict[str, Any] | None = None,
    spans: Iterable[str] = (),
    source: str = "",
) -> Callable[[Callable], Callable]:
    """Register fn(logits (N,H,W), target (N,H,W) in {0,1}, weight (N,H,W) in [0,1], *, ...) ->
    (N,): a scale-free loss per instance.

    Pixels of weight 0 must not matter. Otherwise as pixel_loss."""
    fields = {
        "signed": signed,
        "signed_when": signed_when or {},
        "pooled_when": pooled_when or {},
        "spans": tuple(spans),
        "source": source,
    }
    return _decorator(
        "region", ("logits", "target", "weight"), name, summary, bounds or {}, tuple(needs), fields
    )


def names(kind: Kind | None = None) -> list[str]:
    """Sorted names of the registered losses, of one kind if given."""
    return sorted(info.name for info in _losses.values() if kind in (None, info.kind))


def get(name: str) -> LossInfo:
    """The record of a loss; ValueError names the nearest ones."""
    if name not in _losses:
        raise ValueError(f"there is no mask loss {name!r}{suggest(name, names())}")
    return _losses[name]


def check_params(info: LossInfo, given: dict[str, Any]) -> dict[str, Any]:
    """All parameters of the loss, defaults filled in. ParameterError for an unknown name, a wrong
    type or a value out of bounds."""
    known = {p.name: p for p in info.params}
    for name in given:
        if name not in known:
            options = suggest(name, [*known, *RESERVED])
            raise ParameterError(f"{info.name} has no parameter {name!r}{options}", name)
    return {
        name: param.check(given[name]) if name in given else param.default
        for name, param in known.items()
    }


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: '; did you mean mse?', or all that is known. Upper and lower
    case do not matter."""
    known = list(known)
    lowered = {name.lower(): name for name in known}
    near = [lowered[name] for name in difflib.get_close_matches(word.lower(), lowered, n=3)]
    return (
        f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known) or 'none'}"
    )


def _decorator(
    kind: Kind,
    tensors: tuple[str, ...],
    name: str,
    summary: str,
    bounds: dict[str, Bound],
    needs: tuple[str, ...],
    fields: dict[str, Any],
) -> Callable[[Callable], Callable]:
    """`fields` are further ones of LossInfo."""
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be a loss name: expressions need a plain identifier")
    if name in (*RESERVED, *WORDS) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot be a loss name: expressions or Python know it as something else; "
            "choose another"
        )

    def register(function: Callable) -> Callable:
        if name in _losses:
            taken = _losses[name].function
            raise ValueError(
                f"the loss name {name!r} is taken by {taken.__module__}.{taken.__qualname__}: "
                "choose another"
            )
        params = read_params(function, name, tensors, bounds, needs)
        for field_name in ("signed_when", "pooled_when", "whole_when", "spans"):
            absent = sorted(set(fields.get(field_name, ())) - {p.name for p in params})
            if absent:
                raise ValueError(
                    f"loss {name!r} names {', '.join(absent)} in {field_name}, but has no such "
                    "parameter"
                )
        _losses[name] = LossInfo(name, kind, summary, function, params, needs, **fields)
        return add_source(function, fields["source"])

    return register


def add_source(function: Callable, source: str) -> Callable:
    """The function, with the source at the end of its docstring, where help() shows it beside the
    formula."""
    text = inspect.getdoc(function) or ""
    if source and source not in text:
        function.__doc__ = f"{text}\n\nSource: {source}"
    return function


def read_params(
    function: Callable,
    name: str,
    tensors: tuple[str, ...],
    bounds: dict[str, Bound],
    needs: tuple[str, ...],
) -> tuple[Param, ...]:
    """Parameters read from the signature; ValueError for a signature that expressions could not
    call."""
    signature = inspect.signature(function).parameters.values()
    positional = tuple(
        p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )
    keywords = [p for p in signature if p.kind is p.KEYWORD_ONLY]
    wanted = f"def {name}({', '.join(tensors)}, *, parameter=default, ...)"
    if positional != tensors or len(positional) + len(keywords) != len(signature):
        raise ValueError(f"loss {name!r} must be written as {wanted}")
    absent = sorted(({*needs, *bounds}) - {p.name for p in keywords})
    if absent:
        raise ValueError(
            f"loss {name!r} names {', '.join(absent)} in needs or bounds, but has no such "
            "keyword-only parameter"
        )
    reserved = sorted({p.name for p in keywords} & set(RESERVED))
    if reserved:
        raise ValueError(
            f"loss {name!r} has a parameter {', '.join(reserved)}: every term has an option of "
            "that name, choose another"
        )
    hints = _annotations(function, name)
    return tuple(
        _param(name, p, hints.get(p.name), bounds.get(p.name))
        for p in keywords
        if p.name not in needs
    )


def _annotations(function: Callable, name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        raise ValueError(f"loss {name!r}: cannot read its annotations: {error}") from None


def _param(loss: str, parameter: inspect.Parameter, hint: Any, bound: Bound | None) -> Param:
    if parameter.default is parameter.empty:
        raise ValueError(
            f"parameter {parameter.name} of loss {loss!r} needs a default, or a place in `needs` "
            "if it is a tensor"
        )
    default, optional, choices = parameter.default, parameter.default is None, ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # float | None
        members = [h for h in typing.get_args(hint) if h is not type(None)]
        optional = optional or len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else None
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    kind = hint if hint is not None else type(default)
    if kind not in (bool, int, float, str):
        raise ValueError(
            f"parameter {parameter.name} of loss {loss!r} must be a bool, int, float or str: "
            "annotate it, as float | None"
        )
    param = Param(parameter.name, kind, default, optional, choices, bound)
    try:
        return Param(parameter.name, kind, param.check(default), optional, choices, bound)
    except ParameterError as error:
        raise ValueError(f"loss {loss!r}: its own default is refused: {error}") from None


# the losses import the decorators above
from layers.losses.terms import boundary, lovasz, pixel, region, survey  # noqa: E402, F401
