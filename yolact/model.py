"""YOLACT: backbone, pyramid, prototypes and prediction head (Bolya et al. 2019; YOLACT++ 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.anchors import STRIDES, level_shapes, level_sizes, make_anchors
from yolact.darknet import DarkNet53
from yolact.fpn import FPN
from yolact.heads import MaskIoUNet, PredictionHead, prototype_net
from yolact.outputs import Predictions
from yolact.resnet import ResNet


class Yolact(nn.Module):
    """Images (B,3,S,S) -> Predictions. The names of its parameters are those of the official
    checkpoints.

    anchor_scales holds one tuple of sides in input pixels for each level P3..P7; anchor_ratios are
    width / height at each scale. anchor_offset: 0.5 = centres in the middle of the cells of a map
    that the input is divided into; 0 = on multiples of the level's stride. sigmoid: class logits
    without background, each class by itself, instead of softmax over background and classes.
    image_size: the input side that criteria assume unless told, and whose anchors are kept as a
    buffer; the network takes any, and computes the anchors of another one anew.
    """

    anchors: Tensor

    def __init__(
        self,
        backbone: ResNet | DarkNet53,
        num_classes: int,
        *,
        fpn_channels: int = 256,
        fpn_upsample: str = "bilinear",
        proto_channels: int = 256,
        proto_layers: int = 3,
        prototypes: int = 32,
        head_channels: int = 256,
        head_layers: int = 1,
        norm: str = "none",
        anchor_scales: tuple[tuple[float, ...], ...] = (
            (24.0,),
            (48.0,),
            (96.0,),
            (192.0,),
            (384.0,),
        ),
        anchor_ratios: tuple[float, ...] = (1.0, 0.5, 2.0),
        square_anchors: bool = False,
        anchor_offset: float = 0.5,
        semantic_head: bool = True,
        mask_iou_net: bool = False,
        mask_iou_relu: str = "published",
        sigmoid: bool = False,
        image_size: int = 550,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.sigmoid = sigmoid
        self.image_size = image_size
        self.anchor_scales = tuple(map(tuple, anchor_scales))
        self.anchor_ratios = tuple(anchor_ratios)
        self.square_anchors = square_anchors
        self.anchor_offset = anchor_offset
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, fpn_channels, norm=norm, upsample=fpn_upsample)
        self.proto_net = prototype_net(
            fpn_channels, proto_channels, prototypes, layers=proto_layers, norm=norm
        )
        self.prediction_layers = nn.ModuleList(
            [
                PredictionHead(
                    fpn_channels,
                    head_channels,
                    anchors=len(self.anchor_scales[0]) * len(self.anchor_ratios),
                    num_classes=num_classes,
                    prototypes=prototypes,
                    layers=head_layers,
                    norm=norm,
                    levels=len(self.anchor_scales),
                    sigmoid=sigmoid,
                )
            ]
        )
        self.semantic_seg_conv = nn.Conv2d(fpn_channels, num_classes, 1) if semantic_head else None
        self.maskiou_net = MaskIoUNet(num_classes, relu=mask_iou_relu) if mask_iou_net else None
        self._frozen = self._frozen_backbone = False
        # in no checkpoint: a function of the settings
        self.register_buffer("anchors", self._make_anchors(image_size), persistent=False)

    @property
    def mask_iou_net(self) -> MaskIoUNet | None:
        return self.maskiou_net

    def forward(self, images: Tensor, features: Sequence[Tensor] | None = None) -> Predictions:
        """(B,3,S,S) float, RGB, normalised -> Predictions; semantic logits in training mode only.

        features: what the backbone finds in the images, where that is known already.
        Raises ValueError for images that are not square, since anchors are relative to one side.
        """
        if images.dim() != 4 or images.shape[-1] != images.shape[-2]:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: the model reads square batches (B,3,S,S)"
            )
        pyramid = self.fpn(self.backbone(images) if features is None else features)
        # (B,H,W,K)
        prototypes = (
            F.relu(self.proto_net(pyramid[0]), inplace=True).permute(0, 2, 3, 1).contiguous()
        )
        boxes, classes, coefficients = self.prediction_layers[0](pyramid)
        semantic = (
            self.semantic_seg_conv(pyramid[0])
            if self.training and self.semantic_seg_conv is not None
            else None
        )
        anchors, sizes = self.anchors_for(images.shape[-1], images.device)
        return Predictions(
            boxes,
            classes,
            coefficients,
            prototypes,
            anchors,
            semantic,
            sizes,
            self.sigmoid,
        )

    def anchors_for(
        self, image_size: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Anchors (A,4) cx,cy,w,h relative to an input of image_size pixels, and how many each
        level has, without a forward pass."""
        own = image_size == self.image_size
        anchors = self.anchors if own else self._make_anchors(image_size)
        return anchors.to(device), self._level_sizes(self.level_shapes(image_size))

    def mask_sizes(self, image_size: int) -> list[tuple[int, int]]:
        """(h,w) of the prototypes, and of the semantic map if there is one."""
        height, width = self.level_shapes(image_size)[0]
        semantic = [] if self.semantic_seg_conv is None else [(height, width)]
        return [(2 * height, 2 * width), *semantic]

    def level_shapes(self, image_size: int) -> tuple[tuple[int, int], ...]:
        """(h,w) of P3..P7 for a square input: each halving is rounded up."""
        return tuple(level_shapes(image_size, len(self.anchor_scales)))

    def freeze_batchnorm(self, frozen: bool = True) -> None:
        """Freeze or release the backbone's batch normalisation, as YOLACT does for small batches of
        a pretrained backbone.

        Frozen means that running statistics are used and not updated, and that scale and shift get
        no gradient. It holds through later calls of train(). Normalisation in pyramid and heads
        (norm='batch') has no pretrained statistics and is never frozen.
        """
        self._frozen = frozen
        if self._frozen_backbone:
            return
        for module in self._backbone_norms():
            module.train(self.training and not frozen)
            module.weight.requires_grad_(not frozen)
            module.bias.requires_grad_(not frozen)

    def freeze_backbone(self) -> None:
        """Leave the backbone as it is from now on: it gets no gradient, and its batch normalisation
        uses running statistics and does not update them. It holds through later calls of train()
        and freeze_batchnorm()."""
        self._frozen_backbone = True
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> Yolact:
        super().train(mode)
        if self._frozen_backbone:
            self.backbone.eval()
        if self._frozen:
            for module in self._backbone_norms():
                module.eval()
        return self

    def _backbone_norms(self) -> list[nn.BatchNorm2d]:
        return [m for m in self.backbone.modules() if isinstance(m, nn.BatchNorm2d)]

    def _level_sizes(self, shapes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        return level_sizes(shapes, self.anchor_scales, self.anchor_ratios)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Yolact:
        """What .to(), .half() and .to_empty() call. Anchors stay float32, and are never left
        undefined."""
        super()._apply(fn, recurse)
        with torch.inference_mode(False):  # one made there could not be trained with
            self.anchors = self._make_anchors(self.image_size).to(self.anchors.device)
        return self

    def _make_anchors(self, image_size: int) -> Tensor:
        return make_anchors(
            self.level_shapes(image_size),
            self.anchor_scales,
            self.anchor_ratios,
            image_size=image_size,
            square=self.square_anchors,
            offset=self.anchor_offset,
            strides=None if self.anchor_offset else STRIDES,
        )
