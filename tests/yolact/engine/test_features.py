"""A frozen backbone, and its features kept: the same training as computing them again."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from data.resolve import ConfigError
from yolact.checkpoint import read_checkpoint
from yolact.engine.features import FeatureCache
from yolact.engine.train import train
from yolact.model import Yolact
from yolact.resnet import ResNet
from yolact.testing import tiny

STILL = dict(photometric=False, zoom_out=False, iou_crop=False, flip=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


def frozen(data, **train):
    plan = dict(iterations=6, validate_every=6, log_every=2, lr=1e-2)
    return tiny.config(data, model={"freeze_backbone": True}, augment=False, **plan, **train)


def weights(run):
    return read_checkpoint(run.path / "weights/last.pth")["model"]


@pytest.mark.parametrize("freeze_bn", ["always", "never"])
def test_the_backbone_stays_and_all_else_moves(data, tmp_path, capsys, freeze_bn):
    cfg = frozen(data, freeze_bn=freeze_bn)
    model = tiny.model_and_criterion(cfg)[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = train(cfg, model=model, device="cpu", run_dir=tmp_path / "run")
    moved = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("backbone.") for name in moved)
    assert {"fpn.lat_layers.0.weight", "prediction_layers.0.bbox_layer.weight"} <= moved
    told = capsys.readouterr().out
    assert "backbone      frozen (model.freeze_backbone), batch norm too" in told
    assert "batch norm    " not in told  # of freeze_bn, which has no say then


def test_random_weights_are_told_of(data, tmp_path, capsys):
    train(frozen(data), device="cpu", run_dir=tmp_path / "run")
    assert "warning: model.freeze_backbone keeps random weights" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"channels_last": True, "accumulate": 2}])
def test_kept_features_change_nothing(data, tmp_path, monkeypatch, options):
    """Six steps of four of ten images: more than two epochs, of which one reads images."""
    plain = train(frozen(data, **options), device="cpu", run_dir=tmp_path / "plain")
    seen = []
    forward = ResNet.forward

    def counted(self, images):
        seen.append(images.shape[0])
        return forward(self, images)

    cfg = frozen(data, cache_features=True, **options)
    with monkeypatch.context() as patch:
        patch.setattr(ResNet, "forward", counted)
        kept = train(cfg, device="cpu", run_dir=tmp_path / "kept")
    training = [line for line in kept.metrics if line["kind"] == "train"]
    expected = [line for line in plain.metrics if line["kind"] == "train"]
    for ours, theirs in zip(training, expected, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    for name, value in weights(plain).items():
        assert torch.allclose(value.float(), weights(kept)[name].float(), rtol=1e-4, atol=1e-6)
    # three images each for validation, pictures and gallery; without the cache 24 for the steps
    assert 10 <= sum(seen) <= 10 + 3 * 3
    assert not list(kept.path.glob("tmp*"))


def test_each_image_is_computed_once(tmp_path):
    calls = []

    def backbone(images):
        calls.append(images[:, 0, 0, 0].tolist())
        return [images[:, :1] * 2, images[:, :1, ::2, ::2] * 3]

    cache = FeatureCache(SimpleNamespace(backbone=backbone), 5, tmp_path)
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 4)
    cache(images[[1, 3]], [1, 3])
    fine, coarse = cache(images[[3, 4, 1]], [3, 4, 1])
    assert calls == [[1.0, 3.0], [4.0]]
    assert fine.shape == (3, 1, 4, 4) and fine[:, 0, 0, 0].tolist() == [6, 8, 2]
    assert coarse.shape == (3, 1, 2, 2) and coarse[:, 0, 0, 0].tolist() == [9, 12, 3]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_it_is_filled(tmp_path, monkeypatch):
    model = SimpleNamespace(backbone=lambda images: [images])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match="train.cache_features needs .* GB are free") as told:
        FeatureCache(model, 5, tmp_path)(torch.zeros(1, 3, 4, 4), [0])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        (["model.freeze_backbone=false"], "needs model.freeze_backbone=true"),
        (["augment.flip=true"], "switch off augment.flip"),
        (["augment.rotation=5", "augment.scale_jitter=[0.5,1]"], "augment.rotation, augment.scale"),
    ],
)
def test_it_is_refused_where_features_change(changes, message):
    from data.resolve import load_config

    still = [f"augment.{name}=false" for name in STILL]
    settings = [*still, "model.freeze_backbone=true", "train.cache_features=true"]
    load_config("yolact_plus_micro", settings, check_names=False)
    with pytest.raises(ConfigError, match=message):
        load_config("yolact_plus_micro", [*settings, *changes], check_names=False)


def test_a_set_of_ones_own_is_refused(data, tmp_path):
    items = [(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), {"boxes": [], "labels": []})]
    with pytest.raises(ValueError, match="a train_set of your own"):
        train(
            frozen(data, cache_features=True), train_set=items, device="cpu", run_dir=tmp_path / "r"
        )
    assert not (tmp_path / "r").exists()


def test_release_of_batch_norm_does_not_thaw_it(data):
    model: Yolact = tiny.model_and_criterion(tiny.config(data))[0]
    model.freeze_backbone()
    model.train()
    model.freeze_batchnorm(False)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not any(module.training for module in model.backbone.modules())
