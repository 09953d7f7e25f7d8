"""What two arms of a study have in common at one seed: everything but the axis. Seen in whole
trainings, at the door of the model."""

import hashlib

import pytest
import torch

from layers.assign import assigner_names
from yolact.build import build_model
from yolact.engine import step as module
from yolact.engine.train import train
from yolact.testing import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data", train=6)


def digest(*tensors):
    return hashlib.sha256(
        b"".join(tensor.detach().contiguous().cpu().numpy().tobytes() for tensor in tensors)
    ).hexdigest()[:12]


class Seen:
    """What a training was given: the weights that it began with, each image as it was augmented,
    and the keys that choose positives."""

    def __init__(self):
        self.weights, self.images, self.boxes, self.keys = None, [], [], []


def watch(cfg, folder, monkeypatch):
    seen, original = Seen(), module.TrainStep.forward

    def forward(self, images, targets, *, subset_order, **options):
        if seen.weights is None:
            seen.weights = digest(*self.model.state_dict().values())
        seen.images += [digest(image) for image in images]
        seen.boxes += [digest(target.boxes, target.labels) for target in targets]
        seen.keys.append(digest(subset_order))
        return original(self, images, targets, subset_order=subset_order, **options)

    monkeypatch.setattr(module.TrainStep, "forward", forward)
    train(cfg, run_dir=folder, device="cpu")
    monkeypatch.setattr(module.TrainStep, "forward", original)
    return seen


def config(data, **changes):
    given = {
        "iterations": 3,
        **{key: value for key, value in changes.items() if key not in ("mask", "assign")},
    }
    cfg = tiny.config(
        data, augment=True, loss={"mask": changes.get("mask", "bce"), "masks_to_train": 2}, **given
    )
    return cfg.model_copy(
        update={"assign": type(cfg.assign)(name=changes.get("assign", "max_iou"))}
    )


def test_two_assigners_and_two_losses_see_the_same(data, tmp_path, monkeypatch):
    """Also the same choice of positives, as far as they have the same positives: the keys belong to
    anchors, not to positives."""
    others = [name for name in assigner_names() if name != "max_iou"][:1] or [
        "max_iou(positive=0.7, negative=0.3)"
    ]
    one = watch(config(data), tmp_path / "one", monkeypatch)
    assert len(one.images) == 12 and len(set(one.images)) > 6, "augmented"
    for number, changes in enumerate([{"assign": others[0]}, {"mask": "dice + 0.5*mse"}]):
        assert vars(watch(config(data, **changes), tmp_path / str(number), monkeypatch)) == vars(
            one
        )
    assert vars(watch(config(data, seed=4), tmp_path / "seed", monkeypatch)) != vars(one)


def test_two_batch_sizes_see_the_same_images(data, tmp_path, monkeypatch):
    """One sequence of images, augmented alike, cut into steps of 2 or 4. The keys are drawn by
    step, so they are not shared."""
    four, two = (
        watch(
            config(data, batch_size=size, iterations=12 // size), tmp_path / str(size), monkeypatch
        )
        for size in (4, 2)
    )
    assert (two.weights, two.images, two.boxes) == (four.weights, four.images, four.boxes)
    assert len(two.keys) == 6 and len(four.keys) == 3


def test_models_that_differ_agree_on_every_parameter_they_share(data):
    """Arms over the model: each weight is drawn by its name."""
    one, more = (
        build_model(tiny.config(data, model=changes)).state_dict()
        for changes in ({}, {"prototypes": 12, "head_layers": 2})
    )
    shared = [name for name in one if name in more and one[name].shape == more[name].shape]
    assert len(shared) > 50 and len(shared) < len(more)
    assert all(torch.equal(one[name], more[name]) for name in shared)
