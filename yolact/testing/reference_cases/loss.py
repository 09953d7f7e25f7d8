"""Losses and gradients of the published MultiBox loss and of the mask-loss survey's fork, in this
project's terms.

loss/ holds five fixtures of inputs, and per case the values, gradient norms and strided gradients.
A case is listed if its settings can be written here; NOT_OFFERED names the others and why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layers.losses.auxiliary import mask_iou_targets
from layers.losses.criterion import Criterion, Shapes
from layers.masks import crop
from layers.targets import Targets
from yolact.heads import MaskIoUNet
from yolact.outputs import Predictions
from yolact.testing.recipe import mask_iou_state
from yolact.testing.reference_cases import Case

TOLERANCE = 1e-5  # relative; gradients relative to their largest entry
# three units in the last place of the float32 numbers of 9 that it is the difference of
SECOND_TERM_TOLERANCE = 3e-6
LETTERS = {"B": "box", "M": "mask", "C": "class", "S": "semantic", "I": "mask_iou"}
TENSORS = {
    "loc": "box_deltas",
    "conf": "class_logits",
    "mask": "mask_coeffs",
    "proto": "prototypes",
    "segm": "semantic_logits",
}

NOT_OFFERED = {
    "base_no_roi_norm": "cropped masks are divided by the box area; the variant divided by H*W is "
    "not offered",
    "base_crop_pred_box": "masks are cropped with the matched ground-truth box in training",
    "base_ohem_most_confident": "negatives are ranked by background probability only",
    "base_focal_softmax": "no focal loss on softmax scores over all anchors",
    "base_coeff_diversity": "no coefficient diversity loss",
    "base_remove_empty": "ground truths that vanish at prototype size keep their positives",
    "single_log_cosh_bce_shrunkbox": "the stored value is inf",
    "double_dice_pre_bce_post_a1": "the original crashes: images have different numbers of "
    "positives",
    "double_log_cosh_dice_pre_bce_post_a1": "the original crashes: images have different numbers "
    "of positives",
    "double_log_cosh_bce_pre_bce_post_a1": "the original crashes: images have different numbers "
    "of positives",
    "nonplus_crashes": "the original crashes without the mask-IoU network",
}

# What the survey's shipped configs compute: the cropped loss, then the uncropped one. Huber's delta
# is at least 1 in all of them.
SHIPPED = {
    "yolact_plus_cig_butts": "bce",
    "yolact_plus_huber_loss_cig_butts": "huber",
    "yolact_plus_huber_loss_cig_butts_1_5_delta": "huber",
    "yolact_plus_huber_loss_cig_butts_1_3_delta": "huber",
    "yolact_plus_huber_loss_coco": "huber",
    "yolact_plus_dice_loss_cig_butts": "dice",
    "yolact_plus_log_cosh_bce_loss_cig_butts": "log_cosh_bce",
    "yolact_plus_log_cosh_dice_loss_cig_butts": "log_cosh_dice",
    "yolact_plus_mse_loss_cig_butts": "bce",  # sets a key that nothing reads
    "yolact_plus_huber_bce_loss_cig_butts": "bce+huber",
    "yolact_plus_mse_huber_loss_cig_butts": "huber+mse",
    "yolact_plus_mse_bce_loss_cig_butts": "bce+mse",
    "yolact_plus_mse_bce_loss_coco": "bce+mse",
}
# as an uncropped second term, these stay unsummed in the original
PER_PIXEL = ("dice", "log_cosh_dice", "log_cosh_bce")


@dataclass(frozen=True)
class Setting:
    """One stored case: where it comes from ("yolact" or "survey"), its name, the fixture, and the
    criterion that expresses it."""

    source: str
    name: str
    fixture: str
    expression: str
    masks_to_train: int
    min_area: float


def cases(root: Path) -> list[Case]:
    """Values, gradients, gradient norms, matching and mask-IoU arrays of every case that can be
    expressed here."""
    folder = root / "loss"
    found = []
    for source in ("yolact", "survey"):
        if not (folder / f"loss_{source}.json").exists():
            continue
        for name, stored in _stored(folder, source).items():
            setting = _setting(source, name, stored)
            if setting is None or not (folder / f"loss_in_{setting.fixture}.npz").exists():
                continue
            title = f"loss {source} {name}"
            found.append(
                Case(f"{title}: values", partial(values_error, folder, setting), TOLERANCE)
            )
            if isinstance(stored["losses"]["M"], dict):
                found.append(
                    Case(
                        f"{title}: second term",
                        partial(_second_term_error, folder, setting),
                        SECOND_TERM_TOLERANCE,
                    )
                )
            arrays = _arrays(folder, source)
            if any(key.startswith(f"{name}/d") for key in arrays):
                found.append(
                    Case(
                        f"{title}: gradients", partial(_gradients_error, folder, setting), TOLERANCE
                    )
                )
            if f"{name}/conf_t" in arrays:
                found.append(
                    Case(f"{title}: matching", partial(_matching_errors, folder, setting), 0)
                )
                found.append(
                    Case(
                        f"{title}: mask-IoU samples",
                        partial(_samples_error, folder, setting),
                        TOLERANCE,
                    )
                )
    return found


def combination(name: str, flags: dict) -> str:
    """The mask term of a stored case, in the published form outside boxes."""
    if name.startswith("shipped/"):
        post, _, pre = SHIPPED[name.removeprefix("shipped/")].partition("+")
        delta, alpha = 1.0, 1
    else:
        used = [
            loss
            for loss in ("huber", "log_cosh_bce", "dice", "log_cosh_dice", "mse")
            if flags.get(f"use_{loss}_loss")
        ]
        post = used[0] if used else "bce"
        pre = (
            (flags.get("double_loss_type") or "bce").removesuffix("_loss")
            if flags.get("mask_proto_double_loss")
            else ""
        )
        delta, alpha = (
            flags.get("huber_loss_delta", 1.0),
            flags.get("mask_proto_double_loss_alpha", 1),
        )
    terms = [_term(post, 1, delta, "outside='charge'")]
    if pre:
        options = "region='image', rescale=False" + (", unsummed=True" if pre in PER_PIXEL else "")
        # the uncropped Huber ignores the configured delta
        terms.append(_term(pre, alpha, 1.0, options))
    return " + ".join(terms)


def _term(loss: str, coefficient: float, delta: float, options: str) -> str:
    if loss == "huber":
        options = f"delta={delta}, {options}"
    name = loss if loss in ("bce", "mse") else f"survey_{loss}"
    return f"{coefficient}*{name}({options})"


def _setting(source: str, name: str, stored: dict) -> Setting | None:
    if name in NOT_OFFERED:
        return None
    flags = stored["flags"]
    return Setting(
        source,
        name,
        stored["fixture"],
        combination(name, flags),
        stored["masks_to_train"],
        flags.get("discard_mask_area", 25),
    )


@cache
def _stored(folder: Path, source: str) -> dict:
    return json.loads((folder / f"loss_{source}.json").read_text())


@cache
def _arrays(folder: Path, source: str) -> dict[str, np.ndarray]:
    path = folder / f"loss_{source}_grads.npz"
    return dict(np.load(path)) if path.exists() else {}


def mask_iou_net(num_classes: int) -> MaskIoUNet:
    """The project's net with the fixtures' weights."""
    net = MaskIoUNet(num_classes)
    net.load_state_dict(
        {
            name.removeprefix("maskiou_net."): torch.as_tensor(value)
            for name, value in mask_iou_state(num_classes).items()
        }
    )
    return net


def load_fixture(path: Path) -> tuple[Predictions, list[Targets], int]:
    """(predictions that require gradients, targets, network input size) of one loss_in_*.npz."""
    arrays = np.load(path)
    fields = {
        ours: torch.from_numpy(arrays[theirs].astype(np.float32)).requires_grad_()
        for theirs, ours in TENSORS.items()
    }
    size = int(arrays["mask_hw"][0])
    targets = []
    for b, crowds in enumerate(arrays["num_crowds"].tolist()):
        rows = torch.from_numpy(arrays[f"targets_{b}"])
        masks = np.unpackbits(arrays[f"masks_{b}_packed"], axis=1)[:, : size * size].reshape(
            -1, size, size
        )
        crowd = torch.arange(len(rows)) >= len(rows) - crowds  # crowds come last
        targets.append(
            Targets(
                rows[:, :4].contiguous(), rows[:, 4].long(), crowd, torch.from_numpy(masks).bool()
            )
        )
    anchors = torch.from_numpy(arrays["priors"])
    # type: the five tensors of TENSORS, by name
    return Predictions(anchors=anchors, **fields), targets, size  # type: ignore[arg-type]


@dataclass
class _Run:
    predictions: Predictions
    targets: list[Targets]
    criterion: Criterion
    gt_index: Tensor
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]  # "M/mask": d mask / d mask_coeffs


@lru_cache(maxsize=2)
def _run(folder: Path, setting: Setting) -> _Run:
    predictions, targets, size = load_fixture(folder / f"loss_in_{setting.fixture}.npz")
    assert predictions.semantic_logits is not None
    classes = predictions.semantic_logits.shape[1]
    sizes = [
        (predictions.prototypes.shape[1], predictions.prototypes.shape[2]),
        (predictions.semantic_logits.shape[-2], predictions.semantic_logits.shape[-1]),
    ]
    net = None if setting.fixture == "base" else mask_iou_net(classes)
    criterion = Criterion(
        Shapes(classes, size, sizes, mask_iou_net=net),
        setting.expression,
        mask_iou_min_area=setting.min_area,
        masks_to_train=setting.masks_to_train,
    )
    assignment = criterion.assign(predictions.anchors, (), targets)
    losses = criterion(
        predictions,
        targets,
        assignment=assignment,
        subset_order=_subset_order(folder, setting, assignment.gt_index),
    )
    gradients = {}
    for key in _stored(folder, setting.source)[setting.name]["grads"]:
        for tensor in _stored(folder, setting.source)[setting.name]["grads"][key]:
            wanted = getattr(predictions, TENSORS[tensor])
            (gradients[f"{key}/{tensor}"],) = torch.autograd.grad(
                losses[LETTERS[key]], wanted, retain_graph=True
            )
    values = {name: value.detach() for name, value in losses.items()}
    return _Run(predictions, targets, criterion, assignment.gt_index, values, gradients)


def _subset_order(folder: Path, setting: Setting, gt_index: Tensor) -> Tensor | None:
    """Keys that choose what the stored permutation of an image's positives chose."""
    arrays = _arrays(folder, setting.source)
    if f"{setting.name}/perm_0" not in arrays:
        return None
    order = torch.zeros(gt_index.shape)
    permutation = torch.from_numpy(arrays[f"{setting.name}/perm_0"]).long()
    # the one image with more positives than masks_to_train
    crowded = (gt_index >= 0).sum(1).argmax()
    positives = (gt_index[crowded] >= 0).nonzero()[:, 0]
    order[crowded, positives[permutation]] = torch.arange(len(permutation)).float()
    return order


