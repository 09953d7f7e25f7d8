"""Anchor assigners: which ground truth, if any, each anchor learns from. The registry, the
protocol, and YOLACT's max-IoU rule.

B images, A anchors, M ground truths (padded to the largest image of a batch). An assigner is named
in configs as an expression, `max_iou(positive=0.6)`; its parameters are the keyword-only parameters
of its class.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layers.boxes import area, iou_from_intersection, pairwise_intersection
from layers.losses.expr import Call, format_value, parse_call
from layers.losses.registry import suggest

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


_REGISTRY: dict[str, type[Assigner]] = {}


def register_assigner(name: str):
    """Class decorator: makes an Assigner known as `name`. Its __init__ takes keyword-only
    parameters with defaults, whose types are the types of the defaults, and raises ValueError for a
    value out of bounds."""

    def register(cls: type[Assigner]) -> type[Assigner]:
        for parameter in _parameters(cls).values():
            if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
                raise TypeError(
                    f"assigner {name!r}: parameter {parameter.name!r} must be keyword-only and "
                    "have a default"
                )
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != cls.__qualname__:
            raise ValueError(
                f"an assigner named {name!r} is registered already: choose another name"
            )
        _REGISTRY[name] = cls
        return cls

    return register


def assigner_names() -> list[str]:
    return sorted(_REGISTRY)


def build_assigner(expression: str) -> Assigner:
    """The assigner that an expression such as `max_iou(positive=0.6)` describes.

    ValueError names the mistake and the nearest valid name: syntax, unknown assigner or parameter,
    wrong type, value out of bounds.
    """
    call = parse_call(expression)
    if call.name not in _REGISTRY:
        raise ValueError(f"unknown assigner {call.name!r}{suggest(call.name, assigner_names())}")
    cls = _REGISTRY[call.name]
    known = _parameters(cls)
    values = {}
    for key, value in call.params.items():
        if key not in known:
            raise ValueError(
                f"assigner {call.name!r} has no parameter {key!r}{suggest(key, known)}"
            )
        values[key] = _typed(call.name, key, value, known[key].default)
    try:
        assigner = cls(**values)
    except ValueError as error:
        raise ValueError(f"assigner {call.name!r}: {error}") from None
    changed = [
        f"{key}={format_value(values[key])}"
        for key in known
        if key in values and values[key] != known[key].default
    ]
    assigner.expression = f"{call.name}({', '.join(changed)})" if changed else call.name
    return assigner


def assigner_signatures() -> dict[str, str]:
    """{call with every parameter at its default: one line about it}, by name."""
    found = {}
    for name in assigner_names():
        cls = _REGISTRY[name]
        values = ", ".join(
            f"{key}={format_value(parameter.default)}"
            for key, parameter in _parameters(cls).items()
        )
        found[f"{name}({values})" if values else name] = (
            inspect.getdoc(cls).split("\n\n")[0].split("\n")[0]
        )
    return found


def _parameters(cls: type[Assigner]) -> dict[str, inspect.Parameter]:
    if cls.__init__ is object.__init__:
        return {}
    parameters = dict(inspect.signature(cls.__init__).parameters)
    parameters.pop(next(iter(parameters)))  # self
    return parameters


def _typed(name: str, key: str, value: object, default: object) -> object:
    kind = type(default)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and type(value) is Call and not value.args and not value.params:
        raise ValueError(
            f"assigner {name!r}: write {key}={value.name!r}, in quotes (and the whole in others, "
            "for the shell)"
        )
    if type(value) is not kind:
        raise ValueError(
            f"assigner {name!r}: {key} must be of type {kind.__name__}, as its default "
            f"{default!r}, got {value!r}"
        )
    return value


def _stack(results: list[Assignment], anchors: Tensor, images: int) -> Assignment:
    if not results:
        empty = anchors.new_zeros((images, anchors.shape[0]))
        return Assignment(empty.long(), empty)
    return Assignment(
        torch.stack([r.gt_index for r in results]), torch.stack([r.overlap for r in results])
    )


@register_assigner("max_iou")
class MaxIoU(Assigner):
    """YOLACT's rule (SSD's matching, Liu et al. 2016, section 2.2, with an ignored band and crowd
    regions).

    An anchor belongs to the ground truth of highest IoU if that is at least `positive`, is
    background below `negative` and ignored between. Then every ground truth, those with the best
    remaining IoU first, claims its best anchor that no other has claimed, however low the IoU.
    Background anchors of which more than `crowd` lies inside one crowd region are ignored; crowd=1
    turns this off.

    Only overlaps count, so boxes and anchors may be in any one unit.

    Example: anchors of IoU 0.62, 0.45, 0.30 with the only ground truth get 0, -2, -1; of IoU 0.45,
    0.30 they get 0 (claimed), -1.
    """

    scale_free = True

    def __init__(self, *, positive: float = 0.5, negative: float = 0.4, crowd: float = 0.7):
        if not 0 < positive <= 1:
            raise ValueError(f"positive={positive} must be above 0 and at most 1")
        if not 0 <= negative <= positive:
            raise ValueError(f"negative={negative} must lie between 0 and positive={positive}")
        if not 0 <= crowd <= 1:
            raise ValueError(f"crowd={crowd} must lie between 0 and 1")
        self.positive, self.negative, self.crowd = positive, negative, crowd

    def __call__(
        self,
        anchors: Tensor,
        level_sizes: Sequence[int],
        gt_boxes: Tensor,
        gt_masks: Tensor | None,
        crowd_boxes: Tensor,
    ) -> Assignment:
        boxes = torch.cat((gt_boxes, crowd_boxes))[None]  # (1,M+Mc,4)
        crowd = (torch.arange(boxes.shape[1], device=boxes.device) >= gt_boxes.shape[0])[None]
        both = self.batch(anchors, level_sizes, boxes, torch.ones_like(crowd), crowd)
        return both.image(0)

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
        # Nothing here reads a value back to the host: padding takes part in every step with an IoU
        # of -1.
        step = max(1, CHUNK_ELEMENTS // max(1, boxes.shape[1] * anchors.shape[0]))
        parts = [
            self._assign(anchors.float(), b.float(), v & ~c, v & c)
            for b, v, c in zip(boxes.split(step), valid.split(step), crowd.split(step), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return Assignment(
            torch.cat([p.gt_index for p in parts]), torch.cat([p.overlap for p in parts])
        )

    def _assign(self, anchors: Tensor, boxes: Tensor, real: Tensor, crowd: Tensor) -> Assignment:
        """boxes (b,M,4); real (b,M) ground truths that anchors may learn from; crowd (b,M) crowd
        regions."""
        shape = (boxes.shape[0], anchors.shape[0])
        if boxes.shape[1] == 0 or anchors.shape[0] == 0:
            return Assignment(
                real.new_full(shape, BACKGROUND, dtype=torch.int64), boxes.new_zeros(shape)
            )
        intersection = pairwise_intersection(boxes, anchors)  # (b,M,A)
        # (b,A) largest share in one region
        inside_crowd = intersection.masked_fill(~crowd[..., None], 0).amax(1) / area(anchors)
        iou = iou_from_intersection(intersection, boxes, anchors).masked_fill_(~real[..., None], -1)
        overlap, best = iou.max(1)  # (b,A)
        index = torch.where(
            overlap >= self.positive,
            best,
            torch.where(overlap < self.negative, BACKGROUND, IGNORED),
        )
        forced = claim_best_anchors(iou)  # (b,A)
        claimed = forced >= 0
        index = torch.where(claimed, forced, index)
        overlap = torch.where(
            claimed, iou.gather(1, forced.clamp(min=0)[:, None])[:, 0], overlap.clamp(min=0)
        )
        if self.crowd < 1:
            index = index.masked_fill((index < 0) & (inside_crowd > self.crowd), IGNORED)
        return Assignment(index, overlap)


def claim_best_anchors(iou: Tensor) -> Tensor:
    """(b,M,A) IoU, negative rows for padding -> (b,A) int64: the ground truth that claimed each
    anchor, or -1.

    In turn the ground truth with the highest IoU to any unclaimed anchor claims that anchor. Equal
    IoUs go to the lowest anchor, then to the lowest ground truth.
    """
    images, m, a = iou.shape
    # At most m - 1 anchors are claimed before a ground truth's turn, so its m best suffice, and the
    # rest is work on an (m,m) table.
    keys = _ranked_keys(iou, min(m, a))  # (b,M,k)
    candidate = a - 1 - (keys & 0xFFFFFFFF)  # (b,M,k)
    # column a: ground truths without an anchor
    claims = torch.full((images, a + 1), -1, dtype=torch.int64, device=iou.device)
    rows = torch.arange(m, device=iou.device)
    for _ in range(m):
        best = keys.amax(2)  # (b,M)
        turn = (best >> 32).argmax(1, keepdim=True)  # (b,1)
        key = best.gather(1, turn)
        anchor = torch.where(key >= 0, a - 1 - (key & 0xFFFFFFFF), a)  # (b,1)
        claims.scatter_(1, anchor, turn)
        keys.masked_fill_((candidate == anchor[..., None]) | (rows == turn)[..., None], -1)
    return claims[:, :a]


def _ranked_keys(iou: Tensor, k: int) -> Tensor:
    """(b,M,A) IoU -> (b,M,k) int64, the k best of each row: the IoU's bits above A - 1 - anchor, so
    that equal IoUs are ordered; -1 for negative IoU."""
    a = iou.shape[2]
    tail = torch.arange(a - 1, -1, -1, device=iou.device)
    flat = iou.flatten(0, 1)  # (b*M,A)
    found = []
    for part in flat.split(max(1, CHUNK_ELEMENTS // (4 * a))):
        # Floats >= 0 are ordered as their bits are; + 0.0 turns -0.0 into 0.0.
        keys = ((part + 0.0).view(torch.int32).long() << 32) | tail
        found.append(keys.masked_fill_(part < 0, -1).topk(k, dim=1).values)
    return torch.cat(found).view(*iou.shape[:2], k)


from layers.assigners import atss as assign_atss  # noqa: E402,F401  it imports the registry above
from layers.assigners.mask_iou import gma_iou  # noqa: E402,F401  part of this module's public names
