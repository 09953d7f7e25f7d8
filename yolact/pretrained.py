"""Pretrained backbones: torchvision's ImageNet weights, or a file under torchvision's or YOLACT's
names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from yolact.checkpoint import plain_state, read_checkpoint
from yolact.finite import not_finite

IMAGENET = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet34": models.ResNet34_Weights.IMAGENET1K_V1,
    # V1: the weights that the published models started from
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": models.ResNet101_Weights.IMAGENET1K_V1,
}
BACKBONE_KEY = re.compile(r"(layers\.|conv1\.|bn1\.|_preconv\.)")
# deformable parameters without a plain counterpart
NEW_IN_DCN = re.compile(r"\.conv2\.(bias|conv_offset_mask\.(weight|bias))$")


def load_backbone(backbone: nn.Module, choice: str, *, name: str, width: int = 64) -> bool:
    """Load what `choice` says, 'imagenet' or a file, into the backbone called `name`; False, and
    nothing done, for 'none'.

    A deformable convolution takes the weights of the plain one in its place; its offsets stay zero.
    Raises ValueError where the weights cannot be had or do not fit, with what to do.
    """
    if choice == "none":
        return False
    path = _imagenet_file(name, width) if choice == "imagenet" else Path(choice).expanduser()
    state = backbone_state(read_checkpoint(path))
    own = backbone.state_dict()
    optional = {
        key for key in own if key.endswith(".num_batches_tracked") or NEW_IN_DCN.search(key)
    }
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    for label, keys in (
        ("lacks", missing),
        ("has more layers than the model, from", unexpected),
        ("has another shape of", reshaped),
    ):
        if keys:
            raise ValueError(
                f"{path} does not fit backbone {name}: it {label} {keys[0]} ({len(keys)} tensors "
                "so); give weights of the same architecture and width, or model.pretrained=none "
                "to train from scratch"
            )
    wrong = not_finite(state.items())
    if wrong:
        raise ValueError(f"{path} holds weights that are not finite, first {wrong}: take others")
    backbone.load_state_dict(state, strict=False)
    return True


def backbone_state(content: Mapping) -> dict[str, Tensor]:
    """Backbone tensors of a file under our names: torchvision's layer1.0.conv1 is our
    layers.0.0.conv1; classifiers are left out.

    Whole models, ours and official ones, are read as well; theirs are the keys that start with
    'backbone.'.
    """
    if isinstance(content.get("model"), Mapping):
        content = content["model"]
    content = {str(key): value for key, value in plain_state(content).items()}
    # layer<N> are obsolete duplicates in the oldest official files
    if any(key.startswith("backbone.") for key in content):
        content = {
            key.removeprefix("backbone."): value
            for key, value in content.items()
            if re.match(r"backbone\.(?!layer\d)", key)
        }
    renamed = {
        re.sub(r"^layer(\d+)\.", lambda found: f"layers.{int(found[1]) - 1}.", key): value
        for key, value in content.items()
    }
    return {
        key: value
        for key, value in renamed.items()
        if BACKBONE_KEY.match(key) and isinstance(value, Tensor)
    }


def _imagenet_file(name: str, width: int) -> Path:
    """torchvision's file for the backbone, in torch hub's cache; downloaded if it is not there."""
    scratch = "set model.pretrained=none to train from scratch, or model.pretrained=FILE"
    if name not in IMAGENET:
        raise ValueError(
            f"torchvision has no ImageNet weights for {name} (it has them for "
            f"{', '.join(IMAGENET)}): {scratch}"
        )
    if width != 64:
        raise ValueError(f"ImageNet weights are for backbone_width=64, not {width}: {scratch}")
    url = IMAGENET[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        checksum = re.search(r"-([a-f0-9]{8,})\.", path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=checksum[1] if checksum else None
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"could not download {path.name} ({error}): fetch {url} elsewhere and put it at "
                f"{path}, or {scratch}"
            ) from error
    return path
