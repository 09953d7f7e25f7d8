"""The five published networks: state dicts, forward passes, detections and masks, and the
deformable convolution by itself.

Weights come from the recipe, inputs are stored. A network runs once for all of its cases.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.resolve import load_config
from layers.boxes import decode, to_pixels
from yolact.build import build_model
from yolact.dcn import DeformConv2d
from yolact.model import Yolact
from yolact.outputs import Detections, Predictions
from yolact.postprocess import detect, predicted_mask_iou
from yolact.testing.recipe import make_state
from yolact.testing.reference_cases import Case

CONFIGS = (
    "yolact_resnet50",
    "yolact_base",
    "yolact_darknet53",
    "yolact_plus_resnet50",
    "yolact_plus_base",
)
STATE_DICTS = (*CONFIGS, "yolact_im700", "yolact_resnet50_pascal")
OUTPUTS = {
    "loc": "box_deltas",
    "conf_logits": "class_logits",
    "mask": "mask_coeffs",
    "proto": "prototypes",
    "segm": "semantic_logits",
}
VARIANTS: dict[str, dict] = {  # stored name: arguments of detect
    "fast": {},
    "fast_t25": {"score_threshold": 0.25},
    "fast_iou30": {"iou_threshold": 0.3},
    "cc": {"nms": "cross_class", "max_detections": 200},
    "trad": {"nms": "traditional"},
    "trad_t25": {"nms": "traditional", "score_threshold": 0.25},
}
NET, MASKS = 1e-4, 1e-3  # network values; share of mask pixels


def cases(root: Path) -> list[Case]:
    found = []
    for name in STATE_DICTS:
        if (root / "net" / f"state_dict_{name}.json").exists():
            found.append(
                Case(f"{name}: state dict", partial(_state_dict_mismatches, root, name), 0)
            )
    for name in CONFIGS:
        path = root / "net" / f"net_{name}.npz"
        if path.exists():
            found += _network_cases(root, name, set(np.load(path).files))
        if (root / "net" / f"net550_{name}.npz").exists():
            found += _full_size_cases(root, name)
    if (root / "preprocess" / "dcn.npz").exists():
        found += [
            Case(f"deformable convolution by {backend}", partial(_dcn_error, root, backend), 1e-5)
            for backend in ("torchvision", "grid_sample")
        ]
    return found


@dataclass
class NetRun:
    """A network with the recipe's weights, its stored numbers, and what it computes from the stored
    input."""

    model: Yolact
    config_name: str
    stored: dict[str, np.ndarray]
    facts: dict
    input: Tensor
    train: Predictions
    eval: Predictions
    features: dict[str, Tensor]


def recipe_model(root: Path, name: str, max_size: int) -> Yolact:
    model = build_model(load_config(name, [f"model.max_size={max_size}"]))
    seed = json.loads((root / "net" / f"net_{name}.json").read_text())["weight_seed"]
    model.load_state_dict(
        make_state({key: tuple(value.shape) for key, value in model.state_dict().items()}, seed)
    )
    return model


@lru_cache(maxsize=1)
def _run(root: Path, name: str) -> NetRun:
    stored = dict(np.load(root / "net" / f"net_{name}.npz"))
    facts = json.loads((root / "net" / f"net_{name}.json").read_text())
    image = torch.from_numpy(_shared_array(root, name, "input_q512").astype(np.float32) / 512)
    model = recipe_model(root, name, facts["max_size"])
    features: dict[str, Tensor] = {}
    hooks = [
        model.backbone.register_forward_hook(
            lambda _, __, out: features.update(zip(("C3", "C4", "C5"), out, strict=True))
        ),
        model.fpn.register_forward_hook(
            lambda _, __, out: features.update(
                zip(("P3", "P4", "P5", "P6", "P7"), out, strict=True)
            )
        ),
    ]
    with torch.no_grad():
        evaluated = model.eval()(image)
        model.freeze_batchnorm(True)
        trained = model.train()(image)
    for hook in hooks:
        hook.remove()
    return NetRun(model, name, stored, facts, image, trained, evaluated, features)


def _shared_array(root: Path, name: str, key: str) -> np.ndarray:
    """The array of this config or of the first that holds it: ResNets of one size read the same
    input, and all the same image."""
    for other in (
        name,
        *(c for c in CONFIGS if c.startswith("yolact_plus") == name.startswith("yolact_plus")),
        *CONFIGS,
    ):
        path = root / "net" / f"net_{other}.npz"
        if path.exists() and key in (archive := np.load(path)).files:
            return archive[key]
    raise FileNotFoundError(f"no net_*.npz under {root} holds {key}")


def _network_cases(root: Path, name: str, keys: set[str]) -> list[Case]:
    def case(label: str, function, tolerance: float, *needed: str) -> list[Case]:
        return (
            [Case(f"{name}: {label}", partial(function, root, name), tolerance)]
            if keys.issuperset(needed)
            else []
        )

    found = case("features", _feature_error, NET) if any(key[0] in "CP" for key in keys) else []
    found += case("outputs, frozen batch norm", _output_error, NET)
    found += case("outputs in eval mode", _eval_error, NET)
    found += case("anchors", _anchor_error, 1e-6, "priors")
    for variant in VARIANTS:
        if f"det_{variant}_class" in keys:
            found.append(
                Case(
                    f"{name}: survivors of {variant}",
                    partial(_survivor_mismatches, root, name, variant),
                    0,
                )
            )
            found.append(
                Case(
                    f"{name}: detections by {variant}",
                    partial(_detection_error, root, name, variant),
                    NET,
                )
            )
    for nms in ("fast", "trad"):
        found += [
            Case(f"{name}: {nms} boxes and labels", partial(_box_mismatches, root, name, nms), 0),
            Case(f"{name}: {nms} scores", partial(_score_error, root, name, nms), NET),
        ]
        found += [
            Case(
                f"{name}: {nms} masks {'cropped' if crop else 'whole'}",
                partial(_mask_error, root, name, nms, crop),
                MASKS,
            )
            for crop in (True, False)
        ]
    found += case("mask-IoU net", _mask_iou_error, NET, "maskiou_in_first10", "maskiou_out_first10")
    found += case("batch statistics", _batch_statistics_error, NET, "bn2_loc_s8")
    return found


def _state_dict_mismatches(root: Path, name: str) -> int:
    official = {
        key: tuple(value[0])
        for key, value in json.loads((root / "net" / f"state_dict_{name}.json").read_text()).items()
    }
    ours = {
        key: tuple(value.shape)
        for key, value in build_model(load_config(name)).state_dict().items()
    }
    return len(set(official.items()) ^ set(ours.items()))


def _feature_error(root: Path, name: str) -> float:
    run, worst = _run(root, name), 0.0
    for key in run.stored:
        if key[0] in "CP" and key[1] in "34567":
            level, step = key.split("_")[0], int(key.split("_")[1][1:])
            values = (
                run.features[level].mean((0, 2, 3))
                if key.endswith("chmean")
                else run.features[level][:, ::step]
            )
            worst = max(worst, _difference(values, run.stored[key]))
    return worst


def _output_error(root: Path, name: str) -> float:
    """train_<output>[_sN], where sN is a stride over anchors (over channels for segm), and sums
    over the last axis for all anchors."""
    run, worst = _run(root, name), 0.0
    for key, expected in run.stored.items():
        match = re.fullmatch(r"train_(.+?)(?:_(rowsum|s\d+))?", key)
        if not match:
            continue
        output, suffix = match[1], match[2] or "s1"
        values = getattr(run.train, OUTPUTS[output])
        if suffix == "rowsum":  # a sum of up to 81 values: its error per value
            worst = max(worst, _difference(values.sum(-1), expected) / values.shape[-1])
        else:
            worst = max(worst, _difference(values[:, :: int(suffix[1:])], expected))
    return worst


def _eval_error(root: Path, name: str) -> float:
    """Eval mode: probabilities, and boxes and coefficients of the anchors that enter
    suppression."""
    run, worst = _run(root, name), 0.0
    probabilities, rows = run.eval.class_logits.softmax(-1), run.stored["det_in_idx"]
    for key, expected in run.stored.items():
        if key.startswith("eval_conf_softmax_s"):
            worst = max(
                worst, _difference(probabilities[:, :: int(key.rsplit("s", 1)[1])], expected)
            )
    boxes = decode(run.eval.box_deltas[0, rows], run.eval.anchors[rows])
    return max(
        worst,
        _difference(probabilities[0, rows], run.stored["det_in_conf"]),
        _difference(boxes, run.stored["det_in_boxes"]),
        _difference(run.eval.mask_coeffs[0, rows], run.stored["det_in_coeff"]),
        _difference(run.eval.prototypes, run.train.prototypes.numpy()),
    )


def _anchor_error(root: Path, name: str) -> float:
    run = _run(root, name)
    return _difference(run.train.anchors, run.stored["priors"])


def _detections(run: NetRun, **arguments) -> Detections:
    size = (run.facts["orig_h"], run.facts["orig_w"])
    return detect(
        run.eval,
        [size],
        mask_iou_net=run.model.mask_iou_net,
        input_size=run.facts["max_size"],
        **arguments,
    )[0]


def _survivor_mismatches(root: Path, name: str, variant: str) -> int:
    """Anchors and labels of the survivors, in order; anchors are recognised by their
    coordinates."""
    run = _run(root, name)
    found = _detections(run, **VARIANTS[variant])
    labels, rows = run.stored[f"det_{variant}_class"], run.stored[f"det_{variant}_row"]
    if len(found) != len(labels):
        return abs(len(found) - len(labels))
    candidates = to_pixels(
        torch.from_numpy(run.stored["det_in_boxes"]), (run.facts["orig_h"], run.facts["orig_w"])
    )
    nearest = torch.cdist(found.boxes, candidates).argmin(1)
    # clipping can make two anchors equal
    distance = (candidates[nearest] - candidates[torch.from_numpy(rows).long()]).abs().amax(1)
    return int(((found.labels != torch.from_numpy(labels).long()) | (distance > 1e-2)).sum())


def _detection_error(root: Path, name: str, variant: str) -> float:
    """Scores, and boxes relative to the image."""
    run = _run(root, name)
    found = _detections(run, **VARIANTS[variant])
    size = (run.facts["orig_h"], run.facts["orig_w"])
    expected = to_pixels(torch.from_numpy(run.stored[f"det_{variant}_box"]), size)
    if len(found) != len(expected):
        return float("inf")
    return max(
        _difference(found.scores, run.stored[f"det_{variant}_score"]),
        _difference(found.boxes / max(size), expected.numpy() / max(size)),
    )


def _shown(root: Path, name: str, nms: str, crop: bool = True) -> tuple[NetRun, Detections]:
    """What the original's postprocess keeps above its display threshold."""
    run = _run(root, name)
    found = _detections(run, nms={"fast": "fast", "trad": "traditional"}[nms], crop=crop)
    return run, found.select(found.scores > run.facts[f"post_{nms}_score_threshold"])


