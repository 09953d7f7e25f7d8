"""The file to edit: data sets and named configs. Plain data; every key is described in
data/schema.py.

A data set is one entry of DATASETS. A config is one `derive` line, which starts from another config
and states what differs:

    derive("yolact_plus_small_cigarettes", name="butts_bce_mse", **{"loss.mask": "bce + 0.5*mse"})

and then `python train.py --config butts_bce_mse`. `--list configs` lists the names,
`--print_config` shows every setting of one. The key "dataset" names an entry of DATASETS. Where
train.autoscale is on, lr, iterations and lr_steps are those of batch 8, and load_config scales them
to train.batch_size.
"""

from __future__ import annotations

from typing import Any

from data import survey
from layers.names import unknown_name

COCO_CLASSES = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)

PASCAL_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def cigarettes_layout(root: str) -> dict[str, Any]:
    """The layout of the Cigarette-butts set: {train,val}/{images,coco_annotations.json}."""
    return {
        "root": root,
        "train_images": "train/images",
        "train_annotations": "train/coco_annotations.json",
        "val_images": "val/images",
        "val_annotations": "val/coco_annotations.json",
        "class_names": ["cig_butt"],
    }


# -------------------------------------------------------------------------------------------------
# data sets Paths start from `root`, and `root` from the working directory.

DATASETS: dict[str, dict[str, Any]] = {
    "coco2017": {
        "root": "data/coco",
        "train_images": "train2017",
        "train_annotations": "annotations/instances_train2017.json",
        "val_images": "val2017",
        "val_annotations": "annotations/instances_val2017.json",
        "class_names": COCO_CLASSES,
    },
    "pascal_sbd": {
        "root": "data/sbd",
        "train_images": "img",
        "train_annotations": "pascal_sbd_train.json",
        "val_images": "img",
        "val_annotations": "pascal_sbd_val.json",
        "class_names": PASCAL_CLASSES,
    },
    "cigarettes": cigarettes_layout("data/cig_butts"),
    "cigarettes_standin": cigarettes_layout("data/cig_butts_standin"),
    "quickstart": cigarettes_layout("runs/quickstart_data"),
    "nuclei": {
        "root": "data/nuclei",
        "train_images": "images",
        "train_annotations": "annotations/instances_train.json",
        "val_images": "images",
        "val_annotations": "annotations/instances_val.json",
        "class_names": ["nucleus"],
        "keep_empty": True,
    },
}


# ------------------------------------------------------------------------------------------ configs

CONFIGS: dict[str, dict[str, Any]] = {}
NOTES: dict[str, str] = {}  # of some configs, in one line: what they are for


def derive(
    base: str | dict[str, Any], /, *, name: str, note: str = "", **changes: Any
) -> dict[str, Any]:
    """Add to CONFIGS the config `base` (a name or what derive returned) with `changes`,
    {"section.field": value}; returns it.

    note: one line for --list configs and --print_config; a config derived from this one does not
    inherit it. ValueError for an unknown base, or for a name that another config has.
    """
    if isinstance(base, str):
        if base not in CONFIGS:
            raise ValueError(f"derive(..., name={name!r}): {unknown_name('config', base, CONFIGS)}")
        base = CONFIGS[base]
    preset = {**base, **changes, "name": name}
    # the base's own changes to the data section described the base's data set
    if "dataset" in changes:
        preset = {
            key: value
            for key, value in preset.items()
            if not key.startswith("data.") or key in changes
        }
    if CONFIGS.get(name, preset) != preset:
        raise ValueError(f"there is already another config called {name!r}: choose a new name")
    CONFIGS[name] = preset
    if note:
        NOTES[name] = note
    return preset


def octaves(smallest: float, per_octave: int) -> tuple[tuple[float, ...], ...]:
    """Anchor sides of P3..P7: `smallest` on P3, doubled from level to level, with `per_octave`
    geometric steps on each level."""
    return tuple(
        tuple(smallest * 2**level * 2 ** (step / per_octave) for step in range(per_octave))
        for level in range(5)
    )


def coco_iterations(*epochs: int, batch: int) -> tuple[int, ...]:
    """Iterations after so many epochs of COCO train2017: 117,266 of its 118,287 images are
    annotated, and batches run on across epochs."""
    return tuple(round(epoch * 117_266 / batch) for epoch in epochs)


