"""What a training starts from: the weights that ship (`start`), or a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data.start import START, START_NETWORK
from yolact.checkpoint import CLASS_HEADS, LoadReport, load_weights
from yolact.model import Yolact
from yolact.weights_file import read_checkpoint

SHIPPED = Path(__file__).parent / "shipped" / "start.safetensors"
_LAST_OF_MASK_IOU = "maskiou_net.maskiou_net.10."
_SEMANTIC = "semantic_seg_conv."


def load_initial(model: Yolact, init_from: str) -> LoadReport:
    """Loads START or a file into the model; class-dependent layers that do not fit are reset.
    ValueError where it does not fit otherwise."""
    if init_from != START:
        return load_weights(model, init_from, reset_heads=True)
    state = _for_classes(read_checkpoint(SHIPPED)["model"], model)
    try:
        return load_weights(model, state, reset_heads=True, name=f"train.init_from={START}")
    except ValueError as error:
        raise ValueError(
            f"{error}. {START} fits the network of {START_NETWORK}: derive from that config, with "
            "as many anchors at a cell"
        ) from None


def _for_classes(state: Mapping[str, Tensor], model: Yolact) -> dict[str, Tensor]:
    """The state of a network that knows one class, for the classes of the model: each of them
    begins as that one, and all together are as likely as it was.

    Softmax over a background and C equal logits l - log C gives each class 1/C of what l gives the
    one. A sigmoid of the difference to the background's logit is the softmax of both.
    """
    own, new = model.state_dict(), dict(state)
    softmax, sigmoid = CLASS_HEADS["softmax"], CLASS_HEADS["sigmoid"]
    anchors = len(state["prediction_layers.0.bbox_layer.bias"]) // 4
    for kind in ("weight", "bias"):
        pair = new.pop(f"{softmax}{kind}").unflatten(0, (anchors, 2))  # (A,2,...)
        ground, thing = pair[:, :1], pair[:, 1:]
        is_softmax = f"{softmax}{kind}" in own
        name = f"{softmax if is_softmax else sigmoid}{kind}"
        classes = len(own[name]) // anchors - is_softmax
        shift = math.log(classes) if kind == "bias" else 0.0
        repeats = (1, classes, *[1] * (pair.ndim - 2))
        each = ((thing if is_softmax else thing - ground) - shift).repeat(repeats)
        rows = [ground, each] if is_softmax else [each]
        new[name] = torch.cat(rows, 1).flatten(0, 1)
        for layer in (_SEMANTIC, _LAST_OF_MASK_IOU):
            if f"{layer}{kind}" in new:
                one = new[f"{layer}{kind}"]
                shared = shift if layer == _SEMANTIC else 0.0
                new[f"{layer}{kind}"] = (one - shared).repeat(classes, *[1] * (one.ndim - 1))
    return new