def values_error(folder: Path, setting: Setting) -> float:
    """Worst relative error of the losses of a case; infinite where the matching or the losses that
    there are differ."""
    run = _run(folder, setting)
    stored = _stored(folder, setting.source)[setting.name]
    if [int(n) for n in (run.gt_index >= 0).sum(1)] != stored["num_pos"]:
        return float("inf")
    expected = {
        LETTERS[letter]: value["mean"] if isinstance(value, dict) else value
        for letter, value in stored["losses"].items()
    }
    errors = [
        abs(float(value) - expected.get(name, 0.0)) / max(abs(expected.get(name, 0.0)), 1e-12)
        if name in expected
        else abs(float(value))
        for name, value in run.losses.items()
    ]
    return max(errors) if expected.keys() <= run.losses.keys() else float("inf")


def _second_term_error(folder: Path, setting: Setting) -> float:
    """The unsummed second term alone, stored as what the mean of the original's tensor has above
    its smallest entry."""
    stored = _stored(folder, setting.source)[setting.name]["losses"]["M"]
    terms = _run(folder, setting).criterion.last_terms
    ours = next(
        float(value)
        for name, value in terms.items()
        if "unsummed" in name and name.endswith("/weighted")
    )
    return abs(ours - (stored["mean"] - stored["min"]))


