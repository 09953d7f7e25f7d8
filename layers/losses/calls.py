"""Losses that a config names by an expression of one call, `focal(gamma=2)`: the registry that box
and class losses share.

A loss is one function; its keyword-only parameters are read, described and checked as those of mask
losses are (see registry.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from layers.losses.expr import Call, ExpressionError, parse_call
from layers.losses.registry import (
    Bound,
    LossInfo,
    ParameterError,
    add_source,
    check_params,
    read_params,
    suggest,
)


@dataclass(frozen=True)
class LossCall:
    """A registered loss with all its parameters."""

    info: LossInfo
    params: dict[str, Any]

    @property
    def expression(self) -> str:
        """Canonical text: defaults left out."""
        return str(
            Call(
                self.info.name,
                (),
                {
                    key: value
                    for key, value in self.params.items()
                    if value != self.info.defaults[key]
                },
            )
        )

    def __call__(self, *tensors: Tensor, **extras: Any) -> Tensor:
        return self.info.function(*tensors, **self.params, **extras)


class CallRegistry:
    """Losses of one purpose by name.

    what     how messages call one, "box loss"
    tensors  names of the positional arguments that every function takes
    """

    def __init__(self, what: str, tensors: tuple[str, ...]):
        self.what = what
        self.tensors = tensors
        self._infos: dict[str, LossInfo] = {}

    def register(
        self,
        name: str,
        kind: str,
        summary: str,
        *,
        bounds: dict[str, Bound] | None = None,
        needs: Iterable[str] = (),
        source: str = "",
    ) -> Callable[[Callable], Callable]:
        """Decorator for a function of `tensors`; the arguments are fields of LossInfo. ValueError
        if the name is taken or the signature is another."""

        def add(function: Callable) -> Callable:
            if name in self._infos:
                raise ValueError(f"there is a {self.what} {name!r} already: choose another name")
            params = read_params(function, name, self.tensors, bounds or {}, tuple(needs))
            self._infos[name] = LossInfo(
                name, kind, summary, function, params, tuple(needs), source=source
            )
            return add_source(function, source)

        return add

    def infos(self) -> list[LossInfo]:
        """The records of the registered losses, by name."""
        return [self._infos[name] for name in sorted(self._infos)]

    def read(self, expression: str) -> LossCall:
        """The loss that an expression such as `focal(gamma=2)` describes.

        ValueError names the mistake and the nearest valid name: syntax, unknown loss or parameter,
        wrong type, value out of bounds."""
        call, text = parse_call(expression), " ".join(expression.split())
        if call.name not in self._infos:
            raise ExpressionError(
                f"there is no {self.what} {call.name!r}{suggest(call.name, sorted(self._infos))}",
                text,
                call.position,
            )
        info = self._infos[call.name]
        try:
            for name in call.params:
                if name not in info.defaults:
                    raise ParameterError(
                        f"{self.what} {info.name!r} has no parameter "
                        f"{name!r}{suggest(name, info.defaults)}",
                        name,
                    )
            return LossCall(info, check_params(info, call.params))
        except ParameterError as error:
            raise ExpressionError(str(error), text, call.param_positions[error.parameter]) from None
