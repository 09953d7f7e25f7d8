"""Reading and writing checkpoints: our own, and the official YOLACT .pth files by their key
names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolact.finite import DIVERGED, not_finite
from yolact.model import Yolact
from yolact.weights_file import read_checkpoint, save_checkpoint

__all__ = ["LoadReport", "load_weights", "plain_state", "read_checkpoint", "save_checkpoint"]

# see yolact.heads
CLASS_HEADS = {
    "softmax": "prediction_layers.0.conf_layer.",
    "sigmoid": "prediction_layers.0.class_layer.",
}
RESET_HEADS = (*CLASS_HEADS.values(), "semantic_seg_conv.", "maskiou_net.maskiou_net.10.")
OBSOLETE_KEY = re.compile(r"backbone\.layer\d|fpn\.downsample_layers\.(\d+)\.")
NAMED_AT_MOST = 4
# what DistributedDataParallel and torch.compile put before every name of a state dict
WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class LoadReport:
    """Keys that were loaded, kept as the model had them (heads of another class count or loss), and
    left unused in the file."""

    loaded: tuple[str, ...]
    reset: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"loaded {len(self.loaded)} tensors"]
        if self.reset:
            parts.append(f"not loaded, kept as initialised: {_some(self.reset)}")
        if self.dropped:
            parts.append(f"unused in the file: {_some(self.dropped)}")
        return "; ".join(parts)


def load_weights(
    model: Yolact,
    source: str | Path | Mapping[str, Any],
    *,
    reset_heads: bool = False,
    use_ema: bool = False,
    name: str | Path = "the given weights",
) -> LoadReport:
    """Load `source`, a path or what such a file holds: one of our checkpoints, or a state dict
    under the official names.

    reset_heads   keep the model's own class, semantic and mask-IoU output layers where the class
                  counts differ, and its class layer where the file's has softmax logits and the
                  model's sigmoid logits, or the reverse; and leave out the file's mask-IoU
                  net under model.mask_iou_net=false
    use_ema       read the averaged weights of one of our checkpoints
    name          what messages call a source that is no path

    Obsolete keys of old official files are dropped, as the original does, and so is a semantic head
    that the model has no use for. Any other difference of names, shapes or types is a ValueError,
    and so are weights that are not finite; the model is then as before.
    """
    if not isinstance(source, Mapping):
        name, source = source, read_checkpoint(source)
    name = str(name)
    state, dropped = _without_unused(_state_of(source, name, use_ema), model, reset_heads)
    own = model.state_dict()
    reset = _heads_to_reset(state, own, name, reset_heads)
    if reset:
        dropped += [
            key for key in state if key.startswith(tuple(CLASS_HEADS.values())) and key not in own
        ]
    loaded = {key: value for key, value in state.items() if key not in reset and key not in dropped}
    # absent from files of the oldest torch versions
    counters = {key for key in own if key.endswith(".num_batches_tracked")}
    _check_match(loaded, own, set(reset) | counters, name)
    wrong = not_finite(loaded.items())
    if wrong:
        raise ValueError(
            f"{name} holds weights that are not finite, first {wrong}: {DIVERGED}, or the file is "
            "damaged; take an earlier checkpoint of its run"
        )
    model.load_state_dict(loaded, strict=False)
    return LoadReport(tuple(loaded), tuple(reset), tuple(dropped))


def _state_of(content: Mapping[str, Any], name: str, use_ema: bool) -> dict[str, Tensor]:
    """The state dict in one of our checkpoints, or `content` itself if it is one."""
    if isinstance(content.get("model"), Mapping):
        state = content["model"]
        if use_ema:
            state = content.get("ema")
            if not isinstance(state, Mapping):
                raise ValueError(
                    f"{name} holds no averaged (EMA) weights: it was trained with train.ema_decay=0"
                )
    elif use_ema:
        raise ValueError(f"{name} is a plain state dict without averaged (EMA) weights")
    else:
        state = content
    state = plain_state(state)
    others = [
        str(key)
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others or not state:
        raise ValueError(
            f"{name} is not a checkpoint of this project nor a state dict: it has "
            f"{_some(others) or 'nothing'}"
        )
    return dict(state)


def plain_state(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A state dict without what other programs wrap around one: {"state_dict": ...}, and "module."
    or "_orig_mod." before every name."""
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    while content:
        prefix = next((p for p in WRAPPERS if all(str(k).startswith(p) for k in content)), None)
        if prefix is None:
            break
        content = {str(key).removeprefix(prefix): value for key, value in content.items()}
    return content