def _box_mismatches(root: Path, name: str, nms: str) -> int:
    run, found = _shown(root, name, nms)
    return _label_and_box_mismatches(
        found, run.stored[f"post_{nms}_class"], run.stored[f"post_{nms}_box"]
    )


def _label_and_box_mismatches(found: Detections, labels: np.ndarray, boxes: np.ndarray) -> int:
    """The original truncates its boxes; a coordinate within 0.01 pixels of the next integer may
    truncate to either side."""
    if len(found) != len(labels):
        return abs(len(found) - len(labels))
    expected = torch.from_numpy(boxes).float()
    fits = ((found.boxes - expected) > -0.01) & ((found.boxes - expected) < 1.01)
    return int((found.labels != torch.from_numpy(labels).long()).sum() + (~fits).sum())


def _score_error(root: Path, name: str, nms: str) -> float:
    run, found = _shown(root, name, nms)
    return _scores_difference(found, run.stored, f"post_{nms}")


def _scores_difference(found: Detections, stored: dict[str, np.ndarray], prefix: str) -> float:
    if f"{prefix}_score" in stored:
        return _difference(found.scores, stored[f"{prefix}_score"])
    return max(
        _difference(found.scores, stored[f"{prefix}_score_box"]),
        _difference(found.mask_scores, stored[f"{prefix}_score_mask"]),
    )


