"""Class losses: what the class logits of all anchors cost. The registry, OHEM cross-entropy under
softmax, sigmoid focal and Rank & Sort.

B images, A anchors, C foreground classes, P positives. A function reads

    logits      (B,A,1+C), column 0 = background, for kind "softmax"; (B,A,C) for kind "sigmoid":
                the kind decides on the model's head
    rows        (P,) positives as indices into the flattened (B*A) anchors
    labels      (P,) their 0-based classes
    background  (B,A) bool, anchors that may serve as negatives; positives and ignored anchors are
                False

and returns the sum (0-d) that the criterion divides by the positives of the global batch. What else
it needs to see it names in `needs`:

    negatives   per image, how many negatives to choose (list of int on the host), from
                loss.ohem_ratio and loss.ohem_min_negatives
    quality     (P,) IoU of each positive's predicted box with its ground truth, detached
    class_weight
                (P,) factors of the positives, of loss.class_weights; None where there are none.
                ClassLoss supplies it
    mask_quality
                (P,) IoU of each positive's mask, cut at 0.5 in the matched box, with its ground
                truth at prototype size, detached
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from layers.losses.expr import Call
from layers.losses.rank_sort import rank_sort_loss
from layers.losses.terms.soft import quality_focal
from layers.records import Bound, Chosen, Fn, Record, Registry

NO_LOGIT = -1e4  # p rounds to 0: neither value nor gradient
# of a positive whose predicted box misses its ground truth: the worst positive, but no negative
LEAST_QUALITY = 1e-6
WEIGHT = "class_weight"  # an extra that ClassLoss itself supplies

CLASS_LOSSES = Registry("class loss", Record)


def class_loss(
    name: str,
    kind: Literal["softmax", "sigmoid"],
    summary: str,
    *,
    bounds: dict[str, Bound] | None = None,
    needs: Iterable[str] = (),
    source: str = "",
) -> Callable[[Fn], Fn]:
    """Register fn(logits, rows, labels, background, *, ...) -> 0-d, see above.

    ValueError if another module has the name or the signature is another."""
    return lambda function: CLASS_LOSSES.register(
        function,
        ("logits", "rows", "labels", "background"),
        name=name,
        kind=kind,
        summary=summary,
        bounds=bounds,
        needs=needs,
        source=source,
    )


class ClassLoss:
    """loss(logits, rows, labels, background, **extras) -> 0-d, the extras those of `needs`.

    sigmoid        whether it reads sigmoid logits (B,A,C) rather than softmax logits (B,A,1+C)
    class_weights  C factors of positives by their class; None: all 1"""

    def __init__(self, chosen: Chosen[Record], class_weights: Sequence[float] | None = None):
        self.chosen = chosen
        self.class_weights = None if class_weights is None else torch.tensor(list(class_weights))
        self.needs = tuple(name for name in chosen.record.needs if name != WEIGHT)
        self.sigmoid = chosen.record.kind == "sigmoid"
        self.weighs = WEIGHT in chosen.record.needs
        if class_weights is not None and not self.weighs:
            able = [record.name for record in CLASS_LOSSES.records() if WEIGHT in record.needs]
            raise ValueError(
                f"loss.class_weights: {chosen.expression} takes none: leave them out, or set "
                f"loss.classification to {' or '.join(able)}"
            )

    @property
    def expression(self) -> str:
        return self.chosen.expression

    def __call__(
        self, logits: Tensor, rows: Tensor, labels: Tensor, background: Tensor, **extras
    ) -> Tensor:
        if self.weighs:
            extras[WEIGHT] = None
            if self.class_weights is not None:
                self.class_weights = self.class_weights.to(logits.device)
                extras[WEIGHT] = self.class_weights[labels]
        return self.chosen(logits, rows, labels, background, **extras)


def build_class_loss(
    expression: str | Call | Chosen[Record], class_weights: Sequence[float] | None = None
) -> ClassLoss:
    """The loss that an expression such as `focal(gamma=1.5)` describes; parsed and checked ones are
    not read again. class_weights: C factors of positives. ValueError names the mistake and the
    nearest valid name, or says that the loss takes no weights."""
    return ClassLoss(CLASS_LOSSES.read(expression), class_weights)


def class_loss_for(chosen: str | ClassLoss | None, sigmoid: bool) -> ClassLoss:
    """The class loss that was chosen, or the default of a head's kind. ValueError where the loss
    reads the other kind of logits."""
    if chosen is None:
        chosen = "focal" if sigmoid else "ohem"
    loss = build_class_loss(chosen) if isinstance(chosen, str) else chosen
    if loss.sigmoid != sigmoid:
        kinds = {True: "sigmoid logits without background", False: "softmax logits with background"}
        raise ValueError(
            f"the class loss reads {kinds[loss.sigmoid]} and the model gives {kinds[sigmoid]}: "
            "choose another class loss, or build the model for this one (loss.classification)"
        )
    return loss


def negatives_wanted(positives: list[int], anchors: int, *, ratio: float, least: int) -> list[int]:
    """Hard negatives per image: `ratio` per positive, at least `least`, never all anchors."""
    return [min(max(int(ratio * count), least), anchors - 1) for count in positives]


@class_loss(
    "ohem",
    "softmax",
    "cross-entropy of positives and hard negatives (loss.ohem_ratio, loss.ohem_min_negatives)",
    needs=("negatives", WEIGHT),
    source="SSD (Liu et al., ECCV 2016), section 2.2, hard negative mining",
)
def ohem(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    background: Tensor,
    *,
    negatives: list[int],
    class_weight: Tensor | None,
) -> Tensor:
    """-log p of the class of every positive and of the background at hard negatives: in each image
    `negatives` of them, those of the lowest background probability, fewer where there are fewer."""
    flat = logits.flatten(0, 1)  # (B*A,1+C)
    hard, real = _hardest(logits, background, negatives)
    chosen = flat.index_select(0, torch.cat((rows, hard)))  # (P+Q,1+C)
    classes = torch.cat((labels + 1, torch.zeros_like(hard)))
    counts = torch.cat((torch.ones_like(rows, dtype=torch.bool), real))
    values = F.cross_entropy(chosen, classes, reduction="none").masked_fill(~counts, 0)
    if class_weight is not None:
        values = values * torch.cat((class_weight, torch.ones_like(hard, dtype=values.dtype)))
    return values.sum()


@class_loss(
    "focal",
    "sigmoid",
    "cross-entropy of every class at every anchor, those right already weighted down",
    needs=(WEIGHT,),
    bounds={"alpha": Bound("(0, 1)", "alpha=None weights both by 1"), "gamma": Bound("[0, inf)")},
    source="Focal Loss for Dense Object Detection (Lin et al., ICCV 2017), equation 5",
)
def focal_of_classes(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    background: Tensor,
    *,
    class_weight: Tensor | None,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t over every class of every anchor that is not ignored;
    alpha_t is alpha for the class of a positive and 1 - alpha for all others; None: alpha_t = 1.
    Equal to torchvision.ops.sigmoid_focal_loss with half of its memory, since no one-hot target is
    made: the few logits of the right classes are taken out, all others have target 0."""
    right, ignored = _right_and_ignored(logits, rows, labels, background)
    others = logits.flatten().masked_fill(ignored.index_fill_(0, right, True), NO_LOGIT)
    against, toward = (1.0, 1.0) if alpha is None else (1 - alpha, alpha)
    hits = _focused(-logits.flatten().index_select(0, right), gamma)  # (P,)
    if class_weight is not None:
        hits = hits * class_weight
    return against * _focused(others, gamma).sum() + toward * hits.sum()


