"""What the model returns and what detection returns: the one place that states every output shape.

B images, A anchors, C foreground classes, K prototypes, H x W prototype map, S network input size,
D detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layers.targets import Targets
from yolact.files import writing
from yolact.rle import encode_masks

__all__ = ["Detections", "Predictions", "Targets"]


@dataclass
class Predictions:
    """Raw output of the model, the same fields in train and eval mode but semantic_logits.

    box_deltas       (B,A,4) offsets to the anchors, variances 0.1 and 0.2 (see layers.boxes.decode)
    class_logits     (B,A,1+C), column 0 = background, under softmax; (B,A,C) under sigmoid
    mask_coeffs      (B,A,K) after tanh
    prototypes       (B,H,W,K) after ReLU
    anchors          (A,4) cx,cy,w,h relative to the input
    semantic_logits  (B,C,h,w) in training, None in eval mode
    level_sizes      anchors on each pyramid level P3..P7; empty = unknown, read as one level
    sigmoid          which of the two forms class_logits have
    """

    box_deltas: Tensor
    class_logits: Tensor
    mask_coeffs: Tensor
    prototypes: Tensor
    anchors: Tensor
    semantic_logits: Tensor | None = None
    level_sizes: tuple[int, ...] = ()
    sigmoid: bool = False

    def class_scores(self) -> Tensor:
        """(B,A,C) foreground probabilities; they add up to at most 1 under softmax only."""
        return (
            self.class_logits.sigmoid() if self.sigmoid else self.class_logits.softmax(-1)[..., 1:]
        )


@dataclass
class Detections:
    """Final detections of one image of h x w pixels, by falling score.

    boxes        (D,4) float XYXY in pixels of the original image, clipped, not rounded
    labels       (D,) int64, 0-based
    scores       (D,) class score; ranks box AP
    mask_scores  (D,) scores x predicted mask IoU, or scores where the model has no re-scoring;
                 ranks mask AP and pictures
    masks        (D,h,w) bool
    class_names  what labels are called; empty where the maker did not know
    image        (h,w,3) uint8 RGB that they were found in, where it was kept

        found = yolact.load("runs/quickstart/1")("picture.jpg")
        [found.class_names[label] for label in found.labels]
        found.draw()                    # the picture with masks, boxes and labels
        found.to_coco(image_id=7)       # COCO results
        found.save_masks("masks.png")   # 0 = ground, 1 = the best, 2 = the next ...
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_scores: Tensor
    masks: Tensor
    class_names: tuple[str, ...] = ()
    image: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def select(self, index: Tensor) -> Detections:
        """Those that `index` picks: (D,) bool, or their numbers in any order."""
        return self._map(lambda values: values[index])

    def to(self, device: torch.device | str) -> Detections:
        return self._map(lambda values: values.to(device))

    def _map(self, change) -> Detections:
        names = ("boxes", "labels", "scores", "mask_scores", "masks")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def draw(
        self,
        image: np.ndarray | None = None,
        *,
        score_threshold: float = 0.15,
        top_k: int | None = 15,
        **parts: Any,
    ) -> np.ndarray:
        """(h,w,3) uint8 RGB: the picture with the best detections drawn into a copy of it.

        image            (h,w,3) uint8 RGB; None = the one that they were found in
        score_threshold  mask scores below it are not drawn; top_k: at most so many are
        parts            masks, boxes, labels, scores (True or False) and alpha, see draw_detections

        ValueError where no picture was kept and none is given.
        """
        from yolact.draw import draw_detections  # it knows this class

        image = self.image if image is None else image
        if image is None:
            raise ValueError("these detections keep no picture: give one, found.draw(image)")
        names = self.class_names or tuple(
            map(str, range(int(self.labels.max()) + 1 if self else 0))
        )
        return draw_detections(
            image, self, names, score_threshold=score_threshold, top_k=top_k, **parts
        )

    def to_coco(
        self,
        *,
        image_id: int | str = 0,
        kind: str = "mask",
        categories: Mapping[int, int | str] | None = None,
    ) -> list[dict[str, Any]]:
        """COCO results, which pycocotools' loadRes and json take: a list of {"image_id",
        "category_id", "score", and "segmentation" (RLE) or "bbox" (XYWH pixels, to 1/1000)}.

        kind        'mask', ranked by mask_scores, or 'box', ranked by scores: a list each
        categories  {label: category id of the annotation file}; None = label + 1. Labels that it
                    does not name are left out
        """
        if kind not in ("mask", "box"):
            raise ValueError(f"kind={kind!r}: use 'mask' or 'box'")
        found = self
        if categories is None:
            categories = {label: label + 1 for label in set(self.labels.tolist())}
        elif not all(named := [label in categories for label in self.labels.tolist()]):
            found = self.select(torch.tensor(named, device=self.labels.device))
        shapes: list[Any] = encode_masks(found.masks) if kind == "mask" else found._xywh()
        scores = found.mask_scores if kind == "mask" else found.scores
        name = "segmentation" if kind == "mask" else "bbox"
        return [
            {"image_id": image_id, "category_id": categories[label], name: shape, "score": score}
            for label, shape, score in zip(found.labels.tolist(), shapes, scores.tolist())
        ]

    def _xywh(self) -> list[list[float]]:
        corners = self.boxes.double().round(decimals=3)
        sides = (corners[:, 2:] - corners[:, :2]).round(decimals=3)
        return torch.cat([corners[:, :2], sides], 1).tolist()

    def save_masks(self, path: str | Path) -> Path:
        """Writes all masks into one PNG of h x w pixels of 16 bits, and returns its path: 0 is
        ground, n the n-th detection by mask score. Where masks overlap, the better one is on top.

        ValueError for another ending than .png; OSError where it cannot be written.
        """
        import cv2

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: masks are kept without loss: name a .png file")
        numbers = np.zeros(tuple(self.masks.shape[1:]), np.uint16)  # (h,w)
        order = self.mask_scores.argsort(descending=True, stable=True).tolist()
        for rank in range(len(order), 0, -1):  # the best comes last, over all others
            numbers[self.masks[order[rank - 1]].cpu().numpy()] = rank
        _, data = cv2.imencode(".png", numbers)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(data.tobytes())
            partial.replace(path)
        return path
