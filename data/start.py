"""The weights that ship: their name in train.init_from, and which networks they fit."""

from __future__ import annotations

from typing import Any

from data.resolve import load_config
from data.schema import ModelConfig

# the weights that ship, by the word of train.init_from, and the config of their network
START, START_NETWORK = "start", "yolact_plus_micro"
# settings of a model that its weights do not depend on
FREE_OF_WEIGHTS = {
    "max_size",
    "pretrained",
    "freeze_backbone",
    "dcn_backend",
    "anchor_scales",
    "anchor_ratios",
    "square_anchors",
    "anchor_offset",
    "semantic_head",
    "mask_iou_net",
    "mask_iou_relu",
}


def fits_start(model: ModelConfig) -> bool:
    """Whether the weights that ship fit a network: sizes of the input and of anchors are free,
    their number is not."""
    own = load_config(START_NETWORK, check_names=False).model

    def weights(settings: ModelConfig) -> dict[str, Any]:
        kept = settings.model_dump(exclude=FREE_OF_WEIGHTS)
        levels = [len(sides) for sides in settings.anchor_scales]
        return kept | {"anchors": levels, "ratios": len(settings.anchor_ratios)}

    return weights(model) == weights(own)
