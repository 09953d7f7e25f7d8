"""What an expression such as `focal(gamma=2)` can choose by name: a record of each, in registries.

Mask, box and class losses and anchor assigners are registered here alike. The function's (or the
class's) keyword-only parameters are what an expression can set. Their types come from the
annotation or the default (typing.Literal lists choices), their bounds from `bounds`. A parameter
named in `needs` is an extra that the caller supplies, and is not set in expressions.
"""

from __future__ import annotations

import inspect
import keyword
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from layers.losses.expr import Call, format_value, parse_call
from layers.names import did_you_mean, unknown_name

MOST_LISTED = 50  # names that a message shows where none is close to what was written


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
        wrong = self._wrong_type(value)
        if wrong:
            raise ParameterError(f"{self.name}={format_value(value)} {wrong}", self.name)
        wrong = self._wrong_value(value)
        if wrong:
            raise ParameterError(f"{self.name}={value!r} {wrong}", self.name)
        return value

    def _wrong_type(self, value: Any) -> str:
        if type(value) is self.type:  # isinstance would take True for a number
            return ""
        if isinstance(value, Call):
            if self.type in (int, float) and value.name.lower() in ("nan", "inf"):
                return "must be finite"
            if self.type is str and not (value.args or value.params):
                return f"must be {self.allowed}: {self.name}='{value}'"
        return f"must be {self.allowed}"

    def _wrong_value(self, value: Any) -> str:
        if self.choices and value not in self.choices:
            return f"is unknown{did_you_mean(value, self.choices, most=MOST_LISTED)}"
        if self.type is float and not math.isfinite(value):
            return "must be finite"
        if self.bound and value not in self.bound:
            why = f": {self.bound.why}" if self.bound.why else ""
            return f"is outside {self.bound.interval}{why}"
        return ""

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
class Record:
    """What is known about anything that is registered.

    name       how expressions call it
    kind       its sort within its registry, such as "pixel" or "region"; may be empty
    summary    one line for listings
    function   what is called with the parameters: a function, or a class
    params     parameters that an expression can set, with default, type and bounds
    needs      extras that the caller supplies by these names
    source     where the formula comes from (paper and equation), may be empty
    """

    name: str
    kind: str
    summary: str
    function: Callable[..., Any]
    params: tuple[Param, ...] = ()
    needs: tuple[str, ...] = ()
    source: str = ""

    @property
    def signature(self) -> str:
        """The call with every default, as a listing shows it: huber(delta=0.5)."""
        values = ", ".join(f"{p.name}={p.default!r}" for p in self.params)
        return f"{self.name}({values})" if values else self.name

    @property
    def defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.params}

    @property
    def module(self) -> str:
        """The module that defines it; "__main__" of a notebook's cell."""
        return self.function.__module__

    @property
    def place(self) -> str:
        """Where it was defined: module and name, and the module's file if there is one."""
        file = getattr(sys.modules.get(self.module), "__file__", None)
        own = getattr(self.function, "__qualname__", self.name)
        return f"{self.module}.{own}" + (f" ({file})" if file else "")


R = TypeVar("R", bound=Record)
Fn = TypeVar("Fn", bound=Callable[..., Any])


@dataclass(frozen=True)
class Chosen(Generic[R]):
    """What an expression chose, checked: a record with all of its parameters. A config hands on
    this value instead of the text."""

    record: R
    params: dict[str, Any]

    @property
    def expression(self) -> str:
        """Canonical text: defaults left out."""
        defaults = self.record.defaults
        changed = {name: value for name, value in self.params.items() if value != defaults[name]}
        return str(Call(self.record.name, (), changed))

    def __call__(self, *arguments: Any, **extras: Any) -> Any:
        """Calls the function, or makes an object of the class."""
        return self.record.function(*arguments, **self.params, **extras)


