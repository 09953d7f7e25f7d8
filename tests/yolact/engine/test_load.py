"""From a run or a file to detections."""

import cv2
import numpy as np
import pytest
import torch

import yolact
from yolact.engine.load import open_model
from yolact.testing import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("load")
    data = tiny.write_dataset(root / "data")
    cfg = tiny.config(data, iterations=3, ema_decay=0.5, lr_steps=())
    return yolact.train(cfg, run_dir=root / "run", device="cpu")


def same(a, b):
    return all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in ("boxes", "labels", "scores", "masks")
    )


def test_a_run_its_folder_and_its_weights_are_the_same_model(run):
    images = [np.random.default_rng(i).integers(0, 256, (70, 90, 3), np.uint8) for i in range(2)]
    settings = {
        "overrides": ["eval.score_threshold=0"],
        "device": "cpu",
        "precision": "float32",
    }
    predictors = [yolact.load(place, **settings) for place in (run, str(run), run.best)]
    found = [predictor(images) for predictor in predictors]
    assert len(found[0]) == 2 and len(found[0][0]) > 0 and found[0][1].masks.shape[1:] == (70, 90)
    for other in found[1:]:
        assert all(same(a, b) for a, b in zip(found[0], other))
    assert predictors[0].class_names == tiny.CLASSES
    last = yolact.load(run / "weights/last.pth", **settings)
    best = torch.load(run.best, weights_only=True)["model"]
    assert all(torch.equal(v, best[k]) for k, v in last.model.state_dict().items())  # the average


def test_a_path_an_array_and_a_list_find_the_same(run, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    predictor = yolact.load(
        run, overrides=["eval.score_threshold=0"], device="cpu", precision="float32"
    )
    one = predictor(image)
    assert one.image is image and one.class_names == tiny.CLASSES
    for other in (predictor(tmp_path / "a.png"), predictor(str(tmp_path / "a.png"))):
        assert same(one, other) and (other.image == image).all()
    both = predictor([image, tmp_path / "a.png"])
    assert isinstance(both, list) and same(both[0], both[1]) and predictor([]) == []
    assert one.draw(score_threshold=0).shape == image.shape
    with pytest.raises(ValueError, match="does not exist"):
        predictor("no.png")


def test_settings_of_the_predictor(run):
    assert yolact.load(run, precision="bf16", device="cpu").precision == "bf16"
    assert yolact.load(run, device="cpu").choice.folded  # auto
    asked = yolact.load(run, overrides=["eval.precision=float32"], device="cpu")
    assert asked.choice.short == "float32"
    assert open_model(run, device="cpu").predictor.choice.short == "float32"  # as AP is found
    changed = yolact.load(run, overrides=["eval.top_k=3"], device="cpu").cfg
    assert changed.eval.top_k == 3 and changed.train == run.config.train


def test_what_cannot_be_loaded_is_named(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "mystery.pth")
    with pytest.raises(ValueError, match="add --config=NAME, in Python load"):
        yolact.load(tmp_path / "mystery.pth")
    with pytest.raises(ValueError, match="does not exist: give a run's folder"):
        yolact.load(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no weights/best.pth"):
        yolact.load(tmp_path)
