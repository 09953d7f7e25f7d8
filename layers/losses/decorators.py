"""Decorators that make a function a mask loss, and the records of all mask losses.

    @pixel_loss
    def linear(logits, target):                             # (N,H,W), (N,H,W) in {0,1} -> (N,H,W)
        "Absolute error of probabilities."
        ...

    @pixel_loss("huber", "...", bounds={"delta": Bound("(0, 1)")})
    def huber(logits, target, *, delta=0.5): ...            # keyword-only: what expressions set

    @region_loss("dice", "...")
    def dice(logits, target, weight, *, smooth=1.0): ...    # + weight (N,H,W) in [0,1] -> (N,)

This module imports no loss; registry.py imports them all. layers/records.py says how parameters are
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, overload

from layers.names import unknown_name
from layers.records import Bound, Fn, Record, Registry

if TYPE_CHECKING:
    from typing_extensions import Unpack

Kind = Literal["pixel", "region"]
# what a loss does with targets between 0 and 1, see LossInfo.soft
Soft = Literal["proper", "not proper", "binary only"]
UNSTATED = "unstated"  # how listings call its absence
SOFT_LEGEND = """soft, what a loss does with targets between 0 and 1: proper, it is least where p is
the target; not proper, it is least elsewhere; binary only or unstated, it is given target > 0.5;
* it may differ with other parameters"""
# options of every term, see mask.py
RESERVED = ("weight", "region", "match", "sampling", "balance", "outside", "rescale")
# that expressions know as values of weight and sampling
WORDS = ("ramp", "cosine", "learned", "hardest", "points")


@dataclass(frozen=True)
class LossInfo(Record):
    """What is known about a mask loss: a Record of kind "pixel" -> (N,H,W) or "region" -> (N,),
    whose `needs` are (N,...) tensors, and

    signed          True where the value may be negative and is not 0 at a perfect mask
    signed_when     parameter values of which one must be set for that; empty = always
    pooled_when     parameter values of which each makes instances depend on one another, on purpose
    spans           parameters in prototype pixels, which must be below the sides of the prototypes
    whole_when      parameter values of which each makes a pixel loss read its whole target, pixels
                    outside the region included
    soft            what it does with a target between 0 and 1, the share of a pixel that the mask
                    covers. "proper": it is least where p is the target. "not proper": it is least
                    elsewhere. "binary only": its formula has no such case, so it is given target >
                    0.5. A function of {parameter: value}, all of them, where that depends on them.
                    None = not stated: the loss is given target > 0.5, as one that was written for 0
                    and 1 expects
    """

    signed: bool = False
    signed_when: dict[str, Any] = field(default_factory=dict)
    pooled_when: dict[str, Any] = field(default_factory=dict)
    spans: tuple[str, ...] = ()
    whole_when: dict[str, Any] = field(default_factory=dict)
    soft: Soft | Callable[[dict[str, Any]], Soft] | None = None

    def __post_init__(self):
        for given in ("signed_when", "pooled_when", "whole_when", "spans"):
            absent = sorted(set(getattr(self, given)) - {p.name for p in self.params})
            if absent:
                raise ValueError(
                    f"mask loss {self.name!r} names {', '.join(absent)} in {given}, but has no "
                    "such parameter"
                )
        try:
            self.soft_of(self.defaults)
        except KeyError as error:
            raise ValueError(
                f"mask loss {self.name!r} reads {error} in soft, but has no such parameter"
            ) from None

    def soft_of(self, params: dict[str, Any]) -> Soft | None:
        """What the loss with these parameters (all of them) does with targets between 0 and 1; None
        if it does not say. ValueError for another word."""
        stated = self.soft(params) if callable(self.soft) else self.soft
        if stated is not None and stated not in get_args(Soft):
            raise ValueError(
                f"mask loss {self.name!r}: {unknown_name('soft', str(stated), get_args(Soft))}"
            )
        return stated

    def cuts_target(self, params: dict[str, Any]) -> bool:
        """Whether the loss with these parameters (all of them) is given target > 0.5."""
        return self.soft_of(params) in ("binary only", None)

    @property
    def softness(self) -> str:
        """What listings say of its defaults; a * where other parameters may change it."""
        return (self.soft_of(self.defaults) or UNSTATED) + "*" * callable(self.soft)

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


MASK_LOSSES = Registry("mask loss", LossInfo, options=RESERVED, words=WORDS)


class Options(TypedDict, total=False):
    """What a decorator takes beside name and summary: fields of LossInfo, and `bounds`."""

    bounds: dict[str, Bound]
    needs: Iterable[str]
    signed: bool
    signed_when: dict[str, Any]
    pooled_when: dict[str, Any]
    spans: tuple[str, ...]
    soft: Soft | Callable[[dict[str, Any]], Soft]
    source: str


class PixelOptions(Options, total=False):
    whole_when: dict[str, Any]


@overload
def pixel_loss(name: Fn, /) -> Fn: ...


@overload
def pixel_loss(
    name: str | None = None, summary: str | None = None, **options: Unpack[PixelOptions]
) -> Callable[[Fn], Fn]: ...


def pixel_loss(
    name: Any = None, summary: str | None = None, **options: Unpack[PixelOptions]
) -> Any:
    """Register fn(logits (N,H,W), target (N,H,W) in {0,1}, *, ...) -> (N,H,W): a loss per pixel,
    neither cropped nor reduced.

    Without arguments, `@pixel_loss`, the name is the function's and the summary its docstring's
    first line. Options, all by name: bounds {parameter: Bound}, and what LossInfo describes: needs,
    signed, signed_when, pooled_when, spans, whole_when, soft, and the source, which is added to the
    docstring. A target in [0,1] is given to a loss that states soft="proper" or "not proper".

    A loss of the same name and module is replaced, as when a notebook's cell runs again. ValueError
    if another module has the name, if it is reserved, without a summary, or if the signature is not
    this one."""
    return _decorator("pixel", ("logits", "target"), name, summary, options)


@overload
def region_loss(name: Fn, /) -> Fn: ...


@overload
def region_loss(
    name: str | None = None, summary: str | None = None, **options: Unpack[Options]
) -> Callable[[Fn], Fn]: ...


def region_loss(name: Any = None, summary: str | None = None, **options: Unpack[Options]) -> Any:
    """Register fn(logits (N,H,W), target (N,H,W) in {0,1}, weight (N,H,W) in [0,1], *, ...) ->
    (N,): a scale-free loss per instance.

    Pixels of weight 0 must not matter. Otherwise as pixel_loss, without whole_when."""
    return _decorator("region", ("logits", "target", "weight"), name, summary, options)


def _decorator(
    kind: Kind,
    arguments: tuple[str, ...],
    name: Any,
    summary: str | None,
    options: Options,
) -> Any:
    """The function, registered, where `name` is one; otherwise a decorator."""
    if kind == "region" and "whole_when" in options:
        raise TypeError(
            "whole_when is of pixel losses: a region loss reads its whole target anyway"
        )
    if callable(name):
        return MASK_LOSSES.register(name, arguments, kind=kind, **options)
    return lambda function: MASK_LOSSES.register(
        function, arguments, name=name, summary=summary, kind=kind, **options
    )
