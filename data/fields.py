"""The types of a config's fields, with the range of each. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

from layers.losses.expr import CallText, SumText


def _written(text: str) -> str:
    """The text alone, without what was parsed of it. (The first pydantic 2.7 cannot read str's own
    signature.)"""
    return str(text)


# A mask loss, and a loss or assigner of one call: parsed here, once; dumped as they were written
SumExpression = Annotated[str, AfterValidator(SumText), PlainSerializer(_written)]
CallExpression = Annotated[str, AfterValidator(CallText), PlainSerializer(_written)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
# no run counts farther; a seed is a number of 63 bits, as PyTorch and NumPy take it
MOST, LARGEST_SEED = 10**12, 2**63 - 1
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
# what is multiplied with pixels or weights: far above every published network, and built in seconds
Side = Annotated[int, Field(ge=64, le=8192)]
Channels = Annotated[int, Field(gt=0, le=4096)]
Layers = Annotated[int, Field(ge=0, le=100)]
Batch = Annotated[int, Field(gt=0, le=65_536)]
Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Divisor = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
MOST_ANCHORS = 256  # at a cell of a pyramid level
AnchorSides = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)], ...],
    Field(max_length=MOST_ANCHORS),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