def _gradients_error(folder: Path, setting: Setting) -> float:
    """Worst of the strided gradients, and of the norms of the whole ones, relative to the largest
    entry or the norm."""
    run, arrays = _run(folder, setting), _arrays(folder, setting.source)
    errors = []
    for key, norms in _stored(folder, setting.source)[setting.name]["grads"].items():
        for tensor, stored in norms.items():
            gradient = run.gradients[f"{key}/{tensor}"]
            errors += [
                abs(float(gradient.abs().max()) / stored["absmax"] - 1),
                abs(float(gradient.double().norm()) / stored["l2"] - 1),
            ]
            errors += [
                _difference(ours, theirs) / stored["absmax"]
                for ours, theirs in _strided(gradient, arrays, f"{setting.name}/d{key}_d{tensor}")
            ]
    return max(errors)


def _strided(
    gradient: Tensor, arrays: dict[str, np.ndarray], prefix: str
) -> list[tuple[Tensor, np.ndarray]]:
    """Pairs (ours, theirs) of the parts of a gradient that are stored: rows, or every n-th entry
    along some axes."""
    pairs = []
    if f"{prefix}_rows" in arrays:
        image, anchor = torch.from_numpy(arrays[f"{prefix}_rows"]).long().unbind(1)
        pairs.append((gradient[image, anchor], arrays[f"{prefix}_vals"]))
    for suffix, part in (
        ("s7s7s5", lambda g: g[:, ::7, ::7, ::5]),
        ("s23", lambda g: g[:, ::23]),
        ("s5", lambda g: g[..., ::5, ::5]),
    ):
        if f"{prefix}_{suffix}" in arrays:
            pairs.append((part(gradient), arrays[f"{prefix}_{suffix}"]))
    return pairs


