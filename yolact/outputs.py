"""What the model returns and what detection returns: the one place that states every output shape.

B images, A anchors, C foreground classes, K prototypes, H x W prototype map, S network input size,
D detections.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from layers.targets import Targets

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
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_scores: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def select(self, index: Tensor) -> Detections:
        return Detections(
            self.boxes[index],
            self.labels[index],
            self.scores[index],
            self.mask_scores[index],
            self.masks[index],
        )

    def to(self, device) -> Detections:
        return Detections(
            *(
                t.to(device)
                for t in (self.boxes, self.labels, self.scores, self.mask_scores, self.masks)
            )
        )
