"""Mask-aware assignment from files on disk to an optimiser step: full-size masks through loader
processes and packed batches."""

import itertools

import pytest
import torch

from data.loader import build_dataset, train_loader
from data.schema import AssignConfig
from layers.assign import build_assigner
from layers.boxes import corners
from yolact.engine.assignment import changed_by_prototype_masks, prototype_mask_note
from yolact.engine.state import build_state
from yolact.engine.step import Updater, read
from yolact.testing import tiny

CPU = torch.device("cpu")


def setup(folder, assigner, **train):
    cfg = tiny.config(folder, augment=True, **train).model_copy(
        update={"assign": AssignConfig(name=assigner)}
    )
    state, _ = build_state(cfg, CPU, None)
    criterion = state.criterion
    dataset = build_dataset(
        cfg, "train", mask_sizes=criterion.mask_sizes, needs_full_masks=criterion.needs_full_masks
    )
    return cfg, state, dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("set"))


@pytest.mark.parametrize(
    "assigner, carries_full",
    [
        ("atss(iou='gmaiou')", True),
        ("atss(iou='maiou', rounding='exact')", True),
        ("atss(iou='gmaiou', masks='prototype')", False),
        ("atss(iou='giou')", False),
    ],
)
def test_a_step_learns_from_masks_that_workers_deliver(folder, assigner, carries_full):
    cfg, state, dataset = setup(folder, assigner)
    update = Updater(state, cfg, CPU)
    anchors, levels = state.model.anchors_for(cfg.model.max_size)
    positives = 0
    for batch in itertools.islice(train_loader(cfg, dataset, num_workers=2), 3):
        assert (batch.instances.masks is not None) == carries_full
        found = state.criterion.assign(anchors, levels, batch.targets)
        for index, target, key in zip(found.gt_index, batch.targets, batch.indices, strict=True):
            if carries_full:
                assert target.masks.dtype == torch.bool and target.masks.shape[1:] == (64, 64), key
                alone = build_assigner(assigner)(
                    corners(anchors) * 64, levels, target.boxes * 64, target.masks, target.boxes[:0]
                )
                assert torch.equal(index, alone.gt_index)
        positives += int((found.gt_index >= 0).sum())
        losses = read([update([batch])])[0].losses
        assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    assert positives > 0


def test_a_note_says_what_prototype_masks_change(folder):
    cfg, state, dataset = setup(folder, "atss(iou='gmaiou', masks='prototype')")
    criterion, (anchors, levels) = state.criterion, state.model.anchors_for(64)
    _, twin, full_set = setup(folder, "atss(iou='gmaiou')")
    changed = positives = 0
    for i in range(len(full_set)):
        full = twin.criterion.assign(anchors, levels, [full_set[0, i].targets]).gt_index[0]
        small = criterion.assign(anchors, levels, [dataset[0, i].targets]).gt_index[0]
        changed, positives = (
            changed + int((full != small).sum()),
            positives + int((full >= 0).sum()),
        )
    assert changed_by_prototype_masks(
        criterion, anchors, levels, [full_set[0, i].targets for i in range(10)]
    ) == (changed, positives)
    assert 0 < changed < positives
    (line,) = prototype_mask_note(criterion, anchors, levels, dataset)
    assert (
        f"on 10 training images {changed} anchors" in line
        and f"{positives} positives" in line
        and "masks of 16x16" in line
    )
    assert (
        prototype_mask_note(twin.criterion, anchors, levels, full_set) == []
        and criterion.assigner.prototype_masks
    )