# Published models: the recipe of the YOLACT and YOLACT++ papers, at batch 8 (the defaults of
# data/schema.py).
derive(
    {},
    name="yolact_base",
    **{"dataset": "coco2017", "model.square_anchors": True, "train.autoscale": True},
)
derive(
    "yolact_base",
    name="yolact_im400",
    **{"model.max_size": 400, "model.anchor_scales": ((17,), (34,), (69,), (139,), (279,))},
)
derive(
    "yolact_base",
    name="yolact_im700",
    **{
        "model.max_size": 700,
        "model.anchor_scales": ((30,), (61,), (122,), (244,), (488,)),
        "loss.masks_to_train": 300,
    },
)
derive("yolact_base", name="yolact_resnet50", **{"model.backbone": "resnet50"})
derive(
    "yolact_base",
    name="yolact_darknet53",
    **{
        "model.backbone": "darknet53",
        "model.pixel_mean": (0, 0, 0),
        "model.pixel_std": (255, 255, 255),
    },
)
derive(
    "yolact_resnet50",
    name="yolact_resnet50_pascal",
    **{
        "dataset": "pascal_sbd",
        "model.anchor_scales": ((32,), (64,), (128,), (256,), (512,)),
        "model.square_anchors": False,
        "train.iterations": 120_000,
        "train.lr_steps": (60_000, 100_000),
    },
)
derive(
    "yolact_base",
    name="yolact_plus_base",
    **{
        "model.dcn_layers": (0, 4, 23, 3),
        "model.dcn_interval": 3,
        "model.mask_iou_net": True,
        "model.anchor_scales": octaves(24, 3),
        "model.square_anchors": False,
    },
)
derive(
    "yolact_plus_base",
    name="yolact_plus_resnet50",
    **{"model.backbone": "resnet50", "model.dcn_layers": (0, 4, 6, 3), "model.dcn_interval": 1},
)

# Anchor assigners compared at one square anchor a location, as in the ablation of mask-aware IoU
# (docs/reference/assigners.md). Its warm-up is not from the paper: 500 iterations from a tenth of
# the rate, as maYOLACT.
ASSIGNERS = {  # name: (assign.name, published mask AP on COCO minival at 400, 550 and 700)
    "max_iou": ("max_iou", ("24.8", "28.5", "29.7")),
    "atss_iou": ("atss", ("25.3", "29.3", "30.8")),
    "atss_maiou": ("atss(iou='maiou')", ("26.1", "30.4", "31.8")),
    "atss_gmaiou": ("atss(iou='gmaiou')", ("not known",) * 3),
}
_EPOCHS = coco_iterations(20, 42, 49, 52, 55, batch=32)
ABLATION = {
    "model.anchor_scales": octaves(32, 1),
    "model.anchor_ratios": (1,),
    "loss.mask_weight": 8,
    "train.autoscale": False,
    "train.batch_size": 32,
    "train.lr": 4e-3,
    "train.warmup_lr": 4e-4,
    "train.lr_steps": _EPOCHS[:-1],
    "train.iterations": _EPOCHS[-1],
}
for _name, (_assigner, _published) in ASSIGNERS.items():
    for _size, _ap in zip((400, 550, 700), _published, strict=True):
        derive(
            "yolact_resnet50",
            name=f"assigners/{_name}_{_size}",
            note=f"ablation of assigners; published mask AP: {_ap}",
            **{**ABLATION, "model.max_size": _size, "assign.name": _assigner},
        )

# YOLACT with mask-aware assignment (docs/reference/gmayolact.md): anchors 4 and 4 sqrt(2) times the
# stride, and every block of C3 to C5 deformable (dcn_layers counts from the last block back, so 23
# covers any ResNet).
MAYOLACT = {
    "model.dcn_layers": (0, 4, 23, 3),
    "model.dcn_groups": 4,
    "model.fpn_upsample": "carafe",
    "model.anchor_scales": octaves(32, 2),
    "model.anchor_ratios": (1,),
    "assign.name": "atss(k=9, iou='maiou')",
    "loss.box_weight": 1.5,
    "loss.mask_weight": 8,
    "loss.semantic_weight": 1,
    "eval.score_threshold": 0.05,
    "train.autoscale": False,
    "train.batch_size": 32,
    "train.lr": 8e-3,
    "train.momentum": 0.9,
    "train.weight_decay": 5e-4,
    "train.clip_grad_norm": 35,
    "train.warmup_iterations": 500,
    "train.warmup_lr": 8e-4,
    "train.schedule": "cosine",
    "train.iterations": _EPOCHS[-1],
}
GMAYOLACT = {
    "assign.name": "atss(k=9, iou='gmaiou')",
    "loss.classification": "rank_sort",
    "loss.box": "giou",
    "loss.mask": "dice",
    "loss.self_balance": True,
    "loss.box_weight": 1,
    "loss.mask_weight": 1,
    # Not from the paper, where they could not be established: maYOLACT's.
    "loss.semantic_weight": 1,
    "train.lr": 8e-3,
    "train.warmup_lr": 8e-4,
    "model.anchor_scales": octaves(32, 2),
    "eval.score_threshold": 0.05,
}
for _size, _ap, _generalised_ap in ((550, "35.2", "not known"), (700, "37.7", "38.7")):
    _ma = derive(
        "yolact_resnet50",
        name=f"mayolact_{_size}",
        note=f"published mask AP on COCO test-dev: {_ap}",
        **{**MAYOLACT, "model.max_size": _size},
    )
    derive(
        _ma,
        name=f"gmayolact_{_size}",
        note=f"test-dev AP {_generalised_ap}; not from the paper: "
        "lr, warmup_lr, semantic_weight, anchor_scales, score_threshold",
        **GMAYOLACT,
    )