@class_loss(
    "rank_sort",
    "sigmoid",
    "every positive above all negatives, positives by the IoU of their boxes",
    needs=("quality",),
    bounds={
        "delta": Bound("[0, inf)", "half the width in logits of the soft comparison of two of them")
    },
    source="Rank & Sort Loss (Oksuz et al., ICCV 2021), section 4",
)
def rank_sort(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    background: Tensor,
    *,
    quality: Tensor,
    delta: float = 0.5,
) -> Tensor:
    """P times the sum of ranking and sorting loss (see rank_sort.py), over every class of every
    anchor of the batch that is not ignored. The images of a micro-batch are ranked together, those
    of several micro-batches or ranks are not."""
    right, ignored = _right_and_ignored(logits, rows, labels, background)
    flat = logits.flatten().masked_fill(ignored, NO_LOGIT)
    targets = torch.zeros_like(flat).index_copy_(
        0, right, quality.to(flat.dtype).clamp(LEAST_QUALITY, 1)
    )
    ranking, sorting = rank_sort_loss(flat, targets, positives=len(rows), delta=delta)
    return (ranking + sorting) * len(rows)


@class_loss(
    "quality_focal",
    "sigmoid",
    "cross-entropy with the IoU of a positive's mask as its target, those near it weighted down",
    needs=("quality", "mask_quality"),
    bounds={"beta": Bound("[1, inf)", "below 1 its slope is infinite at p = y")},
    source="Generalized Focal Loss (Li et al., NeurIPS 2020), quality focal loss, equation 5",
)
def quality_focal_of_classes(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    background: Tensor,
    *,
    quality: Tensor,
    mask_quality: Tensor,
    beta: float = 2.0,
    of: Literal["mask", "box"] = "mask",
) -> Tensor:
    """|p - y|^beta BCE(p, y) over every class of every anchor that is not ignored: y is the quality
    for the class of a positive, and 0 for all others. Scores then rank masks by how good they are,
    without a network that re-scores them.

    of     the quality: IoU of the mask, or of the box as the paper has it
    beta   >= 1; the paper takes 2"""
    right, ignored = _right_and_ignored(logits, rows, labels, background)
    others = logits.flatten().masked_fill(ignored.index_fill_(0, right, True), NO_LOGIT)
    wanted = (mask_quality if of == "mask" else quality).to(logits.dtype).clamp(0, 1)
    chosen = logits.flatten().index_select(0, right)
    return _focused(others, beta).sum() + quality_focal(chosen, wanted, beta=beta).sum()


