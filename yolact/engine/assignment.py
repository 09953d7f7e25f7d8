"""What masks at prototype size change in a mask-aware assignment."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor

from data.coco import CocoDataset
from layers.losses.criterion import Criterion
from layers.targets import Targets
from yolact.engine.datasets import OwnItems

COMPARED_IMAGES = 16


def changed_by_prototype_masks(
    criterion: Criterion, anchors: Tensor, level_sizes: Sequence[int], targets: Sequence[Targets]
) -> tuple[int, int]:
    """(anchors that go to another ground truth or to none, anchors that have one with full masks),
    for targets with full masks.

    anchors (A,4) cx,cy,w,h relative. The criterion's assigner must be mask-aware."""
    found = []
    for prototype in (False, True):
        twin = copy.copy(criterion)
        twin.assigner = copy.copy(criterion.assigner)
        twin.assigner.prototype_masks = prototype
        found.append(twin.assign(anchors, level_sizes, targets).gt_index)
    full, small = found
    return int(((full != small) & ((full >= 0) | (small >= 0))).sum()), int((full >= 0).sum())


def prototype_mask_note(
    criterion: Criterion,
    anchors: Tensor,
    level_sizes: Sequence[int],
    dataset: CocoDataset | OwnItems,
) -> list[str]:
    """One line where the criterion's assigner reads masks at prototype size: how much differs on
    the first images of the training set."""
    if not criterion.assigner.prototype_masks:
        return []
    full = copy.copy(dataset)
    full.needs_full_masks = True
    count = min(COMPARED_IMAGES, len(full))
    changed, positives = changed_by_prototype_masks(
        criterion, anchors.cpu(), level_sizes, [full[0, i].targets for i in range(count)]
    )
    h, w = criterion.mask_sizes[0]
    share = f"{100 * changed / positives:.1f} % of " if positives else ""
    return [
        f"note: assign.name={criterion.assigner.expression} reads masks of {w}x{h}: on {count} "
        f"training images {changed} anchors ({share}{positives} positives) are assigned otherwise "
        f"than with masks of {criterion.image_size} px"
    ]
