"""Operations on given inputs: boxes, crops, matching, NMS.

Stored but not compared, because the project has no such option: `lse` (torch.logsumexp is used),
`elem_*` and `miou_crowd` (unused by the method), `san_*_cast` (boxes are not rounded), `fast2nd`
(Fast NMS with a second threshold, off in the published configs).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layers.anchors import make_anchors
from layers.assign import build_assigner
from layers.boxes import (
    area,
    center_size,
    corners,
    decode,
    encode,
    pairwise_intersection,
    pairwise_iou,
    to_pixels,
)
from layers.losses.auxiliary import mask_iou_targets
from layers.masks import box_window
from layers.nms import cross_class_fast_nms, fast_nms, traditional_nms
from yolact.testing.reference_cases import Case

CONFIGS = (
    "yolact_resnet50",
    "yolact_base",
    "yolact_darknet53",
    "yolact_plus_resnet50",
    "yolact_plus_base",
)
MATCH_PRIORS = ("base230", "plus134", "base550")
MATCH_CASES = (
    "plain",
    "tiny",
    "crowd",
    "single_big",
    "outside",
    "cluster",
    "zero_width",
    "duplicate_ties",
)
STANDALONE_NMS = {"fast": fast_nms, "cc": cross_class_fast_nms, "trad": traditional_nms}
NET_NMS: dict[str, tuple[Callable, dict]] = {
    "fast": (fast_nms, {}),
    "fast_t25": (fast_nms, {"score_threshold": 0.25}),
    "fast_iou30": (fast_nms, {"iou_threshold": 0.3}),
    "cc": (cross_class_fast_nms, {"max_detections": 200}),
    "trad": (traditional_nms, {}),
    "trad_t25": (traditional_nms, {"score_threshold": 0.25}),
}


def _share_inside(a: Tensor, b: Tensor) -> Tensor:
    """(N,M) share of each box of `a` inside each box of `b`, as max_iou compares anchors with crowd
    regions."""
    return (pairwise_intersection(a, b) / area(a)[:, None]).nan_to_num(nan=0)


def _each_with_each(a: Tensor, b: Tensor) -> Tensor:
    """(N,M) IoU of binary masks (N,H,W) and (M,H,W)."""
    n, m = len(a), len(b)
    return mask_iou_targets(a.float().repeat_interleave(m, 0), b.float().repeat(n, 1, 1)).view(n, m)


# name -> (function of the named arrays, arrays it reads, array it must give)
GIVEN = {
    "iou": (pairwise_iou, ("jac_a", "jac_b"), "jac_iou"),
    "iou batched": (pairwise_iou, ("jac3_a", "jac3_b"), "jac3_iou"),
    "overlap with crowds": (_share_inside, ("jac_a", "jac_b"), "jac_iou_crowd"),
    "center_size": (center_size, ("jac_b",), "center_size"),
    "corners": (corners, ("center_size",), "point_form"),
    "encode": (encode, ("enc_gt", "enc_priors"), "enc_loc"),
    "decode what was encoded": (decode, ("enc_loc", "enc_priors"), "enc_decoded_back"),
    "decode": (decode, ("dec_loc", "enc_priors"), "dec_boxes"),
    "mask_iou": (_each_with_each, ("miou_a", "miou_b"), "miou"),
}


def cases(root: Path) -> list[Case]:
    return [
        *_given(root / "ops" / "ops.npz"),
        *_match(root / "ops" / "match.npz"),
        *_nms(root / "ops"),
        *_net_nms(root / "net"),
    ]


def _given(path: Path) -> list[Case]:
    if not path.exists():
        return []
    z = _load(path)
    found = [
        Case(
            f"ops/{name}",
            partial(_difference, function, [z[key] for key in inputs], z[output]),
            1e-6,
        )
        for name, (function, inputs, output) in GIVEN.items()
        if {*inputs, output} <= z.keys()
    ]
    for size in (550, 138, 37):
        found += (
            [Case(f"ops/pixels of {size}", partial(_pixels, z, size), 1e-6 * size)]
            if f"san_{size}_p0_nocast" in z
            else []
        )
        found += [
            Case(f"ops/window of {size} padded by {padding}", partial(_window, z, size, padding), 0)
            for padding in (0, 1, 3)
            if f"san_{size}_p{padding}_nocast" in z
        ]
    found += [
        Case(f"ops/{key}", partial(_crop, z, key), 0)
        for key in sorted(z)
        if key.startswith("crop_") and "_keep_packed_p" in key
    ]
    return found


def _difference(function, inputs: list[Tensor], expected: Tensor) -> float:
    """Largest difference, relative to values above 1. Where the original divides 0 by 0 (empty
    boxes) ours give 0."""
    expected = expected.nan_to_num(nan=0)
    return ((function(*inputs) - expected).abs() / expected.abs().clamp(min=1)).max().item()


def _pixels(z: dict[str, Tensor], size: int) -> float:
    # The original leaves x1 unbounded above and x2 below, so boxes beside the image lie outside it;
    # ours are clipped on both sides.
    low, high = z[f"san_{size}_p0_nocast"].clamp(0, size)
    boxes = torch.stack((z["san_x1"], z["san_x1"], z["san_x2"], z["san_x2"]), 1)
    return (
        (to_pixels(boxes, (size, size)) - torch.stack((low, low, high, high), 1)).abs().max().item()
    )


def _window(z: dict[str, Tensor], size: int, padding: int) -> float:
    low, high = z[f"san_{size}_p{padding}_nocast"][:, :, None]
    columns = torch.arange(size)
    boxes = torch.stack(
        (z["san_x1"], torch.zeros_like(z["san_x1"]), z["san_x2"], torch.ones_like(z["san_x1"])), 1
    )
    window = box_window(boxes, (1, size), padding)[:, 0]
    return (window != ((columns >= low) & (columns < high))).sum().item()


def _crop(z: dict[str, Tensor], key: str) -> float:
    _, size, _, _, padding = key.split("_")
    h, w = (int(side) for side in size.split("x"))
    boxes = z[f"crop_{size}_boxes"]
    kept = (
        np.unpackbits(z[key].numpy(), count=h * w * len(boxes))
        .reshape(h, w, len(boxes))
        .astype(bool)
    )
    return int((box_window(boxes, (h, w), int(padding[1:])).permute(1, 2, 0).numpy() != kept).sum())


def _match(path: Path) -> list[Case]:
    if not path.exists():
        return []
    z = _load(path)
    found = []
    for priors in MATCH_PRIORS:
        for name in MATCH_CASES:
            key = f"{priors}_{name}"
            if f"{key}_conf_t" in z:
                found.append(Case(f"match/{key}", partial(_targets, z, priors, key), 0))
            if f"{key}_loc_t" in z or f"{key}_loc_t_pos" in z:
                found.append(Case(f"match/{key} offsets", partial(_offsets, z, priors, key), 1e-6))
    return found


def _assign(z: dict[str, Tensor], priors: str, key: str) -> tuple[Tensor, Tensor]:
    """Anchors in centre form and gt_index. Boxes stay relative: max_iou is scale_free, and pixels
    would move exact ties."""
    anchors = z[f"{priors}_priors"] if f"{priors}_priors" in z else _base550()
    crowds = z.get(f"{key}_crowds", torch.zeros(0, 4))
    return anchors, build_assigner("max_iou")(
        corners(anchors), (len(anchors),), z[f"{key}_truths"], None, crowds
    ).gt_index


def _targets(z: dict[str, Tensor], priors: str, key: str) -> float:
    index = _assign(z, priors, key)[1]
    classes = torch.where(
        index >= 0, z[f"{key}_labels"][index.clamp(min=0)] + 1, torch.where(index == -1, 0, -1)
    )
    wrong_class = classes != z[f"{key}_conf_t"]
    # the original also names a box for anchors that are not positive
    wrong_box = (index >= 0) & (index != z[f"{key}_idx_t"])
    return (wrong_class | wrong_box).sum().item()


def _offsets(z: dict[str, Tensor], priors: str, key: str) -> float:
    anchors, index = _assign(z, priors, key)
    positive = index >= 0
    expected = z[f"{key}_loc_t_pos"] if f"{key}_loc_t_pos" in z else z[f"{key}_loc_t"][positive]
    found = encode(z[f"{key}_truths"][index[positive]], anchors[positive])
    same = (found == expected) & found.isinf()  # a box without width: -inf on both sides
    return torch.where(same, 0, (found - expected).abs() / expected.abs().clamp(min=1)).max().item()


def _base550() -> Tensor:
    shapes, scales = [(s, s) for s in (69, 35, 18, 9, 5)], [(24,), (48,), (96,), (192,), (384,)]
    return make_anchors(shapes, scales, (1, 0.5, 2), image_size=550, square=True)


def _nms(folder: Path) -> list[Case]:
    if not (folder / "nms.npz").exists():
        return []
    z, settings = _load(folder / "nms.npz"), json.loads((folder / "nms.json").read_text())
    return [
        Case(f"nms/{case} {kind}", partial(_standalone, z, case, kind, setting), 0)
        for case, setting in settings.items()
        for kind in STANDALONE_NMS
        if f"{case}_{kind}_idx" in z
    ]


def _standalone(z: dict[str, Tensor], case: str, kind: str, setting: dict) -> float:
    # the original's cross-class form has no total limit
    limit = setting["top_k"] if kind == "cc" else setting["max_num_detections"]
    rows, labels, scores = STANDALONE_NMS[kind](
        z[f"{case}_boxes"],
        z[f"{case}_scores"].t(),
        iou_threshold=setting["iou_threshold"],
        score_threshold=setting["conf_thresh"],
        top_k=setting["top_k"],
        max_detections=limit,
        image_size=setting["traditional_max_size"],
    )
    return _mismatches(
        (rows, z[f"{case}_{kind}_idx"]),
        (labels, z[f"{case}_{kind}_class"]),
        (scores, z[f"{case}_{kind}_score"]),
    )


def _net_nms(folder: Path) -> list[Case]:
    found = []
    for config in CONFIGS:
        path, info = folder / f"net_{config}.npz", folder / f"net_{config}.json"
        if not (path.exists() and info.exists()):
            continue
        with np.load(path) as stored:
            if not {"det_in_boxes", "det_in_conf"} <= set(stored.files):
                continue
            variants = [
                v
                for v in NET_NMS
                if f"det_{v}_row" in stored.files and f"det_{v}_class" in stored.files
            ]
        size = json.loads(info.read_text())["max_size"]
        found += [
            Case(f"nms/{config} {v}", partial(_on_network_output, path, v, size), 0)
            for v in variants
        ]
    return found


def _on_network_output(path: Path, variant: str, image_size: int) -> float:
    z = _load(path, ("det_in_boxes", "det_in_conf", f"det_{variant}_row", f"det_{variant}_class"))
    nms, changed = NET_NMS[variant]
    setting: dict = {
        "iou_threshold": 0.5,
        "score_threshold": 0.05,
        "top_k": 200,
        "max_detections": 100,
        **changed,
    }
    rows, labels, _ = nms(
        z["det_in_boxes"], z["det_in_conf"][:, 1:], image_size=image_size, **setting
    )
    return _mismatches((rows, z[f"det_{variant}_row"]), (labels, z[f"det_{variant}_class"]))


def _mismatches(*pairs: tuple[Tensor, Tensor]) -> float:
    if any(len(found) != len(expected) for found, expected in pairs):
        return float(max(len(expected) for _, expected in pairs))
    return float(max((found != expected).sum().item() for found, expected in pairs))


def _load(path: Path, keys: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    with np.load(path) as z:
        return {key: torch.from_numpy(z[key]) for key in keys or z.files}
