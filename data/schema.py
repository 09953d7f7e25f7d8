"""The typed config: every setting of a run, with its default and one line of explanation.

A Config is frozen and refuses unknown keys. It is plain data: reading this file tells what can be
set; nothing here reads a data set, loads weights or imports torch. Names and presets live in
data/config.py, loading in data/resolve.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from data.fields import (
    MOST_ANCHORS,
    AnchorSides,
    Batch,
    CallExpression,
    Channels,
    Divisor,
    Fraction,
    Layers,
    NonNegative,
    NonNegativeInt,
    Pixel,
    Positive,
    PositiveInt,
    Ratio,
    Scale,
    Section,
    Seed,
    Side,
    SumExpression,
)
from layers.names import unknown_name
from layers.problems import is_line, shown

# five unpadded 3x3 stride-2 convolutions need 63 -> 31 -> 15 -> 7 -> 3 -> 1 pixels
MIN_PROTOTYPE_SIZE_FOR_MASK_IOU = 63


class ModelConfig(Section):
    max_size: Side = Field(
        550, description="network input side in pixels (square); anchor scales stay in pixels"
    )
    backbone: Literal[
        "resnet10", "resnet14", "resnet18", "resnet34", "resnet50", "resnet101", "darknet53"
    ] = Field(
        "resnet101",
        description="resnet10 and resnet14 have one basic / bottleneck block a stage, for small "
        "studies",
    )
    backbone_width: Annotated[int, Field(gt=0, le=1024)] = Field(
        64, description="channels of the ResNet stem and first stage (64 in the published models)"
    )
    pretrained: str = Field(
        "imagenet",
        description="backbone weights: 'imagenet' (torchvision's), a file, or 'none' to train "
        "from scratch",
    )
    freeze_backbone: bool = Field(
        False, description="the backbone keeps the weights that training starts from"
    )
    pixel_mean: tuple[Pixel, Pixel, Pixel] = Field(
        (123.68, 116.78, 103.94), description="RGB mean subtracted from 0..255 pixels"
    )
    pixel_std: tuple[Divisor, Divisor, Divisor] = Field(
        (58.40, 57.12, 57.38), description="RGB divisor after the mean"
    )
    dcn_layers: tuple[Layers, Layers, Layers, Layers] = Field(
        (0, 0, 0, 0),
        description="deformable 3x3 convolutions (DCNv2): the last n blocks of each ResNet stage",
    )
    dcn_interval: PositiveInt = Field(
        1, description="of those blocks, every n-th counted from the stage's first is deformable"
    )
    dcn_groups: Channels = Field(
        1, description="deformable groups: each has offsets and masks of its own (1 in YOLACT++)"
    )
    dcn_backend: Literal["auto", "torchvision", "grid_sample", "mmcv"] = Field(
        "auto",
        description="auto = torchvision's operator on CUDA, grid_sample on CPU; all share "
        "parameters and results",
    )
    fpn_channels: Channels = Field(256, description="channels of P3..P7")
    fpn_upsample: Literal["bilinear", "carafe"] = Field(
        "bilinear",
        description="of the top-down path; carafe = by kernels predicted from the content "
        "(maYOLACT)",
    )
    proto_channels: Channels = Field(256, description="channels inside the protonet")
    proto_layers: Annotated[Layers, Field(gt=0)] = Field(
        3, description="3x3 convolutions of the protonet before its x2 upsampling; one more follows"
    )
    prototypes: Channels = Field(
        32, description="K: prototype masks an image, coefficients an anchor"
    )
    head_channels: Channels = Field(
        256, description="channels of the shared prediction head's trunk"
    )
    head_layers: Layers = Field(
        1, description="3x3 convolutions of the shared head before its three outputs"
    )
    norm: Literal["none", "group", "batch"] = Field(
        "none", description="normalisation in FPN, protonet and head (published: none)"
    )
    anchor_scales: tuple[AnchorSides, ...] = Field(
        ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,)),
        description="anchor sides in input pixels, one tuple per level P3..P7",
    )
    anchor_ratios: tuple[Ratio, ...] = Field(
        (1.0, 0.5, 2.0), max_length=MOST_ANCHORS, description="width/height ratios at every scale"
    )
    square_anchors: bool = Field(
        False, description="height := width, as the published base and im presets were trained"
    )
    anchor_offset: float = Field(
        0.5,
        description="anchor centres: 0.5 = middle of each cell; 0 = corners of cells a stride "
        "wide, as the mask-aware IoU code",
    )
    semantic_head: bool = Field(True, description="1x1 semantic head on P3, used in training only")
    mask_iou_net: bool = Field(False, description="mask re-scoring network of YOLACT++")
    mask_iou_relu: Literal["published", "open"] = Field(
        "published",
        description="last ReLU of that network; open = its gradient passes where it is closed "
        "too, for training from scratch",
    )

    @field_validator("anchor_offset")
    @classmethod
    def _middle_or_corner(cls, value):
        if value not in (0, 0.5):
            raise ValueError(
                "must be 0.5 (anchors in the middle of their cells) or 0 (on multiples of the "
                "stride)"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self):
        if len(self.anchor_scales) != 5 or not all(self.anchor_scales):
            raise ValueError(
                "anchor_scales needs one non-empty tuple for each of the 5 levels P3..P7"
            )
        if len({len(scales) for scales in self.anchor_scales}) != 1:
            raise ValueError(
                "anchor_scales needs the same number of scales on every level: the prediction "
                "head is shared"
            )
        if self.anchors_per_location > MOST_ANCHORS:
            raise ValueError(
                f"anchor_scales and anchor_ratios make {self.anchors_per_location} anchors at "
                f"every cell: {MOST_ANCHORS} are the most"
            )
        if self.backbone == "darknet53" and (any(self.dcn_layers) or self.backbone_width != 64):
            raise ValueError(
                "dcn_layers and backbone_width belong to ResNets: with darknet53, set "
                "dcn_layers=[0,0,0,0], backbone_width=64"
            )
        odd = [
            self.backbone_width << stage for stage, blocks in enumerate(self.dcn_layers) if blocks
        ]
        if any(channels % self.dcn_groups for channels in odd):
            raise ValueError(
                f"dcn_groups={self.dcn_groups} does not divide the {odd[0]} channels of the first "
                "deformable stage: use a power of two that does, or 1"
            )
        if self.mask_iou_net and self.prototype_size < MIN_PROTOTYPE_SIZE_FOR_MASK_IOU:
            smallest = next(
                s
                for s in range(self.max_size, 2000)
                if prototype_size(s) >= MIN_PROTOTYPE_SIZE_FOR_MASK_IOU
            )
            raise ValueError(
                f"max_size={self.max_size} gives prototypes of {self.prototype_size} px, but the "
                f"mask-IoU net needs at least {MIN_PROTOTYPE_SIZE_FOR_MASK_IOU}: use max_size >= "
                f"{smallest} or mask_iou_net=false"
            )
        return self

    @property
    def prototype_size(self) -> int:
        return prototype_size(self.max_size)

    @property
    def anchors_per_location(self) -> int:
        return len(self.anchor_scales[0]) * len(self.anchor_ratios)


class DataConfig(Section):
    name: str = Field(
        "coco2017", description="name of the data set in DATASETS, or a label of your own"
    )
    root: str = Field(
        "", description="folder that the four paths below start from; empty = the working directory"
    )
    train_images: str = Field("", description="folder of training images")
    train_annotations: str = Field("", description="COCO-format JSON of the training images")
    val_images: str = Field("", description="folder of validation images")
    val_annotations: str = Field("", description="COCO-format JSON of the validation images")
    class_names: tuple[str, ...] = Field(
        ("object",), max_length=10_000, description="foreground classes, in label order"
    )
    label_map: dict[int | str, NonNegativeInt] | None = Field(
        None, description="category id -> 0-based label; none = matched by category name"
    )
    keep_empty: bool = Field(
        False, description="keep training images without annotations as negatives"
    )
    val_truth: bool = Field(
        True,
        description="whether val_annotations holds annotations; false = images alone, as of a test "
        "set whose ground truth a server keeps: evaluation writes detections and finds no AP",
    )
    cache: bool = Field(
        True,
        description="keep what was read of annotation files of 20 MB and more, for the next start",
    )

    @field_validator("class_names", mode="before")
    @classmethod
    def _not_a_string(cls, value):
        if isinstance(value, str):
            raise ValueError(
                f"class_names={value!r} is a string, which would be read as {len(value)} "
                f"one-letter classes: write a list, [{value}]"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self):
        if not self.class_names or any(not name.strip() for name in self.class_names):
            raise ValueError("class_names needs at least one name, none of them empty")
        torn = [name for name in self.class_names if not is_line(name)]
        if torn:
            raise ValueError(
                f"class_names holds {shown(torn[0])}, with a line break or another control "
                "character: rename the class"
            )
        repeated = sorted(name for name, n in Counter(self.class_names).items() if n > 1)
        if repeated:
            raise ValueError(f"class_names lists {', '.join(repeated)} more than once")
        if self.label_map:
            outside = {k: v for k, v in self.label_map.items() if v >= len(self.class_names)}
            if outside:
                raise ValueError(
                    f"label_map sends {outside} outside the {len(self.class_names)} class_names "
                    "(labels are 0-based)"
                )
        return self


class AugmentConfig(Section):
    photometric: bool = Field(
        True, description="random brightness, contrast, saturation, hue and channel order"
    )
    photometric_at: Literal["image", "network"] = Field(
        "image",
        description="where colours change: on the whole picture, as published, or after the resize "
        "to network size, which costs the same for any camera",
    )
    zoom_out: bool = Field(
        True, description="half of the images are shrunk onto a mean-coloured canvas"
    )
    zoom_out_max: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = Field(
        4.0, description="largest canvas side relative to the image's"
    )
    iou_crop: bool = Field(True, description="SSD's random crop by minimum IoU")
    flip: bool = Field(True, description="horizontal flip with probability 0.5")
    vertical_flip: bool = Field(False, description="vertical flip with probability 0.5")
    rotation: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = Field(
        0.0, description="largest turn to either side in degrees, uniform; 0 = none"
    )
    scale_jitter: tuple[Scale, Scale] | None = Field(
        None,
        description="least and largest scale, uniform, as (0.1, 2) of large-scale jitter: part of "
        "the image, or a mean-coloured canvas around it; in place of zoom_out and iou_crop",
    )
    copy_paste: Fraction = Field(
        0.0,
        description="share of the training images onto which objects of another one are pasted",
    )
    antialias: bool = Field(
        False, description="antialias when resizing; false as the published models"
    )
    reduced_decode: bool = Field(
        False,
        description="training reads a JPEG at 1/2, 1/4 or 1/8 where its view stays at least as "
        "large as the network's input; edges of the view move by less than an input pixel",
    )
    min_box_side: NonNegative = Field(
        1.0, description="boxes thinner than this many input pixels after augmentation are dropped"
    )

    @field_validator("scale_jitter")
    @classmethod
    def _ascending(cls, value):
        if value is not None and value[0] > value[1]:
            raise ValueError(f"scale_jitter={list(value)}: the least scale comes first")
        return value

    @property
    def changing(self) -> list[str]:
        """The fields by which an image is another one in each epoch."""
        names = ("photometric", "zoom_out", "iou_crop", "flip", "vertical_flip", "rotation")
        return [name for name in (*names, "scale_jitter", "copy_paste") if getattr(self, name)]

    @property
    def composes(self) -> bool:
        """Whether a picture is changed with its masks, at network size."""
        return bool(
            self.vertical_flip or self.rotation or self.copy_paste or self.scale_jitter is not None
        )


class AssignConfig(Section):
    name: CallExpression = Field(
        "max_iou",
        description="anchor assigner: max_iou(positive=0.5, negative=0.4), atss(k=9, iou='gmaiou')",
    )


class LossConfig(Section):
    mask: SumExpression = Field("bce", description="mask term: bce + 0.5*mse(region='image')")
    mask_target: Literal["binary", "coverage"] = Field(
        "binary",
        description="what the mask term compares with: masks resized and cut at 0.5, as published, "
        "or the share of each cell that the mask covers",
    )
    mask_stride: Literal[4, 2, 1] = Field(
        4,
        description="of the mask target in input pixels: 4 = the prototypes; below it, mask logits "
        "are brought to its size bilinearly (1 with sampling=points(n) costs little)",
    )
    mask_iou_target: Literal["binary", "coverage"] = Field(
        "binary",
        description="what the mask-IoU network learns: the IoU of masks cut at 0.5, as published, "
        "or of probabilities with the share of each cell",
    )
    semantic_target: Literal["binary", "coverage"] = Field(
        "binary", description="what the semantic map is compared with: as mask_target, at its size"
    )
    box: CallExpression = Field(
        "smooth_l1", description="box loss of positives: smooth_l1(beta=1), giou, diou or ciou"
    )
    classification: CallExpression = Field(
        "ohem",
        description="class loss: ohem (softmax); focal(alpha=0.25, gamma=2) or "
        "rank_sort(delta=0.5), which build a sigmoid head",
    )
    self_balance: bool = Field(
        False,
        description="box and mask losses weighted by class probability and brought to the class "
        "loss's value (Rank & Sort)",
    )
    mask_weight: NonNegative = Field(6.125, description="factor of the mask term")
    box_weight: NonNegative = Field(1.5, description="factor of the box term")
    class_weight: NonNegative = Field(1.0, description="factor of the classification term")
    semantic_weight: NonNegative = Field(
        1.0, description="factor of the semantic segmentation term"
    )
    mask_iou_weight: NonNegative = Field(25.0, description="factor of the mask-IoU regression term")
    ohem_ratio: Positive = Field(
        3.0, description="ohem: hard negatives kept per positive of the same image"
    )
    ohem_min_negatives: NonNegativeInt | None = Field(
        None,
        description="ohem: hard negatives kept at least in an image; none = 16 if "
        "data.keep_empty, else 0 as published",
    )
    masks_to_train: PositiveInt = Field(
        100, description="positives an image that get a mask loss, drawn at random above that"
    )
    mask_iou_min_area: NonNegative = Field(
        25.0,
        description="ground-truth masks of at most this many prototype pixels train no mask IoU",
    )
    match_steps: PositiveInt = Field(
        100,
        description="first iterations over which match='grad' measures gradients, before it is "
        "frozen",
    )
    plugins: tuple[str, ...] = Field(
        (), description="Python files or modules that register more mask losses"
    )

    class_weights: dict[str, Positive] = Field(
        {},
        description="factors of positives in the class loss, by class name; 1 for others (ohem, "
        "focal)",
    )

    @field_validator("plugins", mode="before")
    @classmethod
    def _plugins_list(cls, value):
        return (value,) if isinstance(value, str) else value


class TrainConfig(Section):
    batch_size: Batch = Field(
        8, description="images per optimiser step, over all devices and accumulated micro-batches"
    )
    accumulate: Batch = Field(
        1, description="micro-batches that a batch is split into on each device"
    )
    iterations: PositiveInt = Field(800_000, description="optimiser steps")
    epochs: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None,
        description="passes over the training images, in place of iterations: load_config turns "
        "them into iterations once, and lr_steps and warm-up follow",
    )
    max_minutes: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None,
        description="minutes that training may take with its validations, in place of iterations: "
        "set once from steps timed at the start, and lr_steps and warm-up follow",
    )
    autoscale: bool = Field(
        False,
        description="lr x batch/8, iterations and lr_steps / (batch/8), as YOLACT; applied once, "
        "by load_config",
    )
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="adamw for small models trained from scratch"
    )
    lr: Positive = Field(1e-3, description="learning rate after warm-up")
    momentum: Fraction = Field(0.9, description="SGD momentum; AdamW's beta1")
    weight_decay: NonNegative = Field(5e-4, description="weight decay")
    schedule: Literal["steps", "cosine"] = Field(
        "steps", description="learning rate after warm-up: x lr_gamma at lr_steps, or cosine to 0"
    )
    lr_steps: tuple[PositiveInt, ...] = Field(
        (280_000, 600_000, 700_000, 750_000),
        max_length=1000,
        description="iterations at which the rate drops",
    )
    lr_gamma: Fraction = Field(0.1, description="factor at each of lr_steps")
    warmup_iterations: NonNegativeInt = Field(500, description="iterations of linear warm-up")
    warmup_lr: NonNegative = Field(1e-4, description="learning rate at iteration 0 of the warm-up")
    clip_grad_norm: NonNegative = Field(0.0, description="largest gradient norm; 0 = no clipping")
    freeze_bn: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto = frozen below 6 images a device where pretrained backbone weights were "
        "loaded",
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="exponential moving average of the weights; 0 = off"
    )
    precision: Literal["float32", "bf16", "fp16", "auto"] = Field(
        "float32",
        description="autocast type of the forward pass; fp16 scales gradients; auto = bf16 where a "
        "timed convolution is faster in it, and the faster layout",
    )
    channels_last: bool | Literal["auto"] = Field(
        False, description="NHWC memory format; auto = where a timed convolution is faster"
    )
    compile: bool = Field(False, description="torch.compile the model")
    cache_features: bool = Field(
        False,
        description="compute what a frozen backbone finds in each training image once; needs "
        "model.freeze_backbone and images without augmentation",
    )
    seed: Seed = Field(
        0,
        description="initial weights, data order, augmentation and subsets each have a stream "
        "drawn from it",
    )
    shuffle: bool = Field(
        True,
        description="every epoch in an order of its own; false = always in the order of the "
        "annotation file",
    )
    repeat_threshold: Fraction = Field(
        0.0,
        description="repeat-factor sampling (LVIS): classes in a smaller share of the images are "
        "seen more often; 0 = off",
    )
    init_from: str = Field(
        "",
        description="weights that training starts from: a file, hub:NAME, or start = those that "
        "ship, for yolact_plus_micro; heads of another class count or loss are reset",
    )
    num_workers: Annotated[int, Field(ge=0, le=1024)] = Field(4, description="loader processes")
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="what a NaN or infinite loss does"
    )
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",),
        max_length=3,
        description="where losses, AP and pictures go beside the run's own files; [] = nowhere",
    )
    log_every: PositiveInt = Field(
        10, description="iterations between console, metrics.jsonl and TensorBoard lines"
    )
    gradients_every: NonNegativeInt = Field(
        50,
        description="iterations between measurements of each mask term's share of the gradient at "
        "the prototypes; 0 = never",
    )
    validate_every: NonNegativeInt = Field(
        10_000, description="iterations between validations; 0 = only at the end"
    )
    validate_images: NonNegativeInt = Field(
        0, description="validation images used during training; 0 = all"
    )
    patience: NonNegativeInt = Field(
        0,
        description="training ends after so many validations in a row without a better mask AP; 0 "
        "= never",
    )
    save_every: PositiveInt = Field(1_000, description="iterations between checkpoints (last.pth)")
    keep_every: NonNegativeInt = Field(
        0, description="iterations between checkpoints that are kept for good; 0 = none"
    )
    _kept: frozenset[str] = PrivateAttr(frozenset())

    @property
    def kept(self) -> frozenset[str]:
        """Of lr_steps and warmup_iterations, those that a length in epochs or minutes leaves."""
        return self._kept

    def keeping(self, names: Iterable[str]) -> TrainConfig:
        """A copy whose length, when it is settled, leaves the settings of these names."""
        made = self.model_copy()
        made._kept = frozenset({"lr_steps", "warmup_iterations"} & {*names})
        return made

    @field_validator("trackers", mode="before")
    @classmethod
    def _trackers_list(cls, value):
        return (value,) if isinstance(value, str) else value

    @field_validator("lr_steps", mode="before")
    @classmethod
    def _steps_list(cls, value):
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _consistent(self):
        if list(self.lr_steps) != sorted(set(self.lr_steps)):
            raise ValueError(f"lr_steps must ascend, got {list(self.lr_steps)}")
        if self.epochs is not None and self.max_minutes is not None:
            raise ValueError(
                f"epochs={self.epochs:g} and max_minutes={self.max_minutes:g} are both given: give "
                "one of them"
            )
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers={list(self.trackers)} names one twice: name each once")
        if self.patience and not self.validate_every:
            raise ValueError(
                f"patience={self.patience} counts validations, and validate_every=0 has one only, "
                "at the end: set validate_every"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}"
            )
        return self


class EvalConfig(Section):
    nms: Literal["fast", "cross_class", "traditional"] = Field(
        "fast", description="non-maximum suppression"
    )
    score_threshold: Fraction = Field(
        0.05, description="class scores at or below it are dropped before NMS"
    )
    iou_threshold: Fraction = Field(0.5, description="NMS overlap above which the lower score goes")
    top_k: PositiveInt = Field(200, description="candidates per class that enter NMS")
    max_dets: PositiveInt = Field(100, description="detections kept an image, and COCO's maxDets")
    crop: bool = Field(True, description="crop masks with the predicted box")
    masks: Literal["published", "subpixel"] = Field(
        "published",
        description="masks at image size: from probabilities, bilinear and cropped before, or from "
        "logits, bicubic and cropped after",
    )
    batch_size: Batch = Field(1, description="images per forward pass in evaluation")
    precision: Literal["float32", "bf16", "fp16", "auto"] | None = Field(
        None,
        description="of the forward pass in evaluation; auto = bf16 where a timed convolution is "
        "faster; none = float32, in a training train.precision",
    )


class Config(Section):
    """Everything that defines a run: frozen, checked, each setting with its description."""

    name: str = Field(description="name of the config; runs go to runs/<name>/<n>")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    assign: AssignConfig = AssignConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value):
        if (
            not value
            or value in (".", "..")
            or any(part in (".", "..", "") for part in value.split("/"))
            or "\\" in value
        ):
            raise ValueError(f"name={value!r} must be usable as a folder name")
        return value

    @model_validator(mode="after")
    def _classes_known(self):
        for name in self.loss.class_weights:
            if name not in self.data.class_names:
                raise ValueError(
                    f"loss.class_weights: {unknown_name('class', name, self.data.class_names)}"
                )
        return self

    @model_validator(mode="after")
    def _features_stay(self):
        if not self.train.cache_features:
            return self
        if not self.model.freeze_backbone:
            raise ValueError(
                "train.cache_features needs model.freeze_backbone=true: a backbone that is trained "
                "finds something else at each step"
            )
        if self.augment.changing:
            raise ValueError(
                "train.cache_features needs images that stay as they are: switch off "
                + ", ".join(f"augment.{name}" for name in self.augment.changing)
            )
        return self

    @property
    def class_weights(self) -> list[float] | None:
        """C factors of positives in the class loss, in label order; None where all are 1."""
        weights = self.loss.class_weights
        return [weights.get(name, 1.0) for name in self.data.class_names] if weights else None

    @property
    def num_classes(self) -> int:
        """C, foreground classes."""
        return len(self.data.class_names)

    @property
    def validation_precision(self) -> str:
        """Of the forward pass in validations of a training."""
        return self.eval.precision or self.train.precision

    @property
    def ohem_min_negatives(self) -> int:
        chosen = self.loss.ohem_min_negatives
        return chosen if chosen is not None else (16 if self.data.keep_empty else 0)


def prototype_size(max_size: int) -> int:
    """Side of the prototype map: that of P3, ceil(max_size / 8), upsampled by 2."""
    return 2 * -(-max_size // 8)