class Registry(Generic[R]):
    """Records of one purpose by name.

    what      how messages call one, "box loss"
    record    the class of the records
    options   parameters that an expression may give to each of them beside its own
    words     names that expressions know as something else
    by_name   {name: record}
    """

    def __init__(
        self,
        what: str,
        record: type[R],
        *,
        options: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
    ):
        self.what, self.record, self.options, self.words = what, record, options, words
        self.by_name: dict[str, R] = {}

    def register(
        self,
        function: Fn,
        arguments: tuple[str, ...],
        *,
        name: str | None = None,
        summary: str | None = None,
        bounds: Mapping[str, Bound] | None = None,
        needs: Iterable[str] = (),
        source: str = "",
        **fields: Any,
    ) -> Fn:
        """Adds a record of `function`, and the source to its docstring; returns the function.

        arguments   names of the positional arguments that the function must take
        name        None = the function's
        summary     None = the first line of the docstring
        bounds      {parameter: the interval that it must lie in}
        Others are fields of the record. ValueError, with the fix, for a name that is taken or
        reserved, a missing summary, and a signature that expressions could not call."""
        name = self._name(function) if name is None else name
        self._check_name(name)
        label = f"{self.what} {name!r}"
        needs = tuple(needs)
        params = read_params(function, label, arguments, bounds or {}, needs, reserved=self.options)
        summary = _first_line(function, label) if summary is None else summary
        self.add(
            self.record(
                name=name,
                summary=summary,
                function=function,
                params=params,
                needs=needs,
                source=source,
                **{"kind": "", **fields},
            )
        )
        _add_source(function, source)
        return function

    def add(self, record: R) -> None:
        """Makes the record known. One of the same name and module is replaced, as when a notebook's
        cell runs again; ValueError where another module has the name."""
        taken = self.by_name.get(record.name)
        if taken is not None and taken.module != record.module:
            raise ValueError(
                f"{self.what} {record.name!r} of {record.place}: the name is taken by "
                f"{taken.place}: choose another"
            )
        self.by_name[record.name] = record

    def names(self, kind: str | None = None) -> list[str]:
        """Sorted names, of one kind if given."""
        return sorted(r.name for r in self.by_name.values() if kind in (None, r.kind))

    def records(self) -> list[R]:
        """All records, by name."""
        return [self.by_name[name] for name in self.names()]

    def get(self, name: str) -> R:
        """The record of this name; ValueError names the nearest ones."""
        if name not in self.by_name:
            raise ValueError(unknown_name(self.what, name, self.by_name, most=MOST_LISTED))
        return self.by_name[name]

    def check(self, record: R, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the record, defaults filled in. ParameterError for an unknown name, a
        wrong type or a value out of bounds."""
        known = {p.name: p for p in record.params}
        for name in given:
            if name not in known:
                hint = did_you_mean(name, [*known, *self.options], most=MOST_LISTED)
                raise ParameterError(
                    f"{self.what} {record.name!r} has no parameter {name!r}{hint}", name
                )
        return {
            name: param.check(given[name]) if name in given else param.default
            for name, param in known.items()
        }

    def read(self, expression: str | Call | Chosen[R]) -> Chosen[R]:
        """What an expression of one call, such as `focal(gamma=2)`, chooses; parsed and checked
        ones are taken as they are.

        ExpressionError (a ValueError) shows the place of a mistake and the nearest valid name:
        syntax, unknown name or parameter, wrong type, value out of bounds."""
        if isinstance(expression, Chosen):
            return expression
        call = parse_call(expression) if isinstance(expression, str) else expression
        try:
            record = self.get(call.name)
            return Chosen(record, self.check(record, call.params))
        except ParameterError as error:
            raise call.mistake(str(error), error.parameter) from None
        except ValueError as error:
            raise call.mistake(str(error)) from None

    def _name(self, function: Callable[..., Any]) -> str:
        name = getattr(function, "__name__", None)
        if name is None:
            raise ValueError(f"give this {self.what} a name: {function} has none")
        return name

    def _check_name(self, name: str) -> None:
        if not name.isidentifier():
            raise ValueError(
                f"no {self.what} can be called {name!r}: expressions need a plain identifier, "
                "choose another"
            )
        if name in (*self.options, *self.words) or keyword.iskeyword(name):
            raise ValueError(
                f"no {self.what} can be called {name!r}: expressions or Python know it as "
                "something else, choose another"
            )


def read_params(
    function: Callable[..., Any],
    label: str,
    arguments: tuple[str, ...],
    bounds: Mapping[str, Bound],
    needs: tuple[str, ...],
    *,
    reserved: tuple[str, ...] = (),
) -> tuple[Param, ...]:
    """Parameters read from the signature of a function or class, which messages call `label`.
    ValueError for a signature that expressions could not call."""
    signature = inspect.signature(function).parameters.values()
    positional = tuple(
        p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )
    keywords = [p for p in signature if p.kind is p.KEYWORD_ONLY]
    if positional != arguments or len(positional) + len(keywords) != len(signature):
        own = ("__init__", "self") if isinstance(function, type) else (_plain_name(function),)
        wanted = f"def {own[0]}({', '.join((*own[1:], *arguments, '*'))}, parameter=default, ...)"
        raise ValueError(f"{label} must be written as {wanted}")
    absent = sorted(({*needs, *bounds}) - {p.name for p in keywords})
    if absent:
        raise ValueError(
            f"{label} names {', '.join(absent)} in needs or bounds, but has no such keyword-only "
            "parameter"
        )
    taken = sorted({p.name for p in keywords} & set(reserved))
    if taken:
        raise ValueError(
            f"{label} has a parameter {', '.join(taken)}: every term has an option of that name, "
            "choose another"
        )
    hints = _annotations(function, label)
    return tuple(
        _param(label, p, hints.get(p.name), bounds.get(p.name))
        for p in keywords
        if p.name not in needs
    )


def _plain_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() else "name"


def _annotations(function: Callable[..., Any], label: str) -> dict[str, Any]:
    called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]  # of the class itself
    try:
        return typing.get_type_hints(called)
    except NameError as error:
        raise ValueError(f"{label}: cannot read its annotations: {error}") from None


def _param(label: str, parameter: inspect.Parameter, hint: Any, bound: Bound | None) -> Param:
    if parameter.default is parameter.empty:
        raise ValueError(
            f"parameter {parameter.name} of {label} needs a default, or a place in `needs` if it "
            "is a tensor"
        )
    default, optional = parameter.default, parameter.default is None
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # float | None
        members = [h for h in typing.get_args(hint) if h is not type(None)]
        optional = optional or len(members) < len(typing.get_args(hint))
        hint = members[0] if len(members) == 1 else None
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    kind = hint if hint is not None else type(default)
    if kind not in (bool, int, float, str):
        raise ValueError(
            f"parameter {parameter.name} of {label} must be a bool, int, float or str: annotate "
            "it, as float | None"
        )
    param = Param(parameter.name, kind, default, optional, choices, bound)
    try:
        return Param(parameter.name, kind, param.check(default), optional, choices, bound)
    except ParameterError as error:
        raise ValueError(f"{label}: its own default is refused: {error}") from None


def _first_line(function: Callable[..., Any], label: str) -> str:
    """The docstring's, without its full stop."""
    text = inspect.cleandoc(function.__doc__ or "")
    if not text:
        raise ValueError(
            f"{label} has no summary: write a docstring, whose first line says what it is, or "
            "give the summary after the name"
        )
    return text.splitlines()[0].removesuffix(".")


def _add_source(function: Callable[..., Any], source: str) -> None:
    """Puts the source at the end of the docstring, where help() shows it beside the formula."""
    text = inspect.cleandoc(function.__doc__ or "")
    if source and source not in text:
        function.__doc__ = f"{text}\n\nSource: {source}"
