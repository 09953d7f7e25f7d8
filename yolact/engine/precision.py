"""The types and layout of a forward pass: float32 as published, or what a device multiplies faster.
What follows the network computes in float32.

'auto' is settled once, at the start, by timing a convolution; from then on only what it was
settled as is spoken of, stored and compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"
OPTIMIZE = ("none", AUTO)
CHANNELS, SIDE, REPEATS = 128, 64, 5  # of the convolution that is timed
GAIN = 1.15  # below it, a difference of times is noise


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass on `device` at a precision of AUTOCAST; float32 does
    nothing."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Choice:
    """How a model is run: autocast type, NHWC layout, batch norm folded into convolutions, and
    why."""

    precision: str = "float32"
    channels_last: bool = False
    folded: bool = False
    reason: str = "as asked for"

    @property
    def short(self) -> str:
        """Without the reason."""
        parts = [self.precision]
        parts += ["channels_last"] * self.channels_last + ["folded batch norm"] * self.folded
        return ", ".join(parts)

    def __str__(self) -> str:
        return f"{self.short} ({self.reason})"


def choose(device: torch.device, precision: str | None = None, optimize: str = "none") -> Choice:
    """How to run a model that only predicts.

    precision  of AUTOCAST, or 'auto'; None = float32, or 'auto' under optimize='auto'
    optimize   'auto' = fold batch norm, and take the layout that is faster; precision='auto' does
               so too. 'none' = float32 exactly as published; half types are NHWC, without which
               they gain nothing on a CPU
    ValueError for other names.
    """
    if precision not in (*AUTOCAST, AUTO, None):
        raise ValueError(f"precision={precision!r}: use one of {', '.join((*AUTOCAST, AUTO))}")
    if optimize not in OPTIMIZE:
        raise ValueError(f"optimize={optimize!r}: use one of {', '.join(OPTIMIZE)}")
    if AUTO not in (precision, optimize):
        precision = precision or "float32"
        return Choice(precision, channels_last=precision != "float32")
    trial = tried(device)
    if precision in (None, AUTO):
        return Choice(trial.precision, trial.channels_last, True, trial.reason)
    layout = precision != "float32" or tried(device, bf16=False).channels_last
    return Choice(precision, layout, True, "precision as asked for")


@cache
def tried(device: torch.device, *, bf16: bool = True, backward: bool = False) -> Choice:
    """The fastest type and layout of a convolution on `device`, by a trial of a tenth of a second.

    bf16      whether bf16 is tried, where torch says that the device multiplies it
    backward  whether gradients are timed too
    """
    if device.type not in ("cpu", "cuda"):
        return Choice(reason=f"nothing is tried on {device.type}")
    times = {
        (precision, layout): _seconds(device, AUTOCAST[precision], layout, backward)
        for precision, layout in (("float32", False), ("float32", True), ("bf16", True))
        if precision == "float32" or (bf16 and multiplies_bf16(device))
    }
    best = min(times, key=times.__getitem__)
    plain = times["float32", False]
    if plain < GAIN * times[best]:
        best = "float32", False
    shown = ", ".join(
        f"{1000 * seconds:.2g} ms in {precision}{' channels_last' * layout}"
        for (precision, layout), seconds in times.items()
    )
    lacks = "; no bf16 on this device" if bf16 and ("bf16", True) not in times else ""
    return Choice(*best, reason=f"a convolution takes {shown}{lacks}")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether torch says that the device has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return torch.backends.mkldnn.is_available() and bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )
    except (AttributeError, RuntimeError):  # a torch without it
        return False


def _seconds(
    device: torch.device, dtype: torch.dtype | None, channels_last: bool, backward: bool
) -> float:
    """The shortest of a few 3x3 convolutions: processor time on a CPU, which others share."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images, weight = (
        torch.full(shape, 0.5, dtype=dtype, device=device)
        .contiguous(memory_format=layout)
        .requires_grad_(backward)
        for shape in ((1, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3))
    )
    best = float("inf")
    with torch.inference_mode(False), torch.set_grad_enabled(backward):
        for _ in range(REPEATS):
            started = _now(device)
            out = F.conv2d(images, weight, padding=1)
            if backward:
                out.backward(out.detach())
            best = min(best, _now(device) - started)
    return best


def wait_for(device: torch.device) -> None:
    """Returns when the device has done what it was given, so that a clock can be read; a CPU
    always has."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _now(device: torch.device) -> float:
    wait_for(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()