def _without_unused(
    state: dict[str, Tensor], model: Yolact, branches: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The state without keys that are dropped, and those. branches: whether the mask-IoU net is
    dropped too where the model has none."""
    own = set(model.state_dict())
    optional = ("semantic_seg_conv.", "maskiou_net.")[: 1 + branches]
    levels = len(model.fpn.downsample_layers)
    dropped = []
    for key in state:
        obsolete = OBSOLETE_KEY.match(key)
        if obsolete and (obsolete[1] is None or int(obsolete[1]) >= levels):
            dropped.append(key)
        elif key.startswith(optional) and key not in own:
            dropped.append(key)
    return {key: value for key, value in state.items() if key not in dropped}, dropped


def _heads_to_reset(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str, allowed: bool
) -> list[str]:
    """Keys of the model's heads that the file has for another number of classes or another form of
    class logits; none if both agree."""
    theirs, ours = _classes(state), _classes(own)
    if theirs is None or ours is None or theirs == ours:
        return []
    if not allowed:
        raise ValueError(
            f"{name} was trained {_difference(theirs, ours)}, or train on with train.init_from, "
            "which loads all but the class-dependent layers (load_weights(..., reset_heads=True))"
        )
    heads = RESET_HEADS if theirs[0] != ours[0] else CLASS_HEADS[ours[1]]
    return [key for key in own if key.startswith(heads)]


def _difference(theirs: tuple[int, str], ours: tuple[int, str]) -> str:
    """The middle of a message: what differs, and which settings to use."""
    (their_count, their_form), (our_count, our_form) = theirs, ours
    differs, settings = [], []
    if their_count != our_count:
        differs.append(f"on {their_count} classes and the model has {our_count}")
        settings.append("data.class_names")
    if their_form != our_form:
        differs.append(f"for {their_form} class logits and the model gives {our_form} ones")
        settings.append("loss.classification")
    return f"{', '.join(differs)}: use the config it was trained with ({', '.join(settings)})"


def _classes(state: Mapping[str, Tensor]) -> tuple[int, str] | None:
    """Foreground classes and the form of their logits: (1 + classes) channels for every anchor of a
    location under softmax, classes under sigmoid, beside 4 offsets."""
    offsets = state.get("prediction_layers.0.bbox_layer.bias")
    for form, prefix in CLASS_HEADS.items():
        logits = state.get(f"{prefix}bias")
        if logits is not None and offsets is not None and len(offsets) >= 4:
            return len(logits) // (len(offsets) // 4) - (form == "softmax"), form
    return None


def _check_match(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], optional: set[str], name: str
) -> None:
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    both = [(key, value, own[key]) for key, value in state.items() if key in own]
    reshaped = [
        f"{key} ({_shape(theirs)} in the file, {_shape(ours)} in the model)"
        for key, theirs, ours in both
        if theirs.shape != ours.shape
    ]
    retyped = [
        f"{key} ({str(theirs.dtype).removeprefix('torch.')})"
        for key, theirs, ours in both
        if theirs.layout != torch.strided
        or theirs.is_quantized
        or (theirs.is_floating_point(), theirs.is_complex())
        != (ours.is_floating_point(), ours.is_complex())
    ]
    problems = [
        f"{label}: {_some(keys)}"
        for label, keys in (
            ("missing in the file", missing),
            ("unknown to the model", unexpected),
            ("of another shape", reshaped),
            ("of another kind of numbers", retyped),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"{name} does not fit the model; {'; '.join(problems)}. Most likely it belongs to "
            "another architecture: use the config that it was trained with (backbone, deformable "
            "layers, widths, anchors, mask-IoU net)"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(keys) -> str:
    shown = ", ".join(list(keys)[:NAMED_AT_MOST])
    return shown + (f" and {len(keys) - NAMED_AT_MOST} more" if len(keys) > NAMED_AT_MOST else "")
