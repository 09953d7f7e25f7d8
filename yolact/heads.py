"""What sits on the pyramid: prototype net, shared prediction head, and the mask-IoU net of
YOLACT++."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from yolact.fpn import norm_layer


def prototype_net(
    in_channels: int, channels: int, prototypes: int, *, layers: int = 3, norm: str = "none"
) -> nn.Sequential:
    """P3 (B,C,h,w) -> (B,K,2h,2w) before the ReLU: `layers` 3x3 convolutions, bilinear x2, one more
    3x3, and 1x1 to K prototypes.

    Every layer takes two places of the Sequential, the second being its activation (for the
    upsampling, nothing), so that the convolutions are number 0, 2, 4, 8 and 10 for three layers, as
    in the official checkpoints.
    """
    stack: list[nn.Module] = []
    for index in range(layers):
        stack += [
            nn.Conv2d(in_channels if index == 0 else channels, channels, 3, padding=1),
            _activation(norm, channels),
        ]
    stack += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Identity()]
    stack += [nn.Conv2d(channels, channels, 3, padding=1), _activation(norm, channels)]
    return nn.Sequential(*stack, nn.Conv2d(channels, prototypes, 1))


class PredictionHead(nn.Module):
    """One head for all levels: a trunk of 3x3 convolutions, then box, class and coefficient
    convolutions side by side.

    With norm='batch' each level has normalisations of its own: statistics differ between levels,
    and running averages over all of them would fit none in evaluation. Group normalisation has no
    such state and is shared.

    The class convolution is `conf_layer` with 1 + C channels under softmax, as in the official
    checkpoints, and `class_layer` with C under sigmoid. The channels alone would not tell one from
    the other with another number of classes; the names tell what weights belong to.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        anchors: int,
        num_classes: int,
        prototypes: int,
        layers: int = 1,
        norm: str = "none",
        levels: int = 5,
        sigmoid: bool = False,
    ):
        super().__init__()
        self.sizes = {
            "bbox_layer": 4,
            "class_layer" if sigmoid else "conf_layer": num_classes + (not sigmoid),
            "mask_layer": prototypes,
        }
        trunk: list[nn.Module] = []
        for index in range(layers):
            trunk += [
                nn.Conv2d(in_channels if index == 0 else channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
            ]
        self.upfeature = nn.Sequential(*trunk)
        self.norms = nn.ModuleList(
            nn.ModuleList(norm_layer(norm, channels) for _ in range(layers))
            for _ in range(levels if norm == "batch" else 1)
        )
        out_channels = channels if layers else in_channels
        for name, size in self.sizes.items():
            self.add_module(name, nn.Conv2d(out_channels, anchors * size, 3, padding=1))

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[(B,C,h,w)] -> box deltas (B,A,4), class logits (B,A,1+C) or (B,A,C), coefficients
        (B,A,K) after tanh; A over all levels."""
        levels = []
        for level, x in enumerate(pyramid):
            norms = cast(nn.ModuleList, self.norms[level if len(self.norms) > 1 else 0])
            for index, norm in enumerate(norms):
                x = self.upfeature[2 * index + 1](norm(self.upfeature[2 * index](x)))
            levels.append(x)
        boxes, classes, coefficients = (
            self._gather([getattr(self, name)(x) for x in levels], size)
            for name, size in self.sizes.items()
        )
        return boxes, classes, torch.tanh(coefficients)

    @staticmethod
    def _gather(maps: list[Tensor], size: int) -> Tensor:
        """[(B,anchors*size,h,w)] -> (B,A,size), in the order level, row, column, anchor; the
        concatenation is the only copy."""
        return (
            torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], 1)
            .unflatten(2, (-1, size))
            .flatten(1, 2)
        )


class MaskIoUNet(nn.Module):
    """Soft cropped masks (n,1,H,W) -> predicted IoU for every class (n,C). Five unpadded stride-2
    convolutions need H, W >= 63."""

    def __init__(
        self,
        num_classes: int,
        *,
        relu: str = "published",
        channels: tuple[int, ...] = (8, 16, 32, 64, 128),
    ):
        super().__init__()
        stack: list[nn.Module] = []
        for before, after in zip((1, *channels[:-1]), channels, strict=True):
            stack += [nn.Conv2d(before, after, 3, stride=2), nn.ReLU(inplace=True)]
        self.maskiou_net = nn.Sequential(*stack, nn.Conv2d(channels[-1], num_classes, 1))
        self.open_relu = relu == "open"

    def forward(self, masks: Tensor) -> Tensor:
        iou = self.maskiou_net(masks)
        if self.open_relu:
            # Trained from scratch, early masks are poor: learning an IoU of almost nothing can push
            # all outputs of a class below zero, where a plain ReLU has no gradient and never opens
            # again. This has the value of relu(iou) and the gradient of iou.
            iou = iou + (iou.relu() - iou).detach()
        else:
            iou = iou.relu()
        return iou.amax((2, 3))


def _activation(norm: str, channels: int) -> nn.Module:
    relu = nn.ReLU(inplace=True)
    return relu if norm == "none" else nn.Sequential(norm_layer(norm, channels), relu)
