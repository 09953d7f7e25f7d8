"""The grammar of loss and assigner expressions: text <-> terms. Pure Python, nothing is ever
evaluated.

    bce
    bce + 0.5*mse(region='image')
    dice + boundary(weight=ramp(0.01, 1))

An expression is a sum of terms; a term is a call or a bare name, with an optional positive number
and `*` in front of it. Parameters are given by name; a value is a number, a string, True, False,
None, or a call such as a schedule, which alone may have positional arguments. Which names,
parameters and defaults exist is not known here: see layers/records.py and mask.py. Terms and calls
keep the text that they came from, so that whoever checks one later can show a mistake's place.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field
from typing import Union

Value = Union[int, float, str, bool, None, "Call"]


class ExpressionError(ValueError):
    """A mistake in an expression: `message` alone; as text, with a caret under the place."""

    def __init__(self, message: str, text: str, position: int):
        super().__init__(f"{message}\n    {text}\n    {' ' * position}^")
        self.message, self.text, self.position = message, text, position


@dataclass(frozen=True)
class _Placed:
    """What was read from a text, and where: the text on one line, the position of the name and of
    each parameter. Values that differ in these alone are equal."""

    text: str = field(default="", compare=False, repr=False, kw_only=True)
    position: int = field(default=0, compare=False, repr=False, kw_only=True)
    param_positions: dict[str, int] = field(
        default_factory=dict, compare=False, repr=False, kw_only=True
    )

    def mistake(self, message: str, parameter: str | None = None) -> ExpressionError:
        """The error to raise for a mistake in the name, or in a parameter."""
        place = self.position if parameter is None else self.param_positions.get(parameter)
        return ExpressionError(
            message, self.text or str(self), self.position if place is None else place
        )


@dataclass(frozen=True)
class Call(_Placed):
    """name(args, key=value, ...). A bare name is a call without arguments."""

    name: str
    args: tuple[Value, ...] = ()
    params: dict[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [format_value(value) for value in self.args]
        parts += [f"{key}={format_value(value)}" for key, value in self.params.items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True)
class Term(_Placed):
    """coefficient * name(params)."""

    name: str
    coefficient: float = 1.0
    params: dict[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        call = str(Call(self.name, (), self.params))
        return call if self.coefficient == 1 else f"{format_value(self.coefficient)}*{call}"


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a sum, in written order. ExpressionError (a ValueError) shows the place of a
    mistake."""
    if isinstance(text, SumText):
        return text.terms
    text, tree = _tree(text)
    nodes = []
    # a + b + c nests to the left
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, (ast.Add, ast.Sub)):
        if isinstance(tree.op, ast.Sub):
            raise ExpressionError(
                "terms are added: a negative weight would reward errors",
                text,
                _at(text, tree.right),
            )
        nodes.append(tree.right)
        tree = tree.left
    nodes.append(tree)
    return tuple(_term(text, node) for node in reversed(nodes))


def parse_call(text: str) -> Call:
    """One `name` or `name(key=value, ...)`, as an assigner is written. ExpressionError shows the
    place of a mistake."""
    if isinstance(text, CallText):
        return text.call
    text, tree = _tree(text)
    return _named_call(text, tree)


class SumText(str):
    """A sum in a config: a string to whoever prints, hashes or compares it, which carries its
    terms. Parsed once, when it is made; ExpressionError where that fails."""

    terms: tuple[Term, ...]

    def __new__(cls, text: str) -> SumText:
        terms = parse(text)
        self = super().__new__(cls, text)
        self.terms = terms
        return self


class CallText(str):
    """The same for one call, as an assigner is written."""

    call: Call

    def __new__(cls, text: str) -> CallText:
        call = parse_call(text)
        self = super().__new__(cls, text)
        self.call = call
        return self


def format_terms(terms: tuple[Term, ...]) -> str:
    """Canonical text: written order, no `1*`, shortest numbers. parse(format_terms(t)) == t."""
    return " + ".join(str(term) for term in terms)


def unordered(terms: tuple[Term, ...]) -> tuple[str, ...]:
    """A hashable key that is equal for expressions that differ only in the order of terms or
    parameters."""
    return tuple(sorted(str(Term(t.name, t.coefficient, _sorted(t.params))) for t in terms))


