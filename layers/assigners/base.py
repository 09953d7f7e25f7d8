"""What every anchor assigner is: its call, its result, and the registry of all.

B images, A anchors, M ground truths (padded to the largest image of a batch). The keyword-only
parameters of an assigner's class are what an expression, `max_iou(positive=0.6)`, can set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from layers.boxes import area, pairwise_intersection
from layers.records import Bound, Record, Registry

BACKGROUND = -1
IGNORED = -2
# (B,M,A) overlaps that a device holds at once, of one image at least; about 30 bytes each while the
# assignment is computed. A host holds a few rows of them, whatever M
CHUNK_ELEMENTS = 16 << 20
HOST_ELEMENTS = 3 << 16  # (M,A) overlaps held at once on a host: they stay in its cache
HOSTS = ("cpu",)  # types of devices where reading a value waits for nobody


def on_host(tensor: Tensor) -> bool:
    """Whether loops over values cost nothing but their own time."""
    return tensor.device.type in HOSTS


@dataclass
class Assignment:
    """One image: gt_index (A,) int64, >= 0 the ground truth, -1 background, -2 ignored; overlap
    (A,) float, by the assigner's measure, with the assigned ground truth, for the other anchors
    what the assigner says. A batch: the same with (B,A)."""

    gt_index: Tensor
    overlap: Tensor

    def image(self, b: int) -> Assignment:
        """One image of a batch."""
        return Assignment(self.gt_index[b], self.overlap[b])


class Assigner(ABC):
    """Base class. A subclass defines __call__ for one image; BatchAssigner is for those that take
    a batch at once.

    needs_masks   the assigner reads ground-truth masks
    prototype_masks  it reads them at prototype size instead of network input size, and anchors and
                     boxes in pixels of the prototypes
    scale_free    the unit of the boxes does not matter. The criterion then passes relative boxes as
                  they are: multiplied to pixels in float32 they move by an ulp, which decides
                  between anchors that cover a small box equally well
    expression    canonical expression, set by build_assigner: defaults left out
    """

    needs_masks: bool = False
    prototype_masks: bool = False
    scale_free: bool = False
    expression: str = ""

    @abstractmethod
    def __call__(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        gt_boxes: Tensor,
        gt_masks: Tensor | None,
        crowd_boxes: Tensor,
    ) -> Assignment:
        """One image: anchors (A,4) corners in pixels, level-major; gt_boxes (M,4), crowd_boxes
        (Mc,4) in pixels; gt_masks (M,h,w) bool."""

    def batch(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        boxes: Tensor,
        valid: Tensor,
        crowd: Tensor,
        masks: Sequence[Tensor] | None = None,
    ) -> Assignment:
        """A batch: boxes (B,M,4) pixels, valid (B,M) bool (False = padding), crowd (B,M) bool;
        masks: per image (M,h,w) bool, where rows after the image's own ground truths may be
        missing. gt_index (B,A) counts along the padded M axis."""
        results = []
        for b in range(boxes.shape[0]):
            rows = (valid[b] & ~crowd[b]).nonzero()[:, 0]  # (m,)
            gt_masks = None if masks is None else masks[b]
            if gt_masks is not None and len(rows) != len(gt_masks):  # a copy of large masks
                gt_masks = gt_masks[rows]
            one = self(
                anchors, level_sizes, boxes[b, rows], gt_masks, boxes[b, valid[b] & crowd[b]]
            )
            # indices -2 and -1 read the last two
            lookup = torch.cat((rows, rows.new_tensor((IGNORED, BACKGROUND))))
            results.append(Assignment(lookup[one.gt_index], one.overlap))
        return _stack(results, anchors, boxes.shape[0])


class BatchAssigner(Assigner):
    """Base class of assigners that work on whole batches: a subclass defines some_images(), and
    one_image() where a host has a faster way."""

    @abstractmethod
    def some_images(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        boxes: Tensor,
        real: Tensor,
        crowd: Tensor,
        masks: Sequence[Tensor] | None,
    ) -> Assignment:
        """As many images of a batch as hold CHUNK_ELEMENTS overlaps: boxes (b,M,4) float; real
        (b,M) ground truths that anchors may learn from; crowd (b,M) crowd regions; other boxes are
        padding."""

    def __call__(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        gt_boxes: Tensor,
        gt_masks: Tensor | None,
        crowd_boxes: Tensor,
    ) -> Assignment:
        if gt_masks is not None and gt_masks.shape[0] != gt_boxes.shape[0]:
            raise ValueError(
                f"{gt_boxes.shape[0]} ground-truth boxes, but {gt_masks.shape[0]} masks"
            )
        anchors, gt_boxes, crowd_boxes = (t.float() for t in (anchors, gt_boxes, crowd_boxes))
        with torch.no_grad():
            return self.one_image(anchors, level_sizes, gt_boxes, gt_masks, crowd_boxes)

    def one_image(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        gt_boxes: Tensor,
        gt_masks: Tensor | None,
        crowd_boxes: Tensor,
    ) -> Assignment:
        """What __call__ returns, boxes in float32."""
        boxes = torch.cat((gt_boxes, crowd_boxes))[None]  # (1,M+Mc,4)
        crowd = (torch.arange(boxes.shape[1], device=boxes.device) >= gt_boxes.shape[0])[None]
        masks = None if gt_masks is None else [gt_masks]
        return self.some_images(anchors, level_sizes, boxes, ~crowd, crowd, masks).image(0)

    @torch.no_grad()
    def batch(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        boxes: Tensor,
        valid: Tensor,
        crowd: Tensor,
        masks: Sequence[Tensor] | None = None,
    ) -> Assignment:
        if on_host(boxes):  # one image at a time, without padding
            return super().batch(anchors, level_sizes, boxes, valid, crowd, masks)
        step = max(1, CHUNK_ELEMENTS // max(1, boxes.shape[1] * anchors.shape[0]))
        anchors, boxes = anchors.float(), boxes.float()
        parts = []
        for first in range(0, max(1, boxes.shape[0]), step):  # no images: one empty part
            some = slice(first, first + step)
            parts.append(
                self.some_images(
                    anchors,
                    level_sizes,
                    boxes[some],
                    valid[some] & ~crowd[some],
                    valid[some] & crowd[some],
                    None if masks is None else masks[some],
                )
            )
        if len(parts) == 1:
            return parts[0]
        return Assignment(
            torch.cat([p.gt_index for p in parts]), torch.cat([p.overlap for p in parts])
        )


def crowd_share(boxes: Tensor, crowd: Tensor, anchors: Tensor) -> Tensor:
    """share_in_crowd of boxes (b,M,4). On a host of one image, and of its crowd regions alone."""
    if on_host(boxes) and boxes.shape[0] == 1:
        boxes = boxes[:, crowd[0]]
        if boxes.shape[1] == 0:
            return anchors.new_zeros((1, anchors.shape[0]))
        crowd = crowd[:, crowd[0]]
    return share_in_crowd(pairwise_intersection(boxes, anchors), crowd, anchors)


def share_in_crowd(intersection: Tensor, crowd: Tensor, anchors: Tensor) -> Tensor:
    """(b,A) the largest share of each anchor (A,4) that lies inside one crowd region, from the
    areas (b,M,A) that it shares with boxes of which those in crowd (b,M) are such regions."""
    return intersection.masked_fill(~crowd[..., None], 0).amax(1) / area(anchors)


ASSIGNERS = Registry("assigner", Record)

C = TypeVar("C", bound=type[Assigner])


def register_assigner(
    name: str, *, bounds: Mapping[str, Bound] | None = None, source: str = ""
) -> Callable[[C], C]:
    """Class decorator: makes an Assigner known as `name`, described by its docstring's first line.

    Its __init__ takes keyword-only parameters with defaults, and raises ValueError for values that
    do not go together; `bounds` are those of one alone. ValueError if another module has the name
    or the signature is another."""
    return lambda cls: ASSIGNERS.register(cls, (), name=name, bounds=bounds, source=source)


def _stack(results: list[Assignment], anchors: Tensor, images: int) -> Assignment:
    if not results:
        empty = anchors.new_zeros((images, anchors.shape[0]))
        return Assignment(empty.long(), empty)
    return Assignment(
        torch.stack([r.gt_index for r in results]), torch.stack([r.overlap for r in results])
    )
