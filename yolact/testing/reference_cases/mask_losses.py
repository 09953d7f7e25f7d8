"""Mask losses of public implementations and of written-out formulas, in this project's terms.

The numbers lie beside `root`, in assigners_losses/5_mask_losses. One case for the values, one for
the gradients and one for finiteness of each stored loss, over all stored inputs. Values are means
over all pixels and instances in float64. Gradients are stored with respect to probabilities and
compared with respect to logits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layers.losses.mask import MaskLoss, build_mask_loss
from layers.masks import signed_distance_map
from yolact.testing.reference_cases import Case

# relative, but values below 1 absolutely; gradients relative to their largest entry
VALUES, GRADIENTS = 1e-6, 1e-5
SMOOTH_INPUTS = (
    "single_rand",
    "batch_rand",
    "batch_imbalanced",
    "empty_normal_full",
    "empty_target",
    "full_target",
    "one_pixel",
    "proto_138",
)
LOGIT_LIMIT = 20  # of the stored logits
FORMS = {"lin": "sum", "sq": "squares"}
DISTANCES = "sdm_"  # arrays <input>/sdm_<convention>

NOT_OFFERED = {
    "mask loss huber_papereq3": "the survey's printed equation of the Huber loss is "
    "discontinuous, and negative for small delta",
    "mask loss LCBDcand other than logcosh(1*bce+1*dice)": "guesses at an unpublished definition",
    "mask loss values on unbounded_huber": "probabilities outside 0 to 1, which no logit gives",
}

# (pattern of the stored name, expression); groups of the pattern fill the expression.
EXPRESSIONS = [
    (r"bce", "bce"),
    (r"mse", "mse"),
    (r"wbce_alpha_([\d.]+)", "weighted_bce(alpha={0})"),
    (r"focal_a([\d.]+|None)_g([\d.]+)", "focal(alpha={0}, gamma={1})"),
    (r"huber_(0\.[\d]+)", "huber(delta={0})"),
    (r"huber_([1-9][\d.]*)", "survey_huber(delta={0})"),
    (r"dice_(lin|sq)_s([\de.-]+)_[\de.-]+", "dice(denominator='{form}', smooth={1})"),
    (
        r"logcoshdice_(lin|sq)_s([\de.-]+)_[\de.-]+",
        "log_cosh_dice(denominator='{form}', smooth={1})",
    ),
    (
        r"LCBDcand_logcosh\(1\*bce\+1\*dice_(lin|sq)_s([\de.-]+)\)",
        "log_cosh_bce_dice(denominator='{form}', smooth={1})",
    ),
    (r"logcosh_bce_pix", "log_cosh_bce"),
    (r"survey_pixel_dice_s0\.1", "survey_dice"),
    (r"survey_pixel_logcoshdice_s0\.1", "survey_log_cosh_dice"),
    (r"tversky_fp([\d.]+)_fn([\d.]+)_s([\de.-]+)", "tversky(alpha={0}, beta={1}, smooth={2})"),
    (
        r"focaltversky_fp([\d.]+)_fn([\d.]+)_s([\de.-]+)_gamma([\d.]+)",
        "focal_tversky(alpha={0}, beta={1}, smooth={2}, gamma={3})",
    ),
    (r"lovasz_hinge_logits", "lovasz(kind='hinge')"),
    (r"boundary_(?:monai|liviaets|symmetric)", "boundary(constant=False)"),
]


@dataclass(frozen=True)
class StoredInputs:
    """float64 logits, target and probabilities, each (N,H,W), and signed distances (N,H,W) by
    convention."""

    name: str
    logits: Tensor
    target: Tensor
    prob: Tensor
    distances: dict[str, Tensor]


def cases(root: Path) -> list[Case]:
    """Every stored loss that has an expression here."""
    folder = root.parent / "assigners_losses" / "5_mask_losses"
    if not (folder / "expected.json").exists() or not (folder / "inputs.npz").exists():
        return []
    found = []
    stored = _expected(folder)
    for name in dict.fromkeys(name for losses in stored.values() for name in losses):
        text = expression(name)
        if text is None:
            continue
        found.append(
            Case(
                f"mask loss {name} = {text}: values",
                partial(_values_error, folder, name, text),
                VALUES,
            )
        )
        if any(key.partition("/")[2] == name for key in _gradients(folder)):
            found.append(
                Case(
                    f"mask loss {name} = {text}: gradients",
                    partial(_gradients_error, folder, name, text),
                    GRADIENTS,
                )
            )
        found.append(
            Case(f"mask loss {name} = {text}: finite", partial(_not_finite, folder, name, text), 0)
        )
    found.append(
        Case("mask loss distances: signed_distance_map", partial(_distance_error, folder), 1e-6)
    )
    return found


def expression(name: str) -> str | None:
    """The stored loss as an expression, every term over the whole map; None if it is not
    offered."""
    if match := re.fullmatch(r"wbce_posweight_([\d.]+)", name):
        w = float(match[1])
        return f"{1 + w!r}*weighted_bce(alpha={w / (1 + w)!r}, region='image')"
    for pattern, text in EXPRESSIONS:
        if match := re.fullmatch(pattern, name):
            # stored as 4/3
            groups = ["1.3333333333333333" if g == "1.333" else g for g in match.groups()]
            text = text.format(*groups, form=FORMS.get(groups[0]) if groups else None)
            return (
                f"{text[:-1]}, region='image')" if text.endswith(")") else f"{text}(region='image')"
            )
    return None


@cache
def _expected(folder: Path) -> dict:
    return json.loads((folder / "expected.json").read_text())


@cache
def _gradients(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "gradients_of_mean.npz"
    return dict(np.load(path)) if path.exists() else {}


@cache
def _inputs(folder: Path) -> dict[str, StoredInputs]:
    arrays = np.load(folder / "inputs.npz")
    found = {}
    for name in dict.fromkeys(
        key.partition("/")[0] for key in arrays.files if key.endswith("/prob")
    ):
        prob = torch.from_numpy(arrays[f"{name}/prob"]).double()
        stored = f"{name}/logits"
        logits = (
            torch.from_numpy(arrays[stored])
            if stored in arrays
            else prob.logit().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        )
        distances = {
            key.rpartition("_")[2]: torch.from_numpy(arrays[key]).double()
            for key in arrays.files
            if key.startswith(f"{name}/{DISTANCES}")
        }
        found[name] = StoredInputs(
            name,
            logits.double(),
            torch.from_numpy(arrays[f"{name}/target"]).double(),
            prob,
            distances,
        )
    return found


def _apply(loss: MaskLoss, given: StoredInputs, stored: str, logits: Tensor) -> Tensor:
    """(N,) values; NaN if the inputs lack the distances that the stored value was made from."""
    convention = stored.rpartition("_")[2] if stored.startswith("boundary_") else "monai"
    if "distance" in loss.needs and convention not in given.distances:
        return logits.new_full((logits.shape[0],), torch.nan)
    boxes = logits.new_tensor([[0, 0, 1, 1]]).expand(logits.shape[0], 4)
    distance = given.distances.get(convention)
    return loss(
        logits,
        given.target.to(logits.dtype),
        boxes,
        extras={} if distance is None else {"distance": distance},
    )


def _smooth(folder: Path, stored: str) -> list[StoredInputs]:
    """The inputs without probabilities of exactly 0 or 1 that have a value of this loss."""
    # an artefact there, see the reference's README
    full = ("full_target", "empty_normal_full") if stored == "boundary_liviaets" else ()
    found = [
        _inputs(folder)[name]
        for name in SMOOTH_INPUTS
        if stored in _expected(folder).get(name, {}) and name not in full
    ]
    if stored.startswith("boundary_"):
        found = [given for given in found if stored.rpartition("_")[2] in given.distances]
    return found


def _values_error(folder: Path, stored: str, text: str) -> float:
    loss, errors = build_mask_loss(text), []
    for given in _smooth(folder, stored):
        expected = _expected(folder)[given.name][stored]
        value = _apply(loss, given, stored, given.logits)
        per_instance = expected.get("per_instance", expected.get("per_instance_mean"))
        errors += [
            _relative(float(ours), theirs) for ours, theirs in zip(value, per_instance, strict=True)
        ]
        errors.append(_relative(float(value.mean()), expected["mean"]))
        if "with_constant_term_mean" in expected:
            constant = build_mask_loss(text.replace("constant=False, ", ""))
            errors.append(
                _relative(
                    float(_apply(constant, given, stored, given.logits).mean()),
                    expected["with_constant_term_mean"],
                )
            )
    return max(errors, default=float("inf"))


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1.0)


def _gradients_error(folder: Path, stored: str, text: str) -> float:
    loss, errors = build_mask_loss(text), []
    for given in _smooth(folder, stored):
        if f"{given.name}/{stored}" not in _gradients(folder):
            continue
        logits = given.logits.clone().requires_grad_()
        (ours,) = torch.autograd.grad(_apply(loss, given, stored, logits).mean(), logits)
        theirs = torch.from_numpy(_gradients(folder)[f"{given.name}/{stored}"]).double()
        if stored != "lovasz_hinge_logits":
            theirs = theirs * given.prob * (1 - given.prob)
        defined = ~theirs.isnan()
        errors.append(
            float(
                (ours - theirs)[defined].abs().max() / theirs[defined].abs().max().clamp(min=1e-9)
            )
        )
    return max(errors, default=float("inf"))


def _not_finite(folder: Path, stored: str, text: str) -> int:
    """Entries of values and gradients that are not finite, on every stored input: in float64, in
    float32, and 1000 times as sure."""
    loss, wrong = build_mask_loss(text), 0
    for given in _inputs(folder).values():
        if stored.startswith("boundary_") and stored.rpartition("_")[2] not in given.distances:
            continue
        for logits in (given.logits, given.logits.float(), 1000 * given.logits):
            logits = logits.clone().requires_grad_()
            value = _apply(loss, given, stored, logits)
            (gradient,) = torch.autograd.grad(value.sum(), logits)
            wrong += int((~value.isfinite()).sum()) + int((~gradient.isfinite()).sum())
    return wrong


def _distance_error(folder: Path) -> float:
    """Our float32 maps against the stored ones of MONAI's convention, in pixels, relative to the
    farthest pixel."""
    pairs = [
        (signed_distance_map(given.target.bool()), given.distances["monai"])
        for given in _inputs(folder).values()
        if "monai" in given.distances
    ]
    return max(
        float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))
        for ours, theirs in pairs
    )