def format_value(value: Value) -> str:
    """A value as the grammar writes it; whole floats lose their `.0`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return repr(int(value))
    return str(value) if isinstance(value, Call) else repr(value)


def _sorted(params: dict[str, Value]) -> dict[str, Value]:
    return {
        key: Call(value.name, value.args, _sorted(value.params))
        if isinstance(value, Call)
        else value
        for key, value in sorted(params.items())
    }


def _tree(text: str) -> tuple[str, ast.expr]:
    """The text on one line (YAML may fold it over several) and its syntax tree."""
    if not isinstance(text, str):
        raise ValueError(f"an expression such as 'bce + 0.5*mse' is expected, got {text!r}")
    text = " ".join(text.split())
    if not text:
        raise ValueError("the expression is empty: write at least one name, for example bce")
    if "#" in text:
        raise ExpressionError("an expression has no comments", text, text.index("#"))
    try:
        return text, ast.parse(text, mode="eval").body
    except SyntaxError as error:
        # Python gives no place for what is missing at the end
        position = min(error.offset - 1, len(text)) if error.offset else len(text)
        raise ExpressionError(
            "cannot read this as `number*name(key=value) + ...`", text, position
        ) from None
    # null bytes, too deep, or a number of thousands of digits
    except (ValueError, RecursionError, MemoryError, OverflowError):
        raise ExpressionError(
            "cannot read this as `number*name(key=value) + ...`", text, 0
        ) from None


def _at(text: str, node: ast.expr | ast.keyword) -> int:
    return len(text.encode()[: node.col_offset].decode(errors="ignore"))  # ast counts bytes


def _term(text: str, node: ast.expr) -> Term:
    coefficient = 1.0
    if isinstance(node, ast.UnaryOp):
        raise ExpressionError("a term has no sign: weights are positive", text, _at(text, node))
    if isinstance(node, ast.BinOp):
        if not isinstance(node.op, ast.Mult):
            raise ExpressionError(
                "only `+` between terms and `*` after a number are known", text, _at(text, node)
            )
        if isinstance(node.right, ast.Constant):
            raise ExpressionError("write the number first: 0.5*mse", text, _at(text, node.right))
        coefficient = _coefficient(text, node.left)
        node = node.right
    call = _named_call(text, node)
    return Term(
        call.name,
        coefficient,
        call.params,
        text=text,
        position=call.position,
        param_positions=call.param_positions,
    )


def _coefficient(text: str, node: ast.expr) -> float:
    if isinstance(node, (ast.BinOp, ast.Call, ast.Name)):
        raise ExpressionError(
            "a coefficient is one number in front of one loss: 0.5*mse", text, _at(text, node)
        )
    value = _value(text, node)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(
            f"the coefficient must be a number, got {value!r}", text, _at(text, node)
        )
    if not value > 0:
        message = (
            f"the coefficient must be above 0, got {format_value(value)}: leave the term out "
            "instead"
        )
        raise ExpressionError(message, text, _at(text, node))
    return float(value)


def _named_call(text: str, node: ast.expr) -> Call:
    """A call at the top of a term: parameters by name only."""
    if isinstance(node, ast.Name):
        return Call(node.id, text=text, position=_at(text, node))
    if not isinstance(node, ast.Call):
        raise ExpressionError(
            "expected a name, or a name with parameters: mse(region='image')", text, _at(text, node)
        )
    call = _call(text, node)
    if call.args:
        raise ExpressionError(
            f"parameters of {call.name} are given by name: {call.name}(name=value)",
            text,
            _at(text, node.args[0]),
        )
    return call


def _call(text: str, node: ast.Call) -> Call:
    if not isinstance(node.func, ast.Name):
        raise ExpressionError("only a plain name can be called", text, _at(text, node))
    args = tuple(_value(text, arg) for arg in node.args)
    params: dict[str, Value] = {}
    positions: dict[str, int] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ExpressionError(
                "`**` is not known: write each parameter as name=value", text, _at(text, keyword)
            )
        if keyword.arg in params:
            raise ExpressionError(f"{keyword.arg} is given twice", text, _at(text, keyword))
        params[keyword.arg] = _value(text, keyword.value)
        positions[keyword.arg] = _at(text, keyword)
    return Call(
        node.func.id, args, params, text=text, position=_at(text, node), param_positions=positions
    )


def _value(text: str, node: ast.expr) -> Value:
    if isinstance(node, ast.Call):
        return _call(text, node)
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        sign = -1 if isinstance(node.op, ast.USub) else 1
        node = node.operand
        if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
            raise ExpressionError("a sign belongs in front of a number", text, _at(text, node))
    if isinstance(node, ast.Name):  # as weight=learned
        return Call(node.id, text=text, position=_at(text, node))
    value = node.value if isinstance(node, ast.Constant) else ...
    if value is None or isinstance(value, (str, bool)):
        return value
    if not isinstance(value, (int, float)):
        raise ExpressionError(
            "a value is a number, a 'word', True, False, None or a call", text, _at(text, node)
        )
    if not _finite(value):
        raise ExpressionError("numbers must be finite", text, _at(text, node))
    return sign * value


def _finite(value: int | float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