def _difference(ours: Tensor, theirs: np.ndarray) -> float:
    return (
        float((ours - torch.from_numpy(theirs)).abs().max())
        if ours.shape == theirs.shape
        else float("inf")
    )


def _matching_errors(folder: Path, setting: Setting) -> int:
    """Anchors whose class, or matched ground truth where positive, differs."""
    run, arrays = _run(folder, setting), _arrays(folder, setting.source)
    wrong = 0
    for b, (index, target) in enumerate(zip(run.gt_index, run.targets, strict=True)):
        labels = torch.where(
            index >= 0, target.labels[index.clamp(min=0)] + 1, torch.where(index == -1, 0, -1)
        )
        wrong += int((labels.numpy() != arrays[f"{setting.name}/conf_t"][b]).sum())
        positive = (index >= 0).numpy()
        wrong += int((index.numpy() != arrays[f"{setting.name}/idx_t"][b])[positive].sum())
    return wrong


def _samples_error(folder: Path, setting: Setting) -> float:
    """What the mask-IoU network is fed and asked for, in the stored order: permuted where a subset
    was drawn, small masks left out."""
    run, arrays = _run(folder, setting), _arrays(folder, setting.source)
    soft, iou, labels = [], [], []
    for b, (index, target) in enumerate(zip(run.gt_index, run.targets, strict=True)):
        rows = (index >= 0).nonzero()[:, 0]
        if len(rows) > setting.masks_to_train:
            rows = rows[
                torch.from_numpy(arrays[f"{setting.name}/perm_{b}"]).long()[
                    : setting.masks_to_train
                ]
            ]
        matched = index[rows]
        prototypes = run.predictions.prototypes[b].detach()
        masks = torch.einsum(
            "hwk,nk->nhw", prototypes, run.predictions.mask_coeffs[b, rows].detach()
        ).sigmoid()
        masks = crop(masks, target.boxes[matched])
        truth = target.mask_at(*masks.shape[-2:])[matched].float()
        large = truth.sum((1, 2)) > setting.min_area
        soft.append(masks[large])
        iou.append(mask_iou_targets(masks, truth)[large])
        labels.append(target.labels[matched][large])
    masks, ious, found = map(torch.cat, (soft, iou, labels))
    stored = {
        key: arrays[f"{setting.name}/I_{key}"] for key in ("target", "label", "in_s3", "pred")
    }
    if not np.array_equal(found.numpy(), stored["label"]):
        return float("inf")
    assert run.criterion.mask_iou is not None
    predicted = run.criterion.mask_iou.net(masks[:, None]).detach()
    return max(
        _difference(ious, stored["target"]),
        _difference(masks[::5, None, ::3, ::3], stored["in_s3"]),
        _difference(predicted, stored["pred"]) / float(np.abs(stored["pred"]).max()),
    )
