"""What the model returns and what detection returns: the one place that states every output shape.

B images, A anchors, C foreground classes, K prototypes, H x W prototype map, S network input size,
D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layers.targets import Targets
from yolact.files import writing
from yolact.rle import MaskRuns

if TYPE_CHECKING:
    import supervision

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


class Detections:
    """Final detections of one image of h x w pixels, by falling score.

    boxes        (D,4) float XYXY in pixels of the original image, clipped, not rounded
    labels       (D,) int64, 0-based
    scores       (D,) class score; ranks box AP
    mask_scores  (D,) scores x predicted mask IoU, or scores where the model has no re-scoring;
                 ranks mask AP and pictures
    masks        (D,h,w) bool, made at each access: D x h x w bytes
    runs         the masks as they are kept, by their runs: runs.mask(i) is one of them
    class_names  what labels are called; empty where the maker did not know
    image        (h,w,3) uint8 RGB that they were found in, where it was kept
    track_ids    (D,) int64, the same of an instance in all frames of a video, from 1 on; 0 = in no
                 track. None where nothing was tracked

        found = yolact.load("runs/quickstart/1")("picture.jpg")
        [found.class_names[label] for label in found.labels]
        found.draw()                    # the picture with masks, boxes and labels
        found.to_coco(image_id=7)       # COCO results
        found.save_masks("masks.png")   # 0 = ground, 1 = the best, 2 = the next ...
        found.to_supervision()          # supervision.Detections
    """

    def __init__(
        self,
        boxes: Tensor,
        labels: Tensor,
        scores: Tensor,
        mask_scores: Tensor,
        masks: Tensor | MaskRuns,
        class_names: tuple[str, ...] = (),
        image: np.ndarray | None = None,
        track_ids: Tensor | None = None,
    ) -> None:
        self.boxes, self.labels, self.scores, self.mask_scores = boxes, labels, scores, mask_scores
        self.runs = masks if isinstance(masks, MaskRuns) else MaskRuns.of(masks)
        self.class_names, self.image, self.track_ids = class_names, image, track_ids

    @property
    def masks(self) -> Tensor:
        """(D,h,w) bool on the device of the boxes. It is made anew each time, so that changes to
        it are lost; of large images, take one mask at a time: runs.mask(i)."""
        return self.runs.stack(self.boxes.device)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __repr__(self) -> str:
        height, width = self.runs.size
        return f"Detections({len(self)} in {width}x{height})"

    def select(self, index: Tensor) -> Detections:
        """Those that `index` picks: (D,) bool, or their numbers in any order."""
        return self._map(lambda values: values[index], self.runs.select(index))

    def to(self, device: torch.device | str) -> Detections:
        return self._map(lambda values: values.to(device), self.runs)

    def _map(self, change: Callable[[Tensor], Tensor], runs: MaskRuns) -> Detections:
        return Detections(
            change(self.boxes),
            change(self.labels),
            change(self.scores),
            change(self.mask_scores),
            runs,
            self.class_names,
            self.image,
            None if self.track_ids is None else change(self.track_ids),
        )

    def ranked(self) -> list[int]:
        """Numbers of the detections by falling mask score: the order of pictures and mask files."""
        return self.mask_scores.argsort(descending=True, stable=True).tolist()

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
        shapes: list[Any] = found.runs.to_coco() if kind == "mask" else found._xywh()
        scores = found.mask_scores if kind == "mask" else found.scores
        name = "segmentation" if kind == "mask" else "bbox"
        return [
            {"image_id": image_id, "category_id": categories[label], name: shape, "score": score}
            for label, shape, score in zip(found.labels.tolist(), shapes, scores.tolist())
        ]

    def _xywh(self) -> list[list[float]]:
        corners = self.boxes.cpu().double().round(decimals=3)
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
        numbers = np.zeros(self.runs.size, np.uint16)  # (h,w)
        order = self.ranked()
        for rank in range(len(order), 0, -1):  # the best comes last, over all others
            top, left, pixels = self.runs.window(order[rank - 1])
            rows, columns = pixels.shape
            numbers[top : top + rows, left : left + columns][pixels] = rank
        _, data = cv2.imencode(".png", numbers)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(data.tobytes())
            partial.replace(path)
        return path

    def to_supervision(self) -> supervision.Detections:
        """The same as supervision.Detections, for its annotators and tools: confidence is the mask
        score; data holds class_name, and score, the class score. Makes the stack of masks.

        ValueError where the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ValueError(
                f"to_supervision() needs the package supervision ({error}): pip install supervision"
            ) from error
        labels = self.labels.cpu().numpy()
        names = [self.class_names[i] if self.class_names else str(i) for i in labels.tolist()]
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            mask=self.runs.stack().numpy(),
            confidence=self.mask_scores.cpu().numpy(),
            class_id=labels,
            tracker_id=None if self.track_ids is None else self.track_ids.cpu().numpy(),
            data={"class_name": np.array(names), "score": self.scores.cpu().numpy()},
        )
