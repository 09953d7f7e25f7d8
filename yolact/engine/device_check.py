"""Does a device compute what the CPU does? Parts of training and prediction, on both in float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.resolve import load_config
from data.schema import Config
from layers.assign import assigner_names, build_assigner
from layers.losses.criterion import Criterion
from layers.masks import assemble, crop
from layers.nms import cross_class_fast_nms, fast_nms, traditional_nms
from layers.targets import Targets
from yolact.build import build_criterion, build_model
from yolact.cli import say
from yolact.engine.optim import build_optimizer
from yolact.outputs import Predictions

GUARDED = ("mps", "xpu")  # types of devices that nobody has tried this code on
SKIP = "YOLACT_SKIP_DEVICE_CHECK"
SIDE, IMAGES, INSTANCES, ROWS = 256, 2, 3, 200
SETTINGS = (
    f"model.max_size={SIDE}",
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
    "model.pretrained=none",
    "data.class_names=[a, b, c]",
    "loss.mask=bce + dice",  # sampled points and AdamW's first step would magnify rounding
    "loss.mask_target=binary",
    "loss.mask_stride=4",
    "train.optimizer=sgd",
)
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class DeviceRow:
    """A part, and by how much two devices differ in it.

    difference  the largest of |cpu - device| / max(1, largest |cpu|) over its tensors; of whole
                numbers, how many differ
    limit       the most that rounding may make
    error       why the device cannot do it; the difference is infinite then
    """

    name: str
    difference: float
    limit: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.difference <= self.limit  # not where it is nan

    def __str__(self) -> str:
        verdict = "ok" if self.ok else self.error or "DIFFERS"
        return f"{self.name:32} {self.difference:10.2g} {self.limit:10.2g}  {verdict}"


def check_device(device: torch.device, *, assigner: str | None = None) -> list[DeviceRow]:
    """A row for each part: those of prediction, each assigner, the losses and a training step.

    assigner  the one that is looked at; None = all, '' = prediction alone
    """
    rows = []
    for name, (part, limit) in _parts(assigner).items():
        with _full_precision():
            expected = part(torch.device("cpu"))
            try:
                found = {key: value.cpu() for key, value in part(device).items()}
            except (RuntimeError, TypeError, NotImplementedError) as error:
                reason = str(error).strip().partition("\n")[0]
                rows.append(DeviceRow(name, float("inf"), limit, f"cannot run: {reason}"))
                continue
        rows.append(DeviceRow(name, _difference(expected, found), limit))
    return rows


def refuse_wrong(device: torch.device, *, assigner: str = "") -> None:
    """ValueError where a device of GUARDED differs from the CPU in what a run needs: prediction,
    and with an assigner, training. The variable SKIP of the environment leaves it out."""
    if device.type not in GUARDED or os.environ.get(SKIP):
        return
    wrong = [row for row in check_device(device, assigner=assigner) if not row.ok]
    if wrong:
        raise ValueError(
            f"{device} does not compute what the CPU does ({', '.join(row.name for row in wrong)}; "
            f"yolact check-device {device.type} shows it): use --device=cpu, or set {SKIP}=1"
        )
    say(f"{device} computes what the CPU does; {SKIP}=1 leaves this check out", error=True)


def as_table(rows: list[DeviceRow]) -> str:
    """The rows under a heading, as text."""
    return "\n".join([f"{'part':32} {'difference':>10} {'limit':>10}", *map(str, rows)])


def _parts(assigner: str | None) -> dict[str, tuple[Callable[[torch.device], Values], float]]:
    """Name -> (what computes its tensors on a device, limit)."""
    cfg = load_config("yolact_plus_tiny", SETTINGS, check_names=False)
    parts: dict[str, tuple[Callable[[torch.device], Values], float]] = {
        "forward": (partial(_forward, cfg), 1e-4)
    }
    for nms in (fast_nms, cross_class_fast_nms, traditional_nms):
        parts[nms.__name__] = partial(_suppress, nms), 1e-5
    parts["mask assembly and crop"] = _crop, 1e-5
    if assigner == "":
        return parts
    for name in assigner_names() if assigner is None else [assigner]:
        parts[f"assigner {name}"] = partial(_assign, cfg, name), 1e-5
    parts["losses"] = partial(_losses, cfg), 1e-4
    parts["training step"] = partial(_step, cfg), 1e-4
    return parts


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, which rounds float32 to 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _difference(expected: Values, found: Values) -> float:
    """See DeviceRow."""
    largest = torch.zeros(())
    for key, value in expected.items():
        other = found[key]
        if value.shape != other.shape:
            return float("inf")
        if not value.is_floating_point():
            largest = torch.maximum(largest, (value != other).sum().float())
        elif value.numel():
            scale = value.abs().max().clamp(min=1)
            largest = torch.maximum(largest, (value - other).abs().max() / scale)  # nan stays
    return largest.item()


# ---------------------------------------------------------------- what is computed


def _draw(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from 0 to 1, drawn on the CPU."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _boxes(count: int, seed: int) -> Tensor:
    """(count,4) corners from 0 to 1, sides from 0.2 to 0.6."""
    middle, half = (
        0.3 + 0.4 * _draw(count, 2, seed=seed),
        0.1 + 0.2 * _draw(count, 2, seed=seed + 1),
    )
    return torch.cat([middle - half, middle + half], 1).clamp(0, 1)


def _targets(criterion: Criterion, device: torch.device) -> list[Targets]:
    """Of IMAGES images, INSTANCES rectangles each; the last of each image is a crowd."""
    found = []
    for image in range(IMAGES):
        boxes = _boxes(INSTANCES, 10 + 2 * image)
        masks = torch.zeros(INSTANCES, SIDE, SIDE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, (boxes * SIDE).round().int().tolist()):
            mask[y1:y2, x1:x2] = True
        labels = torch.arange(INSTANCES) % criterion.num_classes
        targets = Targets(boxes, labels, torch.arange(INSTANCES) == INSTANCES - 1, masks)
        for size in criterion.mask_sizes:
            targets.mask_at(*size)
        found.append(targets.to(device))
    return found


def _images(device: torch.device) -> Tensor:
    return (4 * _draw(IMAGES, 3, SIDE, SIDE) - 2).to(device)


def _predicted(predictions: Predictions, device: torch.device) -> Predictions:
    tensors = {key: value for key, value in vars(predictions).items() if isinstance(value, Tensor)}
    moved: dict[str, Any] = {key: value.detach().to(device) for key, value in tensors.items()}
    return replace(predictions, **moved)


def _forward(cfg: Config, device: torch.device) -> Values:
    with torch.no_grad():
        found = build_model(cfg).to(device).eval()(_images(device))
    return {k: v for k, v in vars(found).items() if isinstance(v, Tensor)}


def _suppress(nms: Callable[..., Any], device: torch.device) -> Values:
    kept = nms(
        _boxes(ROWS, 1).to(device),
        _draw(ROWS, 3).to(device),
        iou_threshold=0.5,
        score_threshold=0.05,
        top_k=ROWS,
        max_detections=100,
        image_size=SIDE,
    )
    return {str(i): value for i, value in enumerate(kept)}


def _crop(device: torch.device) -> Values:
    prototypes, coefficients = _draw(24, 24, 8), 4 * _draw(ROWS, 8) - 2
    masks = assemble(prototypes.to(device), coefficients.to(device))
    return {"masks": crop(masks, _boxes(ROWS, 1).to(device))}


def _assign(cfg: Config, name: str, device: torch.device) -> Values:
    model = build_model(cfg)
    criterion = build_criterion(cfg, model)
    criterion.assigner = build_assigner(name)
    anchors, level_sizes = model.anchors_for(SIDE)
    found = criterion.assign(anchors.to(device), level_sizes, _targets(criterion, device))
    return {"gt_index": found.gt_index, "overlap": found.overlap}


def _losses(cfg: Config, device: torch.device) -> Values:
    """Of predictions that the CPU has made."""
    model = build_model(cfg)
    with torch.no_grad():
        predictions = model(_images(torch.device("cpu")))
    criterion = build_criterion(cfg, model.to(device)).to(device)
    losses = _apply(criterion, _predicted(predictions, device))
    return {name: loss.detach() for name, loss in losses.items()}


def _apply(criterion: Criterion, predictions: Predictions) -> dict[str, Tensor]:
    """The losses, with the same subset of positives on every device."""
    logits = predictions.class_logits
    order = _draw(*logits.shape[:2]).to(logits.device)
    return criterion(predictions, _targets(criterion, logits.device), subset_order=order)


def _step(cfg: Config, device: torch.device) -> Values:
    """The loss, and weights after a step of the optimiser."""
    model = build_model(cfg).to(device)
    criterion = build_criterion(cfg, model).to(device)
    optimizer = build_optimizer(model.parameters(), cfg.train)
    loss = sum(_apply(criterion, model(_images(device))).values())
    assert isinstance(loss, Tensor)
    loss.backward()
    optimizer.step()
    return {"loss": loss.detach(), **{k: p.detach() for k, p in model.named_parameters()}}
