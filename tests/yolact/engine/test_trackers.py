"""Trackers get what metrics.jsonl holds, and end no training."""

import importlib
import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from data.resolve import ConfigError, config_hash, load_config
from yolact.engine import trackers as module
from yolact.engine.train import train
from yolact.testing import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


def lines(run, kind):
    read = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in read if line["kind"] == kind]


class Kept:
    """A tracker that remembers; `broken` fails at the second call."""

    made: list = []
    broken = False

    def __init__(self, run, cfg, step):
        self.run, self.step, self.closed = run, step, False
        self.values, self.images, self.seen = [], [], 0
        Kept.made.append(self)

    def numbers(self, step, values):
        if self.broken and self.values:
            raise ConnectionError("the server is gone")
        self.values.append((step, dict(values)))

    def picture(self, step, name, image):
        self.images.append((step, name, image.shape))

    def flush(self):
        self.seen = len(self.values)

    def close(self):
        self.closed = True
        if self.broken:
            raise ConnectionError("still gone")


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setitem(module.TRACKERS, "tensorboard", Kept)
    monkeypatch.setattr(Kept, "made", [])
    return Kept


def test_a_tracker_gets_what_the_file_holds_and_callbacks_too(data, tmp_path, kept):
    cfg = tiny.config(data, iterations=4, validate_every=2, log_every=2)
    seen = []
    run = train(
        cfg, device="cpu", run_dir=tmp_path / "run", on_validation=lambda *args: seen.append(args)
    )
    (tracker,) = kept.made
    assert tracker.closed and tracker.run == run.path
    losses = [(s, v["loss/total"]) for s, v in tracker.values if "loss/total" in v]
    assert losses == [(line["step"], line["loss"]) for line in lines(run, "train")]
    aps = [(s, v["validation_mask/ap"]) for s, v in tracker.values if "validation_mask/ap" in v]
    validations = lines(run, "validation")
    assert aps == [(line["step"], line["segm"]["ap"]) for line in validations]
    assert [(step, found["segm"]["ap"]) for step, found in seen] == aps
    assert {step for step, *_ in tracker.images} == {2, 4}
    assert all(np.isfinite(value) for _, values in tracker.values for value in values.values())


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    data, tmp_path, kept, monkeypatch, capsys
):
    monkeypatch.setattr(Kept, "broken", True)
    run = train(
        tiny.config(data, iterations=6, log_every=1), device="cpu", run_dir=tmp_path / "run"
    )
    told = capsys.readouterr().err
    assert told.count("tensorboard takes no more: the server is gone") == 1
    assert kept.made[0].closed and "still gone" not in told
    assert len(lines(run, "train")) == 6 and len(kept.made[0].values) == 1


def test_a_validation_can_be_seen_at_once(data, tmp_path, kept):
    cfg = tiny.config(data, iterations=4, validate_every=2, log_every=2)
    seen = []

    def look(*_):
        tracker = kept.made[0]
        seen.append((tracker.seen, len(tracker.values)))

    train(cfg, device="cpu", run_dir=tmp_path / "run", on_validation=look)
    assert seen == [(2, 2), (4, 4)]


def test_one_of_a_kind():
    with pytest.raises(ConfigError, match="trackers.*names one twice: name each once"):
        load_config("quickstart", ["train.trackers=[wandb,tensorboard,wandb]"])


def test_mlflow_is_asked_once_for_all_values_and_not_for_long(data, tmp_path, monkeypatch):
    """Without a server: each request fails at once here, and would take minutes by mlflow's own
    limits."""
    mlflow = pytest.importorskip("mlflow")
    asked = []

    class Client:
        def __getattr__(self, name):
            def ask(*args, **kwargs):
                asked.append((name, args, kwargs))
                info = SimpleNamespace(run_id="r", experiment_id="0")
                return SimpleNamespace(info=info, experiment_id="0")

            return ask

    for name in module.MLFLOW_LIMITS:
        monkeypatch.setenv(name, "unset")  # which is undone at the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    tracker = module.MLflow(tmp_path, tiny.config(data), 0)
    params = [call[2]["params"] for call in asked if call[0] == "log_batch"]
    assert sum(map(len, params)) > 100 and max(map(len, params)) <= 100
    asked.clear()
    tracker.numbers(3, {"loss/total": 1.5, "loss/box": 0.5})
    ((name, _, given),) = asked
    found = [(metric.key, metric.value, metric.step) for metric in given["metrics"]]
    assert name == "log_batch" and found == [("loss/total", 1.5, 3), ("loss/box", 0.5, 3)]
    variables = importlib.import_module("mlflow.environment_variables")
    tries = 1 + variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
    assert tries * variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() <= 60


def test_none_is_a_choice_and_changes_no_hash(data, tmp_path):
    cfg = tiny.config(data, iterations=2, trackers=[])
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert not (run.path / "tensorboard").exists() and lines(run, "train")
    one, other = (load_config("quickstart", c) for c in ([], ["train.trackers=tensorboard"]))
    assert config_hash(one) == config_hash(other)
    with pytest.raises(ConfigError, match="train.trackers"):
        load_config("quickstart", ["train.trackers=[comet]"])


def test_a_missing_package_is_named_before_the_first_step(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    cfg = tiny.config(data, iterations=2, trackers=["mlflow"])
    with pytest.raises(ValueError, match=r'pip install "yolact-loss-lab\[mlflow\]"') as told:
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_same_numbers_and_goes_on_in_one_run(data, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/kept.db")
    monkeypatch.chdir(tmp_path)
    settings = dict(validate_every=2, log_every=2, save_every=2, trackers=["mlflow"])
    run = train(tiny.config(data, iterations=2, **settings), device="cpu", run_dir=tmp_path / "run")
    longer = tiny.config(data, iterations=4, **settings)
    train(longer, device="cpu", resume=run.path)
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss/total")
    expected = [(line["step"], line["loss"]) for line in lines(run, "train")]
    assert [(m.step, pytest.approx(m.value)) for m in history] == expected
    assert found.data.params["loss.mask"] == "bce"


@pytest.mark.filterwarnings("ignore")
def test_wandb_runs_offline(data, tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = tiny.config(data, iterations=2, log_every=1, trackers=["wandb"])
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    importlib.import_module("wandb").teardown()  # which writes what waits
    files = list((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 500
    assert (run.path / "wandb_run.txt").read_text().strip() in str(files[0])
