"""Mask-aware IoU and ATSS: overlaps and assignments of the published code, and of written-out
definitions where no code is public.

The numbers lie beside `root`, in assigners_losses/1_gmaiou and assigners_losses/2_atss.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layers.anchors import STRIDES, make_anchors
from layers.assign import build_assigner, gma_iou
from layers.boxes import corners
from yolact.testing.reference_cases import Case

POLYGONS = {"B": "box", "M": "mask"}
ROUNDINGS = {"rounded": "reference", "exact": "exact"}
MODES = {"iou": "iou", "diou": "diou", "giou": "giou", "maiou": "maiou", "gmaiou_M": "gmaiou"}
PYRAMIDS = {550: (69, 35, 18, 9, 5), 400: (50, 25, 13, 7, 4), 138: (18, 9, 5, 3, 2)}
ANCHORS: dict[str, dict] = {  # the first part of a stored set's name -> how the project makes it
    "repo_s4": {
        "scales": [(4 * s,) for s in STRIDES],
        "ratios": (1,),
        "offset": 0,
        "strides": STRIDES,
    },
    "yolact_s3": {"scales": [(3 * s,) for s in STRIDES], "ratios": (1,)},
    # stored as height / width
    "yolact_s3_r3": {"scales": [(3 * s,) for s in STRIDES], "ratios": (2, 1, 0.5)},
}
EDGE = "edge_empty_mask_and_duplicate_gt"

NOT_OFFERED = {
    f"assigners {EDGE} maiou_zero_for_empty": "an empty mask that gives every candidate to its "
    "ground truth",
    "assigners gmaiou_*_pixelset": "areas of rounded boxes; the published code rounds only where "
    "it counts mask pixels",
}


def cases(root: Path) -> list[Case]:
    folder = root.parent / "assigners_losses"
    found = []
    for path in sorted((folder / "1_gmaiou").glob("*.npz")):
        found += [
            Case(
                f"gma_iou {path.stem} G={polygon} {rounding}",
                partial(_overlap_error, path, polygon, rounding),
                1e-12,
            )
            for polygon in POLYGONS
            for rounding in ROUNDINGS
        ]
        # which adds 1e-6 to areas
        found.append(
            Case(f"gma_iou {path.stem} published code", partial(_published_error, path), 3e-7)
        )
    for path in sorted((folder / "2_atss").glob("anchors_*.npz")):
        found.append(Case(f"atss {path.stem}", partial(_anchors_error, path), 1e-4))
    if not (folder / "2_atss" / "index.json").exists():
        return found
    for entry in json.loads((folder / "2_atss" / "index.json").read_text()):
        path = folder / "2_atss" / f"{entry['case']}.npz"
        for mode in MODES if path.exists() else ():
            found.append(
                Case(
                    f"atss {path.stem} {mode}",
                    partial(_wrong_anchors, path, entry["anchors"], mode),
                    0,
                )
            )
            found.append(
                Case(
                    f"atss {path.stem} {mode} overlaps",
                    partial(_positive_overlaps, path, entry["anchors"], mode),
                    2e-7,
                )
            )
    path = folder / "2_atss" / f"{EDGE}.npz"
    found += [
        Case(f"atss {EDGE} {key}", partial(_wrong_edge, path, key), 0)
        for key in ("iou_ref", "maiou_ref", "no_gt_iou", "no_gt_maiou")
        if path.exists()
    ]
    return found


def _load(path: Path) -> dict[str, Tensor]:
    with np.load(path) as z:
        found = {key: torch.from_numpy(z[key]) for key in z.files}
    if "masks_packed" in found:
        n, h, w = found["mask_shape"].tolist()
        bits = np.unpackbits(found["masks_packed"].numpy(), axis=1)[:, : h * w]
        found["masks"] = torch.from_numpy(bits.reshape(n, h, w)).bool()
    return found


def _overlap_error(path: Path, polygon: str, rounding: str) -> float:
    z = _load(path)
    found = gma_iou(
        z["anchors"].double(),
        z["gt_boxes"].double(),
        z["masks"],
        polygon=POLYGONS[polygon],
        rounding=ROUNDINGS[rounding],
    )
    return (found - z[f"gmaiou_{polygon}_{rounding}"]).abs().max().item()


def _published_error(path: Path) -> float:
    """Their mask-aware IoU, which is NaN for an empty mask where ours is 0."""
    z = _load(path)
    theirs = z["ref_maiou_f64"]
    found = gma_iou(z["anchors"].double(), z["gt_boxes"].double(), z["masks"], polygon="box")
    if found[theirs.isnan()].any() or bool(
        (theirs.isnan().any(1) != ~z["masks"].flatten(1).any(1)).any()
    ):
        return float("inf")
    return (found - theirs).nan_to_num(nan=0).abs().max().item()


def _anchors_error(path: Path) -> float:
    kind, size = path.stem.removeprefix("anchors_").rsplit("_", 1)
    shapes = [(side, side) for side in PYRAMIDS[int(size)]]
    found = corners(make_anchors(shapes, **ANCHORS[kind], image_size=int(size))) * int(size)
    return (found - _load(path)["anchors"]).abs().max().item()


def _assign(path: Path, anchors: str, measure: str, without: bool = False):
    z, stored = _load(path), _load(path.parent / anchors)
    boxes, masks = (z["gt_boxes"][:0], z["masks"][:0]) if without else (z["gt_boxes"], z["masks"])
    found = build_assigner(f"atss(iou='{measure}')")(
        stored["anchors"].float(), stored["num_per_level"].tolist(), boxes, masks, boxes[:0]
    )
    return found, z


def _wrong_anchors(path: Path, anchors: str, mode: str) -> float:
    found, z = _assign(path, anchors, MODES[mode])
    return (found.gt_index + 1 != z[f"{mode}_assigned_1based"]).sum().item()


def _positive_overlaps(path: Path, anchors: str, mode: str) -> float:
    found, z = _assign(path, anchors, MODES[mode])
    return (
        (found.overlap[z[f"{mode}_pos_anchor_idx"]] - z[f"{mode}_pos_overlap"]).abs().max().item()
    )


def _wrong_edge(path: Path, key: str) -> float:
    measure = "maiou" if "maiou" in key else "iou"
    found, z = _assign(path, "anchors_repo_s4_550.npz", measure, without=key.startswith("no_gt"))
    stored = z[f"{key}_assigned_1based"] if f"{key}_assigned_1based" in z else z[f"{key}_assigned"]
    return (found.gt_index + 1 != stored).sum().item()