# Cigarette butts: the mask-loss survey's schedule (its lr steps lie beyond the last iteration) and
# its paper's learning rate.
SURVEY = {
    "dataset": "cigarettes",
    "model.max_size": 512,
    "train.lr": 1e-4,
    "train.iterations": 4_000,
    "train.validate_every": 500,
}
derive("yolact_plus_base", name="yolact_plus_base_cigarettes", **SURVEY)
derive("yolact_plus_resnet50", name="yolact_plus_resnet50_cigarettes", **SURVEY)

# Every row of the survey's tables, replayed as its code computed it and in corrected form:
# docs/reference/survey.md.
for _name, _note, _changes in survey.presets():
    derive(survey.BASE, name=_name, note=_note, **_changes)

# Small models, trained from scratch at 256 px. No zoom-out: at this size it leaves objects of a few
# pixels, on which they learn nothing.
derive(
    {},
    name="yolact_small",
    **{
        "dataset": "coco2017",
        "model.max_size": 256,
        "model.backbone": "resnet18",
        "model.pretrained": "none",
        "model.norm": "group",
        "model.fpn_channels": 128,
        "model.proto_channels": 128,
        "model.head_channels": 128,
        "model.anchor_scales": octaves(12, 1),
        "augment.zoom_out": False,
        "model.mask_iou_relu": "open",
        "train.optimizer": "adamw",
        "train.lr": 1e-3,
        "train.weight_decay": 0.01,
        "train.schedule": "cosine",
        "train.iterations": 100_000,
        "train.num_workers": 2,
    },
)
derive(
    "yolact_small",
    name="yolact_plus_small",
    **{
        "model.dcn_layers": (0, 0, 2, 2),
        "model.mask_iou_net": True,
        "model.anchor_scales": octaves(12, 3),
    },
)
derive(
    "yolact_plus_small",
    name="yolact_plus_tiny",
    **{
        "model.backbone": "resnet14",
        "model.backbone_width": 32,
        "model.dcn_layers": (0, 0, 1, 1),
        "model.fpn_channels": 64,
        "model.proto_channels": 64,
        "model.head_channels": 64,
    },
)

STANDIN = {
    "dataset": "cigarettes_standin",
    "train.iterations": 5_000,
    "train.warmup_iterations": 100,
    "train.validate_every": 500,
}
derive("yolact_small", name="yolact_small_cigarettes", **STANDIN)
derive("yolact_plus_small", name="yolact_plus_small_cigarettes", **STANDIN)
derive("yolact_plus_tiny", name="yolact_plus_tiny_cigarettes", **STANDIN)

# Microscopy: up to several hundred small objects an image (at 256 px, half of them are under 13
# px).
NUCLEI = {
    "dataset": "nuclei",
    "eval.max_dets": 300,
    "eval.top_k": 600,
    "loss.masks_to_train": 300,
    "train.iterations": 3_000,
    "train.warmup_iterations": 100,
    "train.validate_every": 500,
}
derive(
    "yolact_small", name="yolact_small_nuclei", **{**NUCLEI, "model.anchor_scales": octaves(8, 2)}
)
derive(
    "yolact_plus_small",
    name="yolact_plus_small_nuclei",
    **{**NUCLEI, "model.anchor_scales": octaves(8, 2)},
)
derive(
    "yolact_plus_tiny",
    name="yolact_plus_tiny_nuclei",
    **{**NUCLEI, "model.anchor_scales": octaves(8, 2)},
)

# The first command of the README: minutes on two cores. Objects keep their size, so that a short
# training sees the sizes it is tested on.
derive(
    "yolact_plus_tiny",
    name="quickstart",
    **{
        "dataset": "quickstart",
        "model.backbone": "resnet10",
        "model.proto_channels": 32,
        "model.proto_layers": 1,
        "model.prototypes": 16,
        "model.anchor_scales": ((20, 32), (40, 56), (64, 90), (128, 181), (256, 360)),
        "augment.iou_crop": False,
        "train.iterations": 1_100,
        "train.warmup_iterations": 50,
        "train.validate_every": 550,
        "train.save_every": 100,
    },
)


# -------------------------------------------------------------------------------------------------
# your configs derive("yolact_plus_small_cigarettes", name="butts_bce_mse", **{"loss.mask": "bce +
# 0.5*mse"}) derive("yolact_plus_small_cigarettes", name="butts_huber", **{"loss.mask":
# "huber(delta=0.3)"})
