"""Reading and writing checkpoints: our own, and the official YOLACT .pth files by their key
names."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolact.model import Yolact

# see yolact.heads
CLASS_HEADS = {
    "softmax": "prediction_layers.0.conf_layer.",
    "sigmoid": "prediction_layers.0.class_layer.",
}
RESET_HEADS = (*CLASS_HEADS.values(), "semantic_seg_conv.", "maskiou_net.maskiou_net.10.")
OBSOLETE_KEY = re.compile(r"backbone\.layer\d|fpn\.downsample_layers\.(\d+)\.")
NAMED_AT_MOST = 4


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
                  model's sigmoid logits, or the reverse
    use_ema       read the averaged weights of one of our checkpoints
    name          what messages call a source that is no path

    Obsolete keys of old official files are dropped, as the original does, and so is a semantic head
    that the model has no use for. Any other difference of names or shapes is a ValueError, after
    which the model is as before.
    """
    if not isinstance(source, Mapping):
        name, source = source, read_checkpoint(source)
    name = str(name)
    state, dropped = _without_unused(_state_of(source, name, use_ema), model)
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
    model.load_state_dict(loaded, strict=False)
    return LoadReport(tuple(loaded), tuple(reset), tuple(dropped))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a .pth file, on the CPU. Only tensors and plain data are read: nothing in
    the file is executed.

    Raises ValueError, naming the file and what to do, where it is missing, a folder, empty,
    truncated, holds code, or is something else.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"checkpoint {path} does not exist: check the path")
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, not a checkpoint: name a file in it{_suggest_files(path)}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"checkpoint {path} is empty (0 bytes): copy or download it again")
    try:
        with warnings.catch_warnings():
            # about pickles: what is wrong with a file is said below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or ("Unsupported" in str(error) and _is_pickle(path)):
            raise ValueError(
                f"checkpoint {path} holds code or objects besides tensors and plain data "
                f"({_refused(error)}), and is not loaded since reading it could run that code: "
                "save only its state_dict"
            ) from error
        raise ValueError(
            f"{path} is truncated or not a PyTorch checkpoint: copy or download it again"
        ) from error
    except PermissionError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # a truncated file's errno says nothing about it
        detail = "" if isinstance(error, OSError) else f" ({_first_line(error)})"
        raise ValueError(
            f"checkpoint {path} is truncated or damaged{detail}: copy or download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a checkpoint: save the model's "
            "state_dict"
        )
    return dict(content)


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` whole or not at all: to a temporary file in the same folder, flushed to disk,
    then renamed over `path`.

    Raises OSError, naming the file, where it cannot be written; a checkpoint that was there before
    is left untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        # temporary files are private; a checkpoint is an ordinary file
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        kept = "; the checkpoint that was there before is unchanged" if path.exists() else ""
        raise OSError(
            f"checkpoint {path} could not be written ({_first_line(error)}){kept}: "
            "free disk space or choose a folder that you may write to"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise ValueError(
            f"{name} is not a checkpoint of this project nor a state dict (it has "
            f"{_some(others) or 'nothing'})"
        )
    return dict(state)


def _without_unused(state: dict[str, Tensor], model: Yolact) -> tuple[dict[str, Tensor], list[str]]:
    own = set(model.state_dict())
    levels = len(model.fpn.downsample_layers)
    dropped = []
    for key in state:
        obsolete = OBSOLETE_KEY.match(key)
        if obsolete and (obsolete[1] is None or int(obsolete[1]) >= levels):
            dropped.append(key)
        elif key.startswith("semantic_seg_conv.") and key not in own:
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
    reshaped = [
        f"{key} ({_shape(state[key])} in the file, {_shape(own[key])} in the model)"
        for key in state
        if key in own and state[key].shape != own[key].shape
    ]
    problems = [
        f"{label}: {_some(keys)}"
        for label, keys in (
            ("missing in the file", missing),
            ("unknown to the model", unexpected),
            ("of another shape", reshaped),
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def _refused(error: BaseException) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {found[1]}" if found else "unsupported content"


def _suggest_files(folder: Path) -> str:
    files = sorted(folder.glob("*.pth"))
    return f", such as {files[0]}" if files else ""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file's own data is safe by now
    finally:
        os.close(descriptor)
