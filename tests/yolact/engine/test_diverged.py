"""Networks that are not finite, made in memory: no file of such weights loads."""

import numpy as np
import pytest
import torch

from layers.problems import DataWarning
from yolact.build import build_model
from yolact.engine.display import display_dataset
from yolact.engine.evaluate import evaluate
from yolact.engine.predict import Predictor
from yolact.engine.train import train
from yolact.finite import Diverged
from yolact.testing import tiny

PICTURE = np.zeros((60, 80, 3), np.uint8)
FIRST = r"diverged: its weights are not finite, first backbone\.conv1\.weight \(1176 of 1176"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


def all_nan(model):
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    return model


@pytest.fixture
def broken(data):
    cfg = tiny.config(data)
    return Predictor(all_nan(build_model(cfg)), cfg)


def test_nothing_is_told_of_weights_that_are_nan(broken, tmp_path):
    """The measure would be 0.00, and drawing would fail on its way."""
    with pytest.raises(Diverged, match=FIRST):
        broken(PICTURE)
    with pytest.raises(Diverged, match=FIRST):
        broken.instances(broken.forward(broken.preprocess([PICTURE])))
    with pytest.raises(Diverged, match=FIRST):
        evaluate(broken.model, broken.cfg, device="cpu", progress=False)
    with pytest.raises(Diverged, match=FIRST):
        display_dataset(broken, tmp_path, progress=False)
    assert not [*tmp_path.iterdir()]


def test_boxes_that_overflow_are_no_boxes(data):
    """Offsets of 1e4 give boxes without end, though every weight and output is finite."""
    cfg = tiny.config(data)
    model = build_model(cfg)
    torch.nn.init.constant_(model.prediction_layers[0].bbox_layer.bias, 1e4)
    predictor = Predictor(
        model, cfg.model_copy(update={"eval": cfg.eval.model_copy(update={"score_threshold": 0.0})})
    )
    with pytest.raises(Diverged, match=r"offsets are so large that the boxes \((\d+) of \1 values"):
        predictor(PICTURE)


def test_outputs_may_overflow_of_finite_weights(data):
    cfg = tiny.config(data)
    model = build_model(cfg)
    model.proto_net[-1].weight.data.fill_(3e38)
    with pytest.raises(Diverged, match="of finite weights, its output prototypes"):
        Predictor(model, cfg)(np.full((60, 80, 3), 255, np.uint8))


def test_large_numbers_are_finite(data):
    """Sums of outputs may overflow where no output does."""
    cfg = tiny.config(data)
    model = build_model(cfg)
    model.proto_net[-1].weight.data.zero_()
    model.proto_net[-1].bias.data.fill_(3e38)
    assert Predictor(model, cfg)(PICTURE) is not None


def test_a_diverged_run_of_a_study_has_an_end(data, tmp_path):
    """Under train.on_nonfinite=skip it detects nothing, which is said, and is counted as such."""
    cfg = tiny.config(data, iterations=2, lr=1e30, warmup_iterations=0, on_nonfinite="skip")
    with pytest.warns(DataWarning, match="has diverged.*; it detects nothing$"):
        run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    last = run.metrics[-1]
    assert last["segm"]["ap"] == last["bbox"]["ap"] == 0


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_training_cannot_start_from_nan(data, tmp_path, on_nonfinite):
    cfg = tiny.config(data, on_nonfinite=on_nonfinite)
    with pytest.raises(ValueError, match=rf"step 1: .*{FIRST}.*are not saved\)"):
        train(cfg, model=all_nan(build_model(cfg)), device="cpu", run_dir=tmp_path / "run")
    assert not [*(tmp_path / "run").rglob("*.pth")]
