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

from layers.records import Bound, Record, Registry

BACKGROUND = -1
IGNORED = -2
# (B,M,A) overlaps held at once; about 30 bytes each while the assignment is computed
CHUNK_ELEMENTS = 16 << 20


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
    """Base class. A subclass defines __call__ for one image, and may override batch() with
    something faster.

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
            gt_masks = None if masks is None else masks[b][rows]
            one = self(
                anchors, level_sizes, boxes[b, rows], gt_masks, boxes[b, valid[b] & crowd[b]]
            )
            # indices -2 and -1 read the last two
            lookup = torch.cat((rows, rows.new_tensor((IGNORED, BACKGROUND))))
            results.append(Assignment(lookup[one.gt_index], one.overlap))
        return _stack(results, anchors, boxes.shape[0])


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
