"""A loss of one's own that reads an extra of one's own: one file, and nothing else is edited."""

import math

import pytest
import torch

from data.loader import build_dataset, train_loader
from layers.extras import EXTRAS, make_extras
from layers.losses import plugins, registry
from layers.losses.checks.contract import refuse_broken
from yolact.engine.state import build_state
from yolact.engine.step import Updater, read
from yolact.testing import tiny

CPU = torch.device("cpu")
PLUGIN = """
import torch
from layers.extras import extra
from layers.losses.registry import pixel_loss


@extra("rarity", "1 / area of the instance, at each of its pixels")
def rarity(masks):
    return masks / masks.sum((1, 2), keepdim=True).clamp(min=1)


@pixel_loss("rare", "error of probabilities, more of small instances", needs=("rarity",))
def rare(logits, target, *, rarity):
    return (1 + rarity) * (logits.sigmoid() - target).abs()
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.MASK_LOSSES, "by_name", dict(registry.MASK_LOSSES.by_name))
    monkeypatch.setattr(EXTRAS, "by_name", dict(EXTRAS.by_name))
    monkeypatch.setattr(plugins, "_loaded_files", {})
    path = tmp_path / "rare.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_extra_trains(tmp_path, plugin, workers):
    folder = tiny.write_dataset(tmp_path / "data")
    loss = {"mask": "bce + rare + 0.1*boundary", "plugins": (plugin,)}
    cfg = tiny.config(folder, loss=loss, num_workers=workers)
    state, _ = build_state(cfg, CPU, None)
    asked = state.criterion.extras
    assert asked == [("distance", (16, 16)), ("rarity", (16, 16))]
    data = build_dataset(cfg, "train", mask_sizes=state.criterion.mask_sizes, extras=asked)
    update, batches = Updater(state, cfg, CPU), iter(train_loader(cfg, data))
    for _ in range(2):
        batch = next(batches)
        for target in batch.targets:
            made = make_extras(["rarity"], target.mask_at(16, 16))["rarity"]
            assert (target.extras[asked[1]] == made).all()
        (seen,) = read([update([batch])])
        assert seen.terms["rare"] > 0 and math.isfinite(seen.losses["mask"])


def test_a_failing_plugin_leaves_no_extra(tmp_path, plugin):
    broken = tmp_path / "broken.py"
    broken.write_text(PLUGIN + "\nnot_there\n")
    with pytest.raises(ValueError, match="not_there"):
        refuse_broken("bce", (str(broken),))
    assert "rarity" not in EXTRAS.names() and "rare" not in registry.names()
