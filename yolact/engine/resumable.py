"""What a checkpoint must hold so that a training goes on from it: checked before anything is built
from it, since files are damaged, edited, and made by other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from torch import Tensor

from data.messages import reason
from layers.problems import shown
from yolact.finite import DIVERGED, not_finite

Count = Annotated[int, Field(ge=0, lt=2**53)]


def _tensor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        raise ValueError("must be a tensor")
    return value


Weights = dict[str, Annotated[Any, BeforeValidator(_tensor)]]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)


class _Meter(_Part):
    sums: dict[str, float] = {}
    counts: dict[str, Count] = {}
    skipped: Count = 0
    overflows: Count = 0

    @model_validator(mode="after")
    def _paired(self) -> _Meter:
        if self.sums.keys() != self.counts.keys() or not all(self.counts.values()):
            raise ValueError("sums and counts disagree")
        return self


class _Optimizer(_Part):
    state: dict[int, dict[str, Any]]
    param_groups: list[Any]


class _Training(_Part):
    optimizer: _Optimizer
    scaler: dict[str, Any]
    ema_updates: Count
    random: Annotated[list[dict[str, Any]], Field(min_length=1)]
    best_ap: Annotated[float, Field(ge=-1, le=1)]
    validated: Count
    stale: Count = 0
    meter: _Meter
    pretrained: bool


class _Resumable(_Part):
    format: int  # read_checkpoint() has looked at it
    model: Weights
    criterion: dict[str, Any]
    ema: Weights | None
    config: dict[str, JsonValue]
    step: Count
    training: _Training

    @model_validator(mode="after")
    def _in_order(self) -> _Resumable:
        if self.training.validated > self.step:
            raise ValueError(f"validated={self.training.validated} is beyond step={self.step}")
        return self


def check_resumable(content: Mapping[Any, Any], name: str) -> None:
    """ValueError where a checkpoint lacks a part that resuming needs, or a value makes no sense, or
    numbers in it are not finite. name: of the file."""
    try:
        _Resumable.model_validate(dict(content))
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(map(str, item["loc"])) or "the whole"
        found = "" if item["type"] == "missing" else f", found {shown(item['input'])}"
        raise ValueError(
            f"{name} is damaged: {place} {reason(item)}{found if len(found) < 120 else ''}; resume "
            "from another checkpoint of the run"
        ) from None
    moments = (
        (f"training.optimizer of parameter {index}, {key}", value)
        for index, entry in content["training"]["optimizer"]["state"].items()
        for key, value in entry.items()
    )
    averages = ((f"ema.{key}", value) for key, value in (content["ema"] or {}).items())
    state = ((f"criterion.{key}", value) for key, value in content["criterion"].items())
    wrong = not_finite(moments) or not_finite(averages) or not_finite(state)
    if wrong:
        raise ValueError(
            f"{name} holds numbers that are not finite, first {wrong}: {DIVERGED}, or the file is "
            "damaged; resume from an earlier checkpoint of the run"
        )


@contextmanager
def restoring(part: str) -> Iterator[None]:
    """A block that puts back a part of a checkpoint. What cannot be put back raises whatever the
    code below meets first: here that is a ValueError which names the part."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"the checkpoint's {part}: {error}") from error
    except Exception as error:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the checkpoint's {part} cannot be put back ({type(error).__name__}: {detail}): "
            "resume from another checkpoint of the run, with the config that it was started with"
        ) from error