def _mask_error(root: Path, name: str, nms: str, crop: bool) -> float:
    run, found = _shown(root, name, nms, crop)
    prefix = f"post_{nms}" + ("" if crop else "_nocrop")
    packed = run.stored.get(f"{prefix}_masks_packed")
    differing = _mask_difference(found, packed) if packed is not None else 0.0
    areas = found.masks.flatten(1).sum(1).numpy()
    return max(
        differing,
        float(np.abs(areas - run.stored[f"{prefix}_area"]).max() / found.masks[0].numel()),
    )


def _mask_difference(found: Detections, packed: np.ndarray) -> float:
    """Share of differing pixels in the worst mask, of those that are stored."""
    pixels = found.masks[0].numel()
    expected = torch.from_numpy(np.unpackbits(packed, axis=1, count=pixels).astype(bool))
    return float((found.masks[: len(expected)].flatten(1) != expected).float().mean(1).max())


def _mask_iou_error(root: Path, name: str) -> float:
    run = _run(root, name)
    net = run.model.mask_iou_net
    assert net is not None
    masks, expected = (
        torch.from_numpy(run.stored["maskiou_in_first10"]),
        run.stored["maskiou_out_first10"],
    )
    with torch.no_grad():
        each = [
            predicted_mask_iou(net, masks, torch.full((len(masks),), label))
            for label in (0, 41, 79)
        ]
    return _difference(torch.stack(each, 1), expected[:, [0, 41, 79]])


def _batch_statistics_error(root: Path, name: str) -> float:
    """A step in training mode with batch statistics: outputs, and running statistics after it."""
    run = _run(root, name)
    model = recipe_model(root, name, run.facts["max_size"]).train()
    with torch.no_grad():
        out = model(torch.cat((run.input, 0.5 * run.input.flip(-1))))
    worst = max(
        _difference(out.box_deltas[:, ::8], run.stored["bn2_loc_s8"]),
        _difference(out.prototypes[:, ::4, ::4], run.stored["bn2_proto_s4"]),
    )
    state = model.state_dict()
    return max(
        [worst]
        + [
            _difference(state[key.removeprefix("bn2_after_")], expected)
            for key, expected in run.stored.items()
            if key.startswith("bn2_after_")
        ]
    )


