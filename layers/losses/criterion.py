"""Criterion: assign anchors, choose which take part, and sum the named losses of a batch.

B images, A anchors, C foreground classes, K prototypes, M ground truths (padded to the largest
image), P positive anchors of the batch, N of them with a mask loss, H x W prototype map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from layers.assign import BACKGROUND, Assigner, Assignment, build_assigner
from layers.boxes import area, corners
from layers.extras import COVERAGE, EXTRAS
from layers.losses.auxiliary import MaskIoULoss, mask_quality, semantic_loss
from layers.losses.balance import factor_to, top_probability
from layers.losses.box import BoxLoss, build_box_loss, predicted_iou
from layers.losses.classification import ClassLoss, class_loss_for, negatives_wanted
from layers.losses.gradients import prototype_norms
from layers.losses.mask import PROTOTYPE_STRIDE, MaskLoss, read_target
from layers.losses.sampling import Positives, draw_subset, find_positives
from layers.masks import assemble_batch
from layers.targets import ExtraKey, Targets

MASKS_AT_ONCE = 1024  # of positives whose masks are measured: 80 MB a float map of 138 x 138


@dataclass
class Normalizers:
    """What sums are divided by, over all ranks and micro-batches: positives (0-d float tensor, at
    least 1) and images."""

    positives: Tensor
    images: float | Tensor


@dataclass
class _GroundTruth:
    """The targets of a batch side by side: boxes (B,M,4) relative, labels (B,M), valid (B,M) and
    crowd (B,M) bool with M >= 1; offset (B,), the first row of each image where masks of all images
    are concatenated; image (sum M,)."""

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    offset: Tensor
    image: Tensor


@dataclass
class _Instances:
    """N sampled positives: logits (N,H,W), coeffs (N,K), target (N,h,w) as MaskLoss takes it,
    of_iou (N,H,W) binary or coverages, boxes (N,4) relative, labels (N,), image (N,); extras, what
    the mask loss takes beside them."""

    logits: Tensor
    coeffs: Tensor
    target: Tensor
    of_iou: Tensor
    boxes: Tensor
    labels: Tensor
    image: Tensor
    extras: dict[str, Tensor]


class HasShapes(Protocol):
    """What a criterion reads of a model.

    num_classes   C
    image_size    side of the network input, in pixels
    sigmoid       whether class logits are (B,A,C) without background, instead of (B,A,1+C)
    mask_iou_net  the network that predicts mask IoUs, or None
    mask_sizes    (h,w) of the prototypes, and of the semantic map if there is one, for an input of
                  image_size pixels
    """

    @property
    def num_classes(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def sigmoid(self) -> bool: ...

    @property
    def mask_iou_net(self) -> Callable[[Tensor], Tensor] | None: ...

    def mask_sizes(self, image_size: int) -> list[tuple[int, int]]: ...


@dataclass(frozen=True)
class Shapes:
    """The shapes of predictions that come from no model; the fields are those of HasShapes."""

    num_classes: int
    image_size: int
    sizes: Sequence[tuple[int, int]]
    sigmoid: bool = False
    mask_iou_net: Callable[[Tensor], Tensor] | None = None

    def mask_sizes(self, image_size: int) -> list[tuple[int, int]]:
        return list(self.sizes)


class Criterion(nn.Module):
    """The loss of a batch, as named terms.

        criterion = Criterion(model, mask="bce + dice")
        loss = sum(criterion(model(images), targets).values())

    Sizes, classes, the kind of class logits and the mask-IoU network are read from the model; the
    defaults of the rest are the published ones.

    mask              mask loss, as an expression or made
    image_size        side of the network input, where it is not the model's own
    assigner, box, classification
                      as expressions or made; classification None = ohem, or focal for a model with
                      sigmoid class logits
    mask_iou_min_area ground-truth masks of at most this many prototype pixels train no mask IoU
    mask_target       what the mask loss compares with: 'binary', masks resized and cut at 0.5 as
                      published, or 'coverage', the share of each cell that the mask covers
    mask_stride       of that target, in pixels of the network's input: 4 = the prototypes' size, 1
                      = the input's
    mask_iou_target   what the mask-IoU network learns: 'binary', the IoU of masks cut at 0.5 as
                      published, or 'coverage', that of probabilities with the share of each cell
    semantic_target   what a class's map is compared with: 'binary', as published, or 'coverage'

    ValueError where an expression is wrong, or a part does not fit the model.

    mask_sizes        (h,w) that Targets must carry masks at: prototypes, the semantic map if there
                      is one, and the target's size where it is another and binary
    target_size       (h,w) of the mask loss's target
    needs_full_masks  the assigner reads masks at network input size
    extras            (name, (h,w)) that Targets must carry beside masks: what the mask loss needs,
                      at target_size, and coverages
    last_terms        of the last call, detached and divided as the losses are: {"bce": raw,
                      "bce/weighted": as it enters the sum, ...}. With mask_target='coverage' less
                      what the term costs where p is the target (MaskLoss.floors): 0 is perfect
    last_gradients    of the last call, every gradients_every steps (0 = never): {"bce": (4,)
                      squared norms of the weighted term's gradient at the prototypes, from all,
                      small, medium and large instances}; see gradients.prototype_norms and shares

    self_balance: the box and mask loss of a positive is multiplied by its highest class
    probability, and their sums over the batch are brought to the value of the class loss, without
    gradient through either factor (Rank & Sort, GmaYOLACT).

    Every loss but `semantic` is divided by the positives of the global batch, `semantic` by its
    images. With several processes each rank's losses are its share of the global batch's: their sum
    over ranks is the loss, so a trainer whose gradients are averaged over ranks (DDP) multiplies by
    the number of ranks.
    """

    def __init__(
        self,
        model: HasShapes,
        mask: str | MaskLoss = "bce",
        *,
        image_size: int | None = None,
        assigner: str | Assigner = "max_iou",
        box: str | BoxLoss = "smooth_l1",
        classification: str | ClassLoss | None = None,
        mask_iou_min_area: float = 25.0,
        mask_target: str = "binary",
        mask_stride: int = PROTOTYPE_STRIDE,
        mask_iou_target: str = "binary",
        semantic_target: str = "binary",
        box_weight: float = 1.5,
        class_weight: float = 1.0,
        mask_weight: float = 6.125,
        semantic_weight: float = 1.0,
        mask_iou_weight: float = 25.0,
        ohem_ratio: float = 3.0,
        ohem_min_negatives: int = 0,
        masks_to_train: int = 100,
        self_balance: bool = False,
        gradients_every: int = 0,
    ):
        super().__init__()
        self.num_classes = model.num_classes
        self.image_size = image_size or model.image_size
        self.mask_sizes = [(height, width) for height, width in model.mask_sizes(self.image_size)]
        self.assigner = build_assigner(assigner) if isinstance(assigner, str) else assigner
        self.box_loss = build_box_loss(box) if isinstance(box, str) else box
        self.class_loss = class_loss_for(classification, model.sigmoid)
        self.mask_loss = MaskLoss(mask, stride=mask_stride) if isinstance(mask, str) else mask
        self.coverage = mask_target == "coverage"
        self.target_size = self.mask_sizes[0]
        if mask_stride != PROTOTYPE_STRIDE:
            self.target_size = (math.ceil(self.image_size / mask_stride),) * 2
            self.mask_sizes += [] if self.coverage else [self.target_size]
        self.mask_loss.check_size(self.target_size)
        self.needs = {name: self._made_by(name) for name in self.mask_loss.needs}
        net = model.mask_iou_net
        self.mask_iou = None if net is None else MaskIoULoss(net, min_area=mask_iou_min_area)
        self.coverage_of_iou = net is not None and mask_iou_target == "coverage"
        self.coverage_of_classes = (
            len(model.mask_sizes(self.image_size)) > 1 and semantic_target == "coverage"
        )
        self.weights = {
            "box": box_weight,
            "class": class_weight,
            "mask": mask_weight,
            "semantic": semantic_weight,
            "mask_iou": mask_iou_weight,
        }
        self.ohem_ratio = ohem_ratio
        self.ohem_min_negatives = ohem_min_negatives
        self.masks_to_train = masks_to_train
        self.self_balance = self_balance
        self.gradients_every = gradients_every
        self.last_terms: dict[str, Tensor] = {}
        self.last_gradients: dict[str, Tensor] = {}

    @property
    def needs_full_masks(self) -> bool:
        return self.assigner.needs_masks and not self.assigner.prototype_masks

    @property
    def extras(self) -> list[ExtraKey]:
        keys = [(name, self.target_size) for name in self.needs.values()]
        keys += [(COVERAGE, self.target_size)] if self.coverage else []
        keys += [(COVERAGE, self.mask_sizes[0])] if self.coverage_of_iou else []
        keys += [(COVERAGE, self.mask_sizes[1])] if self.coverage_of_classes else []
        return list(dict.fromkeys(keys))

    def _made_by(self, need: str) -> str:
        """The extra that gives the mask loss what it needs. ValueError where there is none."""
        found = EXTRAS.get(need)
        return found.subpixel if self.coverage and found.subpixel else need

    @torch.no_grad()
    def assign(self, anchors: Tensor, level_sizes: Sequence[int], targets: Sequence) -> Assignment:
        """anchors (A,4) cx,cy,w,h relative, level_sizes their counts per level -> Assignment of
        (B,A); gt_index counts along padded M."""
        truth = _collate(targets)
        valid = truth.valid & (area(truth.boxes) > 0)  # no offsets lead to a box without area
        # see Assigner: pixels round differently
        size, masks = 1 if self.assigner.scale_free else self.image_size, None
        if self.needs_full_masks:
            masks = [t.masks for t in targets]
        elif self.assigner.prototype_masks:
            size, masks = self.mask_sizes[0][0], [t.mask_at(*self.mask_sizes[0]) for t in targets]
        sizes = tuple(level_sizes) or (anchors.shape[0],)
        return self.assigner.batch(
            corners(anchors.float()) * size, sizes, truth.boxes * size, valid, truth.crowd, masks
        )

    @torch.no_grad()
    def normalizers(self, assignments: Sequence[Assignment]) -> Normalizers:
        """Divisors for the micro-batches of one step: positives and images are summed over them and
        over all ranks (a collective call)."""
        positives = torch.stack([(a.gt_index >= 0).sum() for a in assignments]).sum().float()
        count = float(sum(a.gt_index.shape[0] for a in assignments))
        images: float | Tensor = count
        if dist.is_available() and dist.is_initialized():
            both = torch.stack((positives, torch.full_like(positives, count)))
            dist.all_reduce(both)
            positives, images = both.unbind()
        return Normalizers(positives.clamp(min=1), images)

    def forward(
        self,
        predictions,
        targets: Sequence,
        *,
        step: int = 0,
        generator: torch.Generator | None = None,
        assignment: Assignment | None = None,
        normalizers: Normalizers | None = None,
        subset_order: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predictions and B Targets -> {"box", "class", "mask", "semantic", "mask_iou": 0-d},
        weighted, normalised; their sum is the loss.

        step          optimiser step, for scheduled weights
        generator     draws the subset of positives where an image has more than masks_to_train, and
                      what the mask loss samples
        assignment    of assign(), where it is known already
        normalizers   of normalizers(), over all micro-batches; default: this batch alone, over all
                      ranks
        subset_order  (B,A) keys: the masks_to_train positives with the lowest keys get a mask loss;
                      replaces the drawing

        `semantic` is there if predictions have semantic_logits, `mask_iou` if the model has the
        network. Every input and parameter gets a gradient, zero where a term has no sample.
        ValueError if targets lack masks at a needed size."""
        if assignment is None:
            assignment = self.assign(predictions.anchors, predictions.level_sizes, targets)
        if normalizers is None:
            normalizers = self.normalizers([assignment])
        with torch.autocast(predictions.class_logits.device.type, enabled=False):
            return self._losses(
                predictions, targets, assignment, normalizers, step, generator, subset_order
            )

    def _losses(
        self, predictions, targets, assignment, normalizers, step, generator, subset_order
    ) -> dict[str, Tensor]:
        truth = _collate(targets)
        positives = find_positives(assignment.gt_index >= 0)
        sampled = draw_subset(
            positives, self.masks_to_train, order=subset_order, generator=generator
        )
        instances = self._instances(predictions, targets, truth, assignment, sampled)
        sums = {
            "box": self._box(predictions, truth, assignment, positives.rows),
            "class": self._class(predictions, targets, truth, assignment, positives),
            "mask": self._mask(
                instances,
                self._certainty(predictions, sampled.rows),
                positives,
                sampled,
                normalizers,
                step,
                generator,
            ),
        }
        if self.self_balance:
            self._balance(sums)
        if self.mask_iou is not None:
            sums["mask_iou"] = self.mask_iou(
                instances.logits, instances.of_iou, instances.boxes, instances.labels
            )
        losses = {
            name: self.weights[name] * value / normalizers.positives for name, value in sums.items()
        }
        if predictions.semantic_logits is not None:
            losses["semantic"] = (
                self.weights["semantic"]
                * self._semantic(predictions, targets, truth)
                / normalizers.images
            )
        return losses

    def _instances(
        self,
        predictions,
        targets: Sequence,
        truth: _GroundTruth,
        assignment: Assignment,
        sampled: Positives,
    ) -> _Instances:
        prototypes = _lift(predictions.prototypes)  # (B,H,W,K)
        image = sampled.rows // assignment.gt_index.shape[1]  # (N,)
        matched = _matched(truth, assignment, sampled.rows)
        of_masks = truth.offset[image] + assignment.gt_index.flatten()[sampled.rows]

        def carried(read: Callable[[Targets], Tensor]) -> Tensor:
            """(N,...) of what each image's targets carry, (M,...)."""
            return torch.cat([read(t) for t in targets]).index_select(0, of_masks)

        binary = carried(methodcaller("mask_at", *prototypes.shape[1:3])).to(prototypes.dtype)
        target = binary
        if self.coverage:
            target = carried(methodcaller("extra_at", COVERAGE, *self.target_size))
        elif self.mask_loss.stride != PROTOTYPE_STRIDE:
            target = carried(methodcaller("mask_at", *self.target_size))
        of_iou = binary
        if self.coverage_of_iou:
            of_iou = carried(methodcaller("extra_at", COVERAGE, *self.mask_sizes[0]))
        extras = {"image": image, "ground_truth": of_masks}
        for need, name in self.needs.items():
            extras[need] = carried(methodcaller("extra_at", name, *self.target_size))
        # (N,K)
        coeffs = _lift(predictions.mask_coeffs).flatten(0, 1).index_select(0, sampled.rows)
        logits = assemble_batch(prototypes, coeffs, sampled.counts)
        return _Instances(
            logits,
            coeffs,
            target,
            of_iou,
            truth.boxes.flatten(0, 1)[matched].to(logits.dtype),
            truth.labels.flatten()[matched],
            image,
            extras,
        )

    def _box(
        self, predictions, truth: _GroundTruth, assignment: Assignment, rows: Tensor
    ) -> Tensor:
        # (P,n)
        losses = self.box_loss(*_box_pairs(predictions, truth, assignment, rows), self.image_size)
        return (losses * self._certainty(predictions, rows)[:, None]).sum()

    def _certainty(self, predictions, rows: Tensor) -> Tensor:
        """(P,) what the box and mask losses of these anchors are multiplied by."""
        logits = _lift(predictions.class_logits)
        return (
            top_probability(logits, rows, sigmoid=self.class_loss.sigmoid)
            if self.self_balance
            else logits.new_ones(len(rows))
        )

    def _balance(self, sums: dict[str, Tensor]) -> None:
        """Bring the box and mask losses to the value of the class loss, in place, and what is
        logged of the mask terms with them."""
        factors = {name: factor_to(sums["class"], sums[name]) for name in ("box", "mask")}
        for name, factor in factors.items():
            sums[name] = sums[name] * factor
        self.last_terms = {
            label: value * factors["mask"] if label.endswith("/weighted") else value
            for label, value in self.last_terms.items()
        }
        self.last_gradients = {
            label: value * factors["mask"].square() for label, value in self.last_gradients.items()
        }

    def _class(
        self,
        predictions,
        targets: Sequence,
        truth: _GroundTruth,
        assignment: Assignment,
        positives: Positives,
    ) -> Tensor:
        logits = _lift(predictions.class_logits)
        labels = truth.labels.flatten()[_matched(truth, assignment, positives.rows)]  # (P,)
        extras: dict[str, list[int] | Tensor] = {}
        if "negatives" in self.class_loss.needs:
            extras["negatives"] = negatives_wanted(
                positives.counts,
                logits.shape[1],
                ratio=self.ohem_ratio,
                least=self.ohem_min_negatives,
            )
        if "quality" in self.class_loss.needs:
            extras["quality"] = predicted_iou(
                *_box_pairs(predictions, truth, assignment, positives.rows), self.image_size
            )
        if "mask_quality" in self.class_loss.needs:
            # of every positive, whether or not it is among those that train a mask
            with torch.no_grad():
                extras["mask_quality"] = torch.cat(
                    [
                        mask_quality(self._instances(predictions, targets, truth, assignment, some))
                        for some in positives.split(MASKS_AT_ONCE)
                    ]
                )
        return self.class_loss(
            logits, positives.rows, labels, assignment.gt_index == BACKGROUND, **extras
        )

    def _mask(
        self,
        instances: _Instances,
        certainty: Tensor,
        positives: Positives,
        sampled: Positives,
        normalizers: Normalizers,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Sum over instances, each times its certainty (N,), and terms; an image's instances stand
        for all its positives unless a term says rescale=False."""
        shares = [
            every / max(some, 1)
            for every, some in zip(positives.counts, sampled.counts, strict=True)
        ]
        scale = _tensor(shares, instances.logits)[instances.image] * certainty  # (N,)
        values = self.mask_loss.terms(
            instances.logits,
            instances.target,
            instances.boxes,
            step=step,
            extras=instances.extras,
            generator=generator,
        )
        scales = {part.label: scale if part.rescale else certainty for part in self.mask_loss.parts}
        sums = {label: (value * scales[label]).sum() for label, value in values.items()}
        weights = dict(zip(sums, self.mask_loss.weights(step), strict=True))
        # targets of 0 and 1 cost nothing where p is the target
        floors = (
            self.mask_loss.floors(instances.target, instances.boxes, extras=instances.extras)
            if self.coverage
            else {}
        )
        self.last_terms = {}
        for label, raw in sums.items():
            least = (floors[label] * scales[label]).sum() if label in floors else 0.0
            self.last_terms[label] = _detached(raw - least) / normalizers.positives
            self.last_terms[f"{label}/weighted"] = (
                self.weights["mask"] * _detached(weights[label]) * self.last_terms[label]
            )
        self._measure_gradients(sums, weights, instances, sampled, step)
        return (
            sum(weights[label] * raw for label, raw in sums.items())
            + self.mask_loss.penalty() * scale.sum()
        )

    def _semantic(self, predictions, targets: Sequence, truth: _GroundTruth) -> Tensor:
        logits = _lift(predictions.semantic_logits)
        size = logits.shape[-2:]
        read = ("extra_at", COVERAGE) if self.coverage_of_classes else ("mask_at",)
        masks = torch.cat([methodcaller(*read, *size)(t) for t in targets])  # (sum M,h,w)
        labels = torch.cat([t.labels for t in targets])
        crowd = torch.cat([t.crowd for t in targets])
        return semantic_loss(logits, masks, truth.image, labels, ~crowd)

    def _measure_gradients(
        self,
        sums: dict[str, Tensor],
        weights: dict,
        instances: _Instances,
        sampled: Positives,
        step: int,
    ) -> None:
        """Norms at the prototypes, where they are due: one more backward pass, from the terms to
        the mask logits only."""
        self.last_gradients = {}
        logged = self.gradients_every > 0 and step % self.gradients_every == 0
        match = self.mask_loss.match
        matching = match is not None and match.measures(step)
        if not (logged or matching) or not instances.logits.requires_grad:
            return
        h, w = instances.target.shape[-2:]
        areas = read_target(instances.target, torch.float32).sum((1, 2)) * (
            self.image_size**2 / (h * w)
        )
        # (T,4)
        norms = prototype_norms(
            list(sums.values()), instances.logits, instances.coeffs, sampled.counts, areas
        )
        if match is not None and matching:
            match.observe(norms[:, 0], step)
        if logged:
            self.last_gradients = {
                label: row * _detached(weights[label]) ** 2
                for label, row in zip(sums, norms, strict=True)
            }


def _collate(targets: Sequence) -> _GroundTruth:
    """Pads what lists of different lengths allow; lengths are known to the host."""
    lengths = [len(t.labels) for t in targets]
    boxes = pad_sequence([t.boxes for t in targets], batch_first=True)  # (B,M,4)
    spare = int(boxes.shape[1] == 0)  # M >= 1, so that index 0 always exists
    boxes = F.pad(boxes, (0, 0, 0, spare))
    labels = F.pad(pad_sequence([t.labels for t in targets], batch_first=True), (0, spare))
    crowd = F.pad(pad_sequence([t.crowd for t in targets], batch_first=True), (0, spare))
    count = _tensor(lengths, labels)  # (B,)
    valid = torch.arange(labels.shape[1], device=labels.device) < count[:, None]
    image = torch.arange(len(lengths), device=labels.device).repeat_interleave(
        count, output_size=sum(lengths)
    )
    return _GroundTruth(boxes, labels, valid, crowd, count.cumsum(0) - count, image)


def _tensor(values: list, like: Tensor) -> Tensor:
    """A host list on the device of `like`, without waiting for the device."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def _detached(weight: float | Tensor) -> float | Tensor:
    return weight.detach() if isinstance(weight, Tensor) else weight


def _lift(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _matched(truth: _GroundTruth, assignment: Assignment, rows: Tensor) -> Tensor:
    """rows (P,) of the flattened (B*A) anchors -> (P,) their ground truths in the flattened (B*M)
    axis."""
    anchors = assignment.gt_index.shape[1]
    return rows // anchors * truth.labels.shape[1] + assignment.gt_index.flatten()[rows]


def _box_pairs(
    predictions, truth: _GroundTruth, assignment: Assignment, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a box loss reads of the anchors rows (P,): predicted offsets, matched boxes in corners
    and anchors in centres, (P,4) each."""
    deltas = _lift(predictions.box_deltas).flatten(0, 1).index_select(0, rows)
    boxes = truth.boxes.flatten(0, 1)[_matched(truth, assignment, rows)]
    return (
        deltas,
        boxes.to(deltas.dtype),
        predictions.anchors[rows % predictions.anchors.shape[0]].to(deltas.dtype),
    )
