"""What a study costs: one measurement for all arms of equal cost."""

from types import SimpleNamespace

import pytest

from data.resolve import load_config
from yolact.engine import timing
from yolact.study.arms import arms_of, runs_of
from yolact.study.plan import read_study
from yolact.study.train import estimate
from yolact.study.train.estimate import cost_key
from yolact.study.train.local import Slot, local_slots
from yolact.testing import tiny


def key(*overrides):
    return cost_key(load_config("quickstart", overrides, check_names=False))


@pytest.mark.parametrize(
    "change",
    [
        "name=other",
        "train.seed=7",
        "train.lr=0.5",
        "train.iterations=77",
        "train.validate_every=3",
        "loss.box_weight=0.7",
        "loss.mask=huber(delta=0.5)",
        "loss.mask=3*huber(delta=0.25)",
        "model.pretrained=imagenet",
    ],
)
def test_what_changes_no_time_shares_one(change):
    assert key("loss.mask=huber(delta=0.25)", change) == key("loss.mask=huber(delta=0.25)")


@pytest.mark.parametrize(
    "change",
    [
        "loss.mask=bce",
        "loss.mask=huber(delta=0.25, region='image')",
        "loss.mask=huber(delta=0.25) + dice",
        "loss.mask_weight=0",
        "train.batch_size=16",
        "train.precision=bf16",
        "train.ema_decay=0.9",
        "model.max_size=320",
        "eval.masks=published",
        "eval.score_threshold=0.5",
    ],
)
def test_what_changes_times_is_timed(change):
    assert key("loss.mask=huber(delta=0.25)", change) != key("loss.mask=huber(delta=0.25)")


def test_200_arms_are_timed_as_often_as_their_costs_differ(monkeypatch):
    timed = []

    def time_run(config, device):
        timed.append(config)
        return float(len(timed)), 3.0

    monkeypatch.setattr(estimate, "time_run", time_run)
    monkeypatch.setattr(estimate, "START", 0)
    losses = [
        f"{loss}(delta=0.{n + 100})" for n in range(100) for loss in ("huber", "survey_huber")
    ]
    study = read_study(
        {
            "name": "many",
            "base": "quickstart",
            "settings": {"train.validate_every": 0},
            "arms": losses,
            "baseline": losses[0],
            "seeds": 2,
            "budget": 60,
        }
    )
    arms = arms_of(study)
    words = estimate.estimate_cost(
        study, runs_of(study, arms), slots=local_slots(2, "cpu"), gain=1.5
    )
    assert "2 at a time on cpu, measured 1.50 times as fast as one" in words
    assert len(timed) == 2 and words.count(" ms a step") == 200 and "2 timed" in words
    # two seeds of 100 arms of 60 steps of 1 s, and of 100 of 2 s; 400 validations
    assert f"about {estimate._duration((2 * 100 * 60 * 3 + 400 * 3) / 1.5)} for 400 runs" in words


def test_a_run_is_timed_on_its_data(tmp_path, monkeypatch):
    """By what times a training that states minutes: what validations cost beside images is not
    multiplied."""
    monkeypatch.setattr(
        timing,
        "evaluate",
        lambda *_, max_images, **__: SimpleNamespace(seconds=5 + 0.1 * max_images),
    )
    folder = tiny.write_dataset(tmp_path, val=20)
    step, validation = estimate.time_run(tiny.config(folder, accumulate=2), "cpu")
    assert 0 < step < 60 and validation == pytest.approx(7)


@pytest.mark.parametrize(
    "devices, counted", [(["cpu", "cpu"], 1), (["cuda:0"], 1), (["cuda:0", "cuda:1"] * 2, 2)]
)
def test_slots_of_one_device_are_no_faster_unless_that_was_measured(devices, counted):
    speed, words = estimate._together([Slot(one, n) for n, one in enumerate(devices)], None)
    assert speed == counted and ("one after another" in words) == (len(devices) > counted)