def _full_size_cases(root: Path, name: str) -> list[Case]:
    return [
        Case(f"{name} at 550: outputs", partial(_full_size_output_error, root, name), NET),
        Case(f"{name} at 550: detections", partial(_full_size_mismatches, root, name), 0),
        Case(f"{name} at 550: scores", partial(_full_size_score_error, root, name), NET),
        Case(f"{name} at 550: masks", partial(_full_size_mask_error, root, name), MASKS),
    ]


@lru_cache(maxsize=1)
def _full_size_run(
    root: Path, name: str
) -> tuple[dict[str, np.ndarray], Tensor, Predictions, Detections]:
    stored = dict(np.load(root / "net" / f"net550_{name}.npz"))
    image = torch.from_numpy(_shared_array(root, name, "image_u8_bgr"))
    height, width = image.shape[:2]
    cfg = load_config(name)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (cfg.model.pixel_mean, cfg.model.pixel_std)
    )
    rgb = image.flip(-1).permute(2, 0, 1).float()[None]
    resized = (F.interpolate(rgb, (550, 550), mode="bilinear", align_corners=False) - mean) / std
    model = recipe_model(root, name, 550)
    model.freeze_batchnorm(True)
    with torch.no_grad():
        predictions = model.train()(resized)
    found = detect(predictions, [(height, width)], mask_iou_net=model.mask_iou_net, input_size=550)[
        0
    ]
    return stored, resized, predictions, found


def _full_size_output_error(root: Path, name: str) -> float:
    stored, image, out, _ = _full_size_run(root, name)
    step = int(stored["stride"])
    assert out.semantic_logits is not None
    pairs = [
        (image[:, :, ::11, ::11], "input_s11"),
        (out.box_deltas[:, ::step], "train_loc_strided"),
        (out.class_logits[:, ::step], "train_conf_strided"),
        (out.mask_coeffs[:, ::step], "train_mask_strided"),
        (out.prototypes[:, ::6, ::6], "train_proto_s6"),
        (out.semantic_logits[:, ::8, ::5, ::5], "train_segm_s8_s5"),
    ]
    return max(_difference(values, stored[key]) for values, key in pairs)


def _full_size_mismatches(root: Path, name: str) -> int:
    stored, _, _, found = _full_size_run(root, name)
    if len(found) != len(stored["det_class"]):
        return abs(len(found) - len(stored["det_class"]))
    _, height, width = found.masks.shape
    expected = to_pixels(torch.from_numpy(stored["det_box"]), (height, width))
    moved = int(
        ((found.boxes - expected).abs() > 1e-2).sum()
        + (found.labels != torch.from_numpy(stored["det_class"]).long()).sum()
    )
    shown = found.select(found.scores > float(stored["post_score_threshold"]))
    return moved + _label_and_box_mismatches(shown, stored["post_class"], stored["post_box"])


def _full_size_score_error(root: Path, name: str) -> float:
    stored, _, _, found = _full_size_run(root, name)
    shown = found.select(found.scores > float(stored["post_score_threshold"]))
    return max(
        _difference(found.scores, stored["det_score"]), _scores_difference(shown, stored, "post")
    )


def _full_size_mask_error(root: Path, name: str) -> float:
    stored, _, _, found = _full_size_run(root, name)
    return _mask_difference(
        found.select(found.scores > float(stored["post_score_threshold"])),
        stored["post_masks_packed"],
    )


def _dcn_error(root: Path, backend: str) -> float:
    stored = dict(np.load(root / "preprocess" / "dcn.npz"))
    worst = 0.0
    for case in ("case0", "case1"):
        tensors = {
            key.removeprefix(f"{case}_"): torch.from_numpy(value)
            for key, value in stored.items()
            if key.startswith(case)
        }
        out_channels, in_channels = tensors["weight"].shape[:2]
        layer = DeformConv2d(
            in_channels, out_channels, stride=int(tensors["stride"]), backend=backend
        )
        layer.load_state_dict({key: tensors[key] for key in layer.state_dict()})
        with torch.no_grad():
            worst = max(
                worst,
                _difference(layer.conv_offset_mask(tensors["x"]), stored[f"{case}_offset_mask"]),
                _difference(layer(tensors["x"]), stored[f"{case}_y"]),
            )
    return worst


def _difference(values: Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    if tuple(values.shape) != expected.shape:
        return float("inf")
    return float((values - torch.from_numpy(expected)).abs().max()) if expected.size else 0.0