def _right_and_ignored(
    logits: Tensor, rows: Tensor, labels: Tensor, background: Tensor
) -> tuple[Tensor, Tensor]:
    """In the flattened (B*A*C) sigmoid logits: (P,) where the positives' classes are, and (B*A*C,)
    bool, the classes of ignored anchors."""
    classes = logits.shape[2]
    counted = background.flatten().index_fill(0, rows, True)  # (B*A,)
    return rows * classes + labels, (~counted)[:, None].repeat(1, classes).flatten()


def _focused(wrong: Tensor, gamma: float) -> Tensor:
    """-(1 - p_t)^gamma log p_t from the logit of 1 - p_t."""
    bce = F.softplus(wrong)
    return bce * torch.exp(gamma * (wrong - bce))


@torch.no_grad()
def _hardest(class_logits: Tensor, background: Tensor, wanted: list[int]) -> tuple[Tensor, Tensor]:
    """(Q,) indices into the flattened anchors, and (Q,) bool: False where an image had no negative
    left. Q = sum(wanted)."""
    most = max(wanted, default=0)
    if most <= 0:
        return background.new_zeros(0, dtype=torch.int64), background.new_zeros(0)
    # (B,A) = -log p(background)
    hardness = torch.logsumexp(class_logits, -1) - class_logits[..., 0]
    hardness = hardness.masked_fill(~background, -torch.inf)
    values, anchors = hardness.topk(most, dim=1)  # (B,most)
    first = torch.arange(len(wanted), device=anchors.device)[:, None] * class_logits.shape[1]
    return take_each(anchors + first, wanted), take_each(values > -torch.inf, wanted)


def take_each(rows: Tensor, counts: list[int]) -> Tensor:
    """(B,T,...) -> (sum(counts),...): the first counts[b] of each row b."""
    return torch.cat([row[:count] for row, count in zip(rows.unbind(0), counts, strict=True)])
