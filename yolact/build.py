"""Model, criterion and pretrained weights from a Config. No other module of the model reads one."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn

from data.schema import Config
from layers.losses.classification import build_class_loss
from layers.losses.criterion import Criterion
from layers.losses.mask import MaskLoss
from yolact.darknet import DarkNet53
from yolact.dcn import DeformConv2d
from yolact.model import Yolact
from yolact.pretrained import load_backbone
from yolact.resnet import ResNet

# probability of every class at every anchor that a sigmoid head starts from (Lin et al. 2017,
# section 3.3)
PRIOR = 0.01


def build_model(cfg: Config) -> Yolact:
    """The model of cfg.model for the classes of cfg.data and the head of cfg.loss.classification,
    on the CPU in training mode, with random weights.

    Each tensor is drawn from a generator of its own, seeded by its name and cfg.train.seed: two
    models agree on every parameter that has the same name and shape in both, and torch's global
    generator is left alone. Raises ValueError if the deformable convolution's backend is not
    installed, and for an unknown class loss.
    """
    # shapes only: torch's own initialisation would take time and random numbers, and is overwritten
    with torch.device("meta"):
        model = _assemble(cfg)
    model.to_empty(device="cpu")
    initialize(model, cfg.train.seed)
    return model


def _assemble(cfg: Config) -> Yolact:
    m = cfg.model
    if m.backbone == "darknet53":
        backbone: ResNet | DarkNet53 = DarkNet53()
    else:
        backbone = ResNet(
            m.backbone,
            width=m.backbone_width,
            dcn_layers=m.dcn_layers,
            dcn_interval=m.dcn_interval,
            dcn_groups=m.dcn_groups,
            dcn_backend=m.dcn_backend,
        )
    return Yolact(
        backbone,
        len(cfg.data.class_names),
        fpn_channels=m.fpn_channels,
        fpn_upsample=m.fpn_upsample,
        proto_channels=m.proto_channels,
        proto_layers=m.proto_layers,
        prototypes=m.prototypes,
        head_channels=m.head_channels,
        head_layers=m.head_layers,
        norm=m.norm,
        anchor_scales=m.anchor_scales,
        anchor_ratios=m.anchor_ratios,
        square_anchors=m.square_anchors,
        anchor_offset=m.anchor_offset,
        semantic_head=m.semantic_head,
        mask_iou_net=m.mask_iou_net,
        mask_iou_relu=m.mask_iou_relu,
        sigmoid=build_class_loss(cfg.loss.classification).sigmoid,
        image_size=m.max_size,
    )


def initialize(model: nn.Module, seed: int) -> None:
    """Draw all weights of `model`, in place: He-normal (fan-out) in the backbone, Xavier-uniform
    elsewhere, as YOLACT; biases 0, but those of sigmoid class logits, which start at PRIOR: else
    the many negatives would swamp the first steps.

    Offsets of deformable convolutions start at 0, so that they begin as plain convolutions at half
    strength; CARAFE's encoders start at a deviation of 0.001, as mmcv's, so that they begin as
    means over 5x5 pixels.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, DeformConv2d)):
            _initialize_convolution(f"{name}.weight", module.weight, seed)
            if module.bias is not None:
                nn.init.constant_(
                    module.bias,
                    math.log(PRIOR / (1 - PRIOR)) if name.endswith(".class_layer") else 0,
                )


def _initialize_convolution(name: str, weight: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed % 2**32))
    if ".conv_offset_mask." in name:
        nn.init.zeros_(weight)
    elif ".content_encoder." in name:
        nn.init.normal_(weight, std=0.001, generator=generator)
    elif name.startswith("backbone."):
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
    else:
        nn.init.xavier_uniform_(weight, generator=generator)


def build_criterion(cfg: Config, model: Yolact) -> Criterion:
    """The criterion of cfg.loss and cfg.assign for the shapes of `model`. The mask-IoU net stays
    the model's: the criterion borrows it."""
    loss = cfg.loss
    return Criterion(
        model,
        MaskLoss(
            loss.mask,
            loss.plugins,
            total_steps=cfg.train.iterations,
            match_steps=loss.match_steps,
            stride=loss.mask_stride,
        ),
        image_size=cfg.model.max_size,
        assigner=cfg.assign.name,
        box=loss.box,
        classification=build_class_loss(loss.classification, cfg.class_weights),
        mask_iou_min_area=loss.mask_iou_min_area,
        mask_target=loss.mask_target,
        mask_stride=loss.mask_stride,
        mask_iou_target=loss.mask_iou_target,
        semantic_target=loss.semantic_target,
        box_weight=loss.box_weight,
        class_weight=loss.class_weight,
        mask_weight=loss.mask_weight,
        semantic_weight=loss.semantic_weight,
        mask_iou_weight=loss.mask_iou_weight,
        ohem_ratio=loss.ohem_ratio,
        ohem_min_negatives=cfg.ohem_min_negatives,
        masks_to_train=loss.masks_to_train,
        self_balance=loss.self_balance,
        gradients_every=cfg.train.gradients_every,
    )


def load_pretrained_backbone(model: Yolact, cfg: Config) -> bool:
    """Load cfg.model.pretrained into the model's backbone; False if that is 'none'. ValueError,
    with the fix, where it cannot be."""
    return load_backbone(
        model.backbone,
        cfg.model.pretrained,
        name=cfg.model.backbone,
        width=cfg.model.backbone_width,
    )
