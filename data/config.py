"""The file to edit: data sets and named configs. Plain data; every key is described in
data/schema.py.

A data set is one entry of DATASETS. A config is one `derive` line, which starts from another config
and states what differs:

    derive("yolact_plus_small_cigarettes", name="butts_bce_mse", loss=dict(mask="bce + 0.5*mse"))

and then `python train.py --config butts_bce_mse`. `--list configs` lists the names,
`--print_config` shows every setting of one. The key "dataset" names an entry of DATASETS. Where
train.autoscale is on, lr, iterations and lr_steps are those of batch 8, and load_config scales them
to train.batch_size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data import survey
from data.settings import flatten, given
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
    """The Cigarette-butts set: {train,val}/{images,coco_annotations.json}. The survey's tables
    belong to it."""
    return {
        "root": root,
        "train_images": "train/images",
        "train_annotations": "train/coco_annotations.json",
        "val_images": "val/images",
        "val_annotations": "val/coco_annotations.json",
        "class_names": ["cig_butt"],
        "published": survey.TABLES,
    }


# ---------------------------------------------------------------------------------------- data sets

# An entry holds fields of the data section. Paths start from `root`, and `root` from the working
# directory. "published" alone is no setting: it names the printed tables that a report shows beside
# runs on the set.

DATASETS: dict[str, dict[str, Any]] = {
    "coco2017": {
        "root": "data/coco",
        "train_images": "train2017",
        "train_annotations": "annotations/instances_train2017.json",
        "val_images": "val2017",
        "val_annotations": "annotations/instances_val2017.json",
        "class_names": COCO_CLASSES,
        "published": "COCO",
    },
    # its ground truth is kept by COCO's server, which takes the detections that eval.py writes
    "coco2017_testdev": {
        "root": "data/coco",
        "train_images": "train2017",
        "train_annotations": "annotations/instances_train2017.json",
        "val_images": "test2017",
        "val_annotations": "annotations/image_info_test-dev2017.json",
        "val_truth": False,
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
    "quickstart": {**cigarettes_layout("runs/quickstart_data"), "published": ""},
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
    base: str | Mapping[str, Any],
    /,
    *,
    name: str,
    note: str = "",
    dataset: str | None = None,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    assign: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    eval: Mapping[str, Any] | None = None,
    **dotted: Any,
) -> dict[str, Any]:
    """Add to CONFIGS the config `base` (a name, or what derive returned) with changes; returns it
    as {"section.field": value}.

    A change is a section, loss=dict(mask="bce + dice"), or a key, **{"loss.mask": "bce + dice"}.
    note: one line for --list configs and --print_config; a config derived from this one does not
    inherit it. ValueError for an unknown base or key, for a key in both forms, or for a name that
    another config has.
    """
    where = f"derive(..., name={name!r})"
    if isinstance(base, str):
        if base not in CONFIGS:
            raise ValueError(f"{where}: {unknown_name('config', base, CONFIGS)}")
        base = CONFIGS[base]
    sections = dict(model=model, data=data, augment=augment, assign=assign, loss=loss, train=train)
    changes = flatten(given(dotted, dataset=dataset, eval=eval, **sections), where)
    preset = {**flatten(base, where), **changes, "name": name}
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
    dataset="coco2017",
    model=dict(square_anchors=True),
    train=dict(autoscale=True),
)
derive(
    "yolact_base",
    name="yolact_im400",
    model=dict(max_size=400, anchor_scales=((17,), (34,), (69,), (139,), (279,))),
)
derive(
    "yolact_base",
    name="yolact_im700",
    model=dict(max_size=700, anchor_scales=((30,), (61,), (122,), (244,), (488,))),
    loss=dict(masks_to_train=300),
)
derive("yolact_base", name="yolact_resnet50", model=dict(backbone="resnet50"))
derive(
    "yolact_base",
    name="yolact_darknet53",
    model=dict(backbone="darknet53", pixel_mean=(0, 0, 0), pixel_std=(255, 255, 255)),
)
derive(
    "yolact_resnet50",
    name="yolact_resnet50_pascal",
    dataset="pascal_sbd",
    model=dict(anchor_scales=((32,), (64,), (128,), (256,), (512,)), square_anchors=False),
    train=dict(iterations=120_000, lr_steps=(60_000, 100_000)),
)
derive(
    "yolact_base",
    name="yolact_plus_base",
    model=dict(
        dcn_layers=(0, 4, 23, 3),
        dcn_interval=3,
        mask_iou_net=True,
        anchor_scales=octaves(24, 3),
        square_anchors=False,
    ),
)
derive(
    "yolact_plus_base",
    name="yolact_plus_resnet50",
    model=dict(backbone="resnet50", dcn_layers=(0, 4, 6, 3), dcn_interval=1),
)
# The pair of yolact_plus_base for what re-scoring is worth.
derive(
    "yolact_plus_base",
    name="yolact_plus_base_no_rescoring",
    note="ablation of mask re-scoring: yolact_plus_base without the mask-IoU net",
    model=dict(mask_iou_net=False),
)

# Anchor assigners compared at one square anchor a location, as in the ablation of mask-aware IoU
# (docs/reference/assigners.md). Its warm-up is not from the paper: 500 iterations from a tenth of
# the rate, as maYOLACT.
ASSIGNERS = {  # name: (assign.name, published mask AP on COCO minival at 400, 550 and 700)
    "max_iou": ("max_iou", ("24.8", "28.5", "29.7")),
    "atss_iou": ("atss", ("25.3", "29.3", "30.8")),
    "atss_maiou": ("atss(iou='maiou')", ("26.1", "30.4", "31.8")),
    "atss_gmaiou": ("atss(iou='gmaiou')", ("not known",) * 3),
    "atss_diou": ("atss(iou='diou')", ("not known",) * 3),
    "atss_giou": ("atss(iou='giou')", ("not known",) * 3),
}
_EPOCHS = coco_iterations(20, 42, 49, 52, 55, batch=32)
for _name, (_assigner, _published) in ASSIGNERS.items():
    for _size, _ap in zip((400, 550, 700), _published, strict=True):
        derive(
            "yolact_resnet50",
            name=f"assigners/{_name}_{_size}",
            note=f"ablation of assigners; published mask AP: {_ap}",
            model=dict(max_size=_size, anchor_scales=octaves(32, 1), anchor_ratios=(1,)),
            assign=dict(name=_assigner),
            loss=dict(mask_weight=8),
            train=dict(
                autoscale=False,
                batch_size=32,
                lr=4e-3,
                warmup_lr=4e-4,
                lr_steps=_EPOCHS[:-1],
                iterations=_EPOCHS[-1],
            ),
        )

# YOLACT with mask-aware assignment (docs/reference/gmayolact.md): anchors 4 and 4 sqrt(2) times the
# stride, and every block of C3 to C5 deformable (dcn_layers counts from the last block back, so 23
# covers any ResNet).
derive(
    "yolact_resnet50",
    name="mayolact_550",
    note="published mask AP on COCO test-dev: 35.2",
    model=dict(
        max_size=550,
        dcn_layers=(0, 4, 23, 3),
        dcn_groups=4,
        fpn_upsample="carafe",
        anchor_scales=octaves(32, 2),
        anchor_ratios=(1,),
    ),
    assign=dict(name="atss(k=9, iou='maiou')"),
    loss=dict(box_weight=1.5, mask_weight=8, semantic_weight=1),
    eval=dict(score_threshold=0.05),
    train=dict(
        autoscale=False,
        batch_size=32,
        lr=8e-3,
        momentum=0.9,
        weight_decay=5e-4,
        clip_grad_norm=35,
        warmup_iterations=500,
        warmup_lr=8e-4,
        schedule="cosine",
        iterations=_EPOCHS[-1],
    ),
)
derive(
    "mayolact_550",
    name="mayolact_700",
    note="published mask AP on COCO test-dev: 37.7",
    model=dict(max_size=700),
)
# What could not be established from its paper stays as in maYOLACT; the notes name it.
for _size, _ap in ((550, "not known"), (700, "38.7")):
    derive(
        f"mayolact_{_size}",
        name=f"gmayolact_{_size}",
        note=f"test-dev AP {_ap}; not from the paper: "
        "lr, warmup_lr, semantic_weight, anchor_scales, score_threshold",
        assign=dict(name="atss(k=9, iou='gmaiou')"),
        loss=dict(
            classification="rank_sort",
            box="giou",
            mask="dice",
            self_balance=True,
            box_weight=1,
            mask_weight=1,
        ),
    )

# Cigarette butts: the mask-loss survey's schedule (its lr steps lie beyond the last iteration) and
# its paper's learning rate.
for _name in ("yolact_plus_base", "yolact_plus_resnet50"):
    derive(
        _name,
        name=f"{_name}_cigarettes",
        dataset="cigarettes",
        model=dict(max_size=512),
        train=dict(lr=1e-4, iterations=4_000, validate_every=500),
    )

# Every row of the survey's tables, replayed as its code computed it and in corrected form:
# docs/reference/survey.md.
for _name, _note, _changes in survey.presets():
    derive(survey.BASE, name=_name, note=_note, **_changes)

# Small models, trained from scratch at 256 px. No zoom-out: at this size it leaves objects of a few
# pixels, on which they learn nothing. Masks learn and are read at sub-pixel accuracy, which two
# studies found better than YOLACT's binary masks (docs/reference/ceiling.md).
derive(
    {},
    name="yolact_small",
    dataset="coco2017",
    model=dict(
        max_size=256,
        backbone="resnet18",
        pretrained="none",
        norm="group",
        fpn_channels=128,
        proto_channels=128,
        head_channels=128,
        anchor_scales=octaves(12, 1),
        mask_iou_relu="open",
    ),
    augment=dict(zoom_out=False),
    loss=dict(mask="bce(sampling=points(784))", mask_target="coverage", mask_stride=1),
    eval=dict(masks="subpixel"),
    train=dict(
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.01,
        schedule="cosine",
        iterations=100_000,
        num_workers=2,
    ),
)
derive(
    "yolact_small",
    name="yolact_plus_small",
    model=dict(dcn_layers=(0, 0, 2, 2), mask_iou_net=True, anchor_scales=octaves(12, 3)),
)
derive(
    "yolact_plus_small",
    name="yolact_plus_tiny",
    model=dict(
        backbone="resnet14",
        backbone_width=32,
        dcn_layers=(0, 0, 1, 1),
        fpn_channels=64,
        proto_channels=64,
        head_channels=64,
    ),
)

# Of the size of the smallest YOLO segmenters, 10.4 GFLOP: docs/reference/benchmarks.md.
derive(
    "yolact_small",
    name="yolact_micro_320",
    note="10.4 GFLOP; no weights of it are trained yet",
    model=dict(
        max_size=320,
        pretrained="imagenet",
        fpn_channels=96,
        proto_channels=64,
        head_channels=96,
        anchor_scales=octaves(15, 1),
    ),
)

_SMALL = ("yolact_small", "yolact_plus_small", "yolact_plus_tiny")
for _name in _SMALL:
    derive(
        _name,
        name=f"{_name}_cigarettes",
        dataset="cigarettes_standin",
        train=dict(iterations=5_000, warmup_iterations=100, validate_every=500),
    )

# Microscopy: up to several hundred small objects an image (at 256 px, half of them are under
# 13 px).
for _name in _SMALL:
    derive(
        _name,
        name=f"{_name}_nuclei",
        dataset="nuclei",
        model=dict(anchor_scales=octaves(8, 2)),
        eval=dict(max_dets=300, top_k=600),
        loss=dict(masks_to_train=300),
        train=dict(iterations=3_000, warmup_iterations=100, validate_every=500),
    )

# The first command of the README: minutes on two cores. Objects keep their size, so that a short
# training sees the sizes it is tested on.
derive(
    "yolact_plus_tiny",
    name="quickstart",
    dataset="quickstart",
    model=dict(
        backbone="resnet10",
        proto_channels=32,
        proto_layers=1,
        prototypes=16,
        anchor_scales=((20, 32), (40, 56), (64, 90), (128, 181), (256, 360)),
    ),
    augment=dict(iou_crop=False),
    train=dict(iterations=1_100, warmup_iterations=50, validate_every=550, save_every=100),
)

# The same network for any set: what a CPU trains in minutes. `yolact import` starts from it.
derive(
    "quickstart",
    name="yolact_plus_micro",
    note="own data on a CPU: the network of the quickstart, which train.init_from=start fits",
    dataset="coco2017",
    train=dict(iterations=3_000, warmup_iterations=100, validate_every=500),
)


# ------------------------------------------------------------------------------------- your configs

# derive("yolact_plus_small_cigarettes", name="butts_bce_mse", loss=dict(mask="bce + 0.5*mse"))
# derive("yolact_plus_small_cigarettes", name="butts_huber", loss=dict(mask="huber(delta=0.3)"))
