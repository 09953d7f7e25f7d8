"""What is exported: the network alone, or everything up to the masks of what Fast NMS keeps.

B images, A anchors, C foreground classes, K prototypes, S network input size, D = eval.max_dets.
Both take images (B,3,S,S) float32 RGB, 0..255, resized to S x S; they are normalised inside.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.schema import Config
from layers.boxes import decode, pairwise_iou, to_pixels
from layers.masks import box_window, crop
from yolact.carafe import Carafe
from yolact.dcn import DeformConv2d
from yolact.model import Yolact

DCN_FORMS = ("grid_sample", "deformconv")
NO_SCORE = -1.0  # of what takes no part: below every probability


class Network(nn.Module):
    """Images -> box_deltas (B,A,4), class_logits (B,A,1+C) or (B,A,C), mask_coeffs (B,A,K),
    prototypes (B,H,W,K), anchors (A,4), as yolact.outputs.Predictions has them."""

    mean: Tensor
    std: Tensor
    outputs: tuple[str, ...] = (
        "box_deltas",
        "class_logits",
        "mask_coeffs",
        "prototypes",
        "anchors",
    )

    def __init__(self, model: Yolact, cfg: Config, dcn: str = "grid_sample") -> None:
        super().__init__()
        self.model = exportable(model, dcn)
        _add_constants(self, cfg)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.model((images - self.mean) / self.std)
        parts = (found.box_deltas, found.class_logits, found.mask_coeffs, found.prototypes)
        return (*parts, found.anchors * 1.0)  # a constant by itself could not be an output


class Detector(nn.Module):
    """Images -> what Fast NMS keeps, by falling score, padded to D:

    boxes         (B,D,4) float32 XYXY in pixels of the input, clipped
    scores        (B,D) class scores; 0 where padded
    mask_scores   (B,D) score x predicted mask IoU, or the score without re-scoring
    labels        (B,D) int64; -1 where padded
    coefficients  (B,D,K) of the prototypes
    masks         (B,D,S,S) uint8, 0 or 1, cut at the box; as eval.masks says
    count         (B,) int64: the first so many are detections
    """

    mean: Tensor
    std: Tensor
    outputs: tuple[str, ...] = (
        "boxes",
        "scores",
        "mask_scores",
        "labels",
        "coefficients",
        "masks",
        "count",
    )

    def __init__(self, model: Yolact, cfg: Config, dcn: str = "grid_sample") -> None:
        super().__init__()
        refuse_other_detection(cfg)
        self.model = exportable(model, dcn)
        _add_constants(self, cfg)
        self.eval_settings, self.side = cfg.eval, cfg.model.max_size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.model((images - self.mean) / self.std)
        boxes = decode(found.box_deltas, found.anchors)  # (B,A,4)
        rows, labels, scores = self._suppress(boxes, found.class_scores())
        valid = scores > NO_SCORE / 2  # (B,D)
        boxes, coefficients = _pick(boxes, rows), _pick(found.mask_coeffs, rows)
        prototypes = found.prototypes.flatten(1, 2)  # (B,HW,K)
        height, width = found.prototypes.shape[1:3]
        logits = (coefficients @ prototypes.transpose(1, 2)).unflatten(2, (height, width))
        soft = logits.sigmoid()  # (B,D,H,W)
        if self.eval_settings.crop:
            soft = crop(soft.flatten(0, 1), boxes.flatten(0, 1)).view_as(soft)
        scores = scores.clamp(min=0)
        mask_scores = scores
        if self.model.mask_iou_net is not None:
            iou = self.model.mask_iou_net(soft.flatten(0, 1)[:, None]).unflatten(0, labels.shape)
            mask_scores = scores * iou.gather(2, labels[..., None])[..., 0]
        side = (self.side, self.side)
        if self.eval_settings.masks == "subpixel":
            masks = F.interpolate(logits, side, mode="bicubic", align_corners=False) > 0
            if self.eval_settings.crop:
                # (ONNX Runtime has no masked_fill of bool)
                masks = masks & box_window(boxes.flatten(0, 1), side).view_as(masks)
        else:
            masks = F.interpolate(soft, side, mode="bilinear", align_corners=False) > 0.5
        return (
            to_pixels(boxes, side) * valid[..., None],
            scores,
            mask_scores * valid,
            torch.where(valid, labels, -1),
            coefficients * valid[..., None],
            (masks & valid[..., None, None]).to(torch.uint8),
            valid.sum(1),
        )

    def _suppress(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """layers.nms.fast_nms at a fixed size: boxes (B,A,4), scores (B,A,C) -> rows, labels,
        scores (B,D), the scores NO_SCORE where there is no detection."""
        e, (_, anchors, classes) = self.eval_settings, scores.shape
        k, d = min(e.top_k, anchors), e.max_dets
        enters = scores.amax(2, keepdim=True) > e.score_threshold
        ranked, rows = torch.where(enters, scores, NO_SCORE).transpose(1, 2).topk(k)  # (B,C,k)
        candidates = _pick(boxes, rows.flatten(1)).unflatten(1, (classes, k))  # (B,C,k,4)
        worst = pairwise_iou(candidates, candidates).triu(1).amax(-2)
        ranked = torch.where(worst <= e.iou_threshold, ranked, NO_SCORE).flatten(1)  # (B,Ck)
        ranked, rows = (F.pad(t, (0, max(0, d - classes * k))) for t in (ranked, rows.flatten(1)))
        if classes * k < d:
            real = torch.arange(ranked.shape[1], device=ranked.device) < classes * k
            ranked = torch.where(real, ranked, NO_SCORE)
        best, place = ranked.topk(d)
        return rows.gather(1, place), (place // k).clamp(max=classes - 1), best


def _add_constants(graph: nn.Module, cfg: Config) -> None:
    """Mean and deviation of pixels as buffers (3,1,1): constants that data.transforms.normalize
    makes while a graph is traced would stay in its cache, without values."""
    graph.register_buffer("mean", torch.tensor(cfg.model.pixel_mean)[:, None, None])
    graph.register_buffer("std", torch.tensor(cfg.model.pixel_std)[:, None, None])


def _pick(values: Tensor, rows: Tensor) -> Tensor:
    """(B,A,n) and (B,m) row numbers -> (B,m,n)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def refuse_other_detection(cfg: Config) -> None:
    """ValueError for detection settings that the graph with NMS does not hold."""
    if cfg.eval.nms != "fast":
        raise ValueError(
            f"eval.nms={cfg.eval.nms} cannot be exported with --nms: export without --nms, or with "
            "eval.nms=fast"
        )


def exportable(model: Yolact, dcn: str = "grid_sample") -> Yolact:
    """A copy in evaluation mode whose deformable and CARAFE layers run without loops and without
    autograd functions of their own: the same numbers, whatever the number of threads.

    dcn: 'grid_sample', or 'deformconv': torchvision's operator, which write_onnx() makes ONNX's.
    """
    if dcn not in DCN_FORMS:
        raise ValueError(f"dcn={dcn!r} is not one of {', '.join(DCN_FORMS)}")
    model = copy.deepcopy(model).float().eval()
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.backend = "plain" if dcn == "grid_sample" else "torchvision"
        elif isinstance(module, Carafe):
            module.plain = True
    return model
