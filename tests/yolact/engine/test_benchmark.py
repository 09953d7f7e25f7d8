"""The benchmark measures the work that prediction does."""

import json

import numpy as np
import pytest
import torch

from tests.yolact.engine.oracle import config
from yolact.build import build_model
from yolact.engine.benchmark import STAGES, benchmark, timed
from yolact.engine.predict import Predictor


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    return config(tmp_path_factory.mktemp("set"), "eval.score_threshold=0.0", "eval.max_dets=20")


@pytest.fixture(scope="module")
def model(cfg):
    return build_model(cfg)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 256, (90, 140, 3), np.uint8)


@pytest.mark.parametrize("setting", ["crop=true", "crop=false", "masks=subpixel"])
def test_the_timed_stages_give_the_predictors_detections(tmp_path, model, image, setting):
    predictor = Predictor(
        model, config(tmp_path, "eval.score_threshold=0.0", "eval.max_dets=20", f"eval.{setting}")
    )
    detections, laps = timed(predictor, image)
    expected = predictor(image)
    assert len(detections) == len(expected) == 20 and len(laps) == len(STAGES) and min(laps) > 0
    for name in ("boxes", "labels", "scores", "mask_scores", "masks"):
        assert torch.equal(getattr(detections, name), getattr(expected, name)), name


def test_figures_are_named_and_add_up(cfg, model, image):
    result = benchmark(
        model.train(), cfg, device="cpu", images=[image], iterations=3, warmup=1, progress=False
    )
    assert model.training and list(result.median_ms) == [*STAGES, "total"]
    assert all(0 < result.median_ms[stage] <= result.p95_ms[stage] for stage in result.median_ms)
    assert result.median_ms["total"] >= max(result.median_ms[stage] for stage in STAGES)
    assert result.fps == pytest.approx(1000 / result.median_ms["total"])
    assert result.detections == 20 and result.peak_memory_mib > 50 and "threads" in result.device
    table = result.table()
    assert all(
        word in table
        for word in (*STAGES, "total", "float32", "140x90", "images/s", torch.__version__)
    )
    json.dumps(result.to_dict())


def test_wrong_arguments_are_refused(cfg, model):
    for options in ({"iterations": 0}, {"images": []}, {"precision": "int8"}):
        with pytest.raises(ValueError):
            benchmark(model, cfg, device="cpu", progress=False, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_is_timed_and_its_memory_counted(cfg, image):
    model = build_model(cfg).cuda()
    result = benchmark(
        model,
        cfg,
        device="cuda",
        precision="bf16",
        images=[image],
        iterations=3,
        warmup=2,
        progress=False,
    )
    assert result.device == torch.cuda.get_device_name() and 0 < result.peak_memory_mib < 4000
