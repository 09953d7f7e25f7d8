"""Published figures of COCO, which stand beside a study's arms on that data set. Imports no torch.

Mask AP in percent on test-dev, frames per second on a Titan Xp: YOLACT (Bolya et al., ICCV 2019,
Table 1) and YOLACT++ (Bolya et al., TPAMI 2020), with the other models of those tables. On minival:
the published weights with Fast NMS, and the ablation of mask-aware IoU (Oksuz et al., BMVC 2021).
maYOLACT is of that paper, GmaYOLACT of "Generalized Mask-aware IoU for Anchor Assignment for
Real-time Instance Segmentation". One training a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.resolve import published_tables

TABLES = "COCO"  # what `published` says of the data sets that they belong to
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
NOTE = (
    "Published: one training a row, on COCO test-dev or minival (val2017). FPS is of a Titan Xp. "
    "Figures of another split, size or schedule than the arms' say nothing about an arm."
)
_YOLACT = "YOLACT, ICCV 2019"
_PLUS = "YOLACT++, TPAMI 2020"
_MASK_AWARE = "Mask-aware IoU, BMVC 2021"
_GENERALIZED = "Generalized Mask-aware IoU"


@dataclass(frozen=True)
class PublishedModel:
    """One row. preset: the config that builds it here, or ''; values {mask_ap, mask_ap50, ...}:
    percent, those that were printed; box_ap: percent or None; fps: None where it was not printed or
    not on the same card."""

    title: str
    backbone: str
    preset: str
    split: str
    source: str
    values: dict[str, float]
    fps: float | None = None
    box_ap: float | None = None


def published_models(dataset: str) -> list[PublishedModel]:
    """The rows that belong beside runs on a data set, by the name in its data section; empty where
    none do."""
    return _MODELS if published_tables(dataset) == TABLES else []


# title, backbone, preset, source, FPS, AP, AP50, AP75, AP of small, medium and large
_TEST_DEV: list[tuple[str, str, str, str, float, tuple[float, ...]]] = [
    ("PA-Net", "R-50-FPN", "", _YOLACT, 4.7, (36.6, 58.0, 39.3, 16.3, 38.1, 53.1)),
    ("RetinaMask", "R-101-FPN", "", _YOLACT, 6.0, (34.7, 55.4, 36.9, 14.3, 36.7, 50.5)),
    ("FCIS", "R-101-C5", "", _YOLACT, 6.6, (29.5, 51.5, 30.2, 8.0, 31.0, 49.7)),
    ("Mask R-CNN", "R-101-FPN", "", _YOLACT, 8.6, (35.7, 58.0, 37.8, 15.5, 38.1, 52.4)),
    ("MS R-CNN", "R-101-FPN", "", _YOLACT, 8.6, (38.3, 58.8, 41.5, 17.8, 40.4, 54.4)),
    (
        *("YOLACT-550", "R-101-FPN", "yolact_base", _YOLACT, 33.5),
        (29.8, 48.5, 31.2, 9.9, 31.3, 47.7),
    ),
    (
        *("YOLACT-400", "R-101-FPN", "yolact_im400", _YOLACT, 45.3),
        (24.9, 42.0, 25.4, 5.0, 25.3, 45.0),
    ),
    (
        *("YOLACT-550", "R-50-FPN", "yolact_resnet50", _YOLACT, 45.0),
        (28.2, 46.6, 29.2, 9.2, 29.3, 44.8),
    ),
    (
        *("YOLACT-550", "D-53-FPN", "yolact_darknet53", _YOLACT, 40.7),
        (28.7, 46.8, 30.0, 9.5, 29.6, 45.5),
    ),
    (
        *("YOLACT-700", "R-101-FPN", "yolact_im700", _YOLACT, 23.4),
        (31.2, 50.6, 32.8, 12.1, 33.3, 47.1),
    ),
    (
        *("YOLACT-550++", "R-50-FPN", "yolact_plus_resnet50", _PLUS, 33.5),
        (34.1, 53.3, 36.2, 11.7, 36.1, 53.6),
    ),
    (
        *("YOLACT-550++", "R-101-FPN", "yolact_plus_base", _PLUS, 27.3),
        (34.6, 53.8, 36.9, 11.9, 36.8, 55.1),
    ),
]
# title, backbone, preset, source, split, mask AP, box AP
_AP_ALONE: list[tuple[str, str, str, str, str, float, float | None]] = [
    ("maYOLACT-550", "R-50-FPN", "mayolact_550", _MASK_AWARE, "test-dev", 35.2, None),
    ("maYOLACT-700", "R-50-FPN", "mayolact_700", _MASK_AWARE, "test-dev", 37.7, None),
    ("GmaYOLACT-700", "R-50-FPN", "gmayolact_700", _GENERALIZED, "test-dev", 38.7, None),
    ("YOLACT-550, weights", "R-50-FPN", "yolact_resnet50", _YOLACT, "minival", 28.0, 30.2),
    ("YOLACT-550, weights", "R-101-FPN", "yolact_base", _YOLACT, "minival", 29.8, 32.5),
    ("YOLACT-550++, weights", "R-101-FPN", "yolact_plus_base", _PLUS, "minival", 34.4, 35.8),
]
# preset: title, mask AP at 400, 550 and 700 px
_ABLATION = {
    "max_iou": ("max IoU", (24.8, 28.5, 29.7)),
    "atss_iou": ("ATSS, IoU", (25.3, 29.3, 30.8)),
    "atss_maiou": ("ATSS, maIoU", (26.1, 30.4, 31.8)),
}


def _models() -> list[PublishedModel]:
    names = [f"mask_{name}" for name in NAMES]
    rows = [
        PublishedModel(
            title, backbone, preset, "test-dev", source, dict(zip(names, values, strict=True)), fps
        )
        for title, backbone, preset, source, fps, values in _TEST_DEV
    ]
    rows += [
        PublishedModel(title, backbone, preset, split, source, {"mask_ap": ap}, None, box)
        for title, backbone, preset, source, split, ap, box in _AP_ALONE
    ]
    rows += [
        PublishedModel(
            f"{title}, {size} px",
            "R-50-FPN",
            f"assigners/{name}_{size}",
            "minival",
            _MASK_AWARE,
            {"mask_ap": ap},
        )
        for name, (title, figures) in _ABLATION.items()
        for size, ap in zip((400, 550, 700), figures, strict=True)
    ]
    return rows


_MODELS = _models()
