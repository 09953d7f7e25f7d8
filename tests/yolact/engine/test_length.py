"""train.max_minutes: the length comes from a measurement, and the run is that of a config which
states the length."""

import json
from types import SimpleNamespace

import pytest

from data.resolve import ConfigError, config_hash, dump_yaml, load_config
from yolact.engine import length, timing
from yolact.engine.train import train
from yolact.study.shorthand import comparable
from yolact.testing.tiny import config, write_dataset


@pytest.fixture
def measured(monkeypatch):
    """Steps of 0.5 s and a validation of 3 s, whatever the machine does, in seconds of minutes."""
    monkeypatch.setattr(length, "_step_seconds", lambda *_: (0.5, 8))
    monkeypatch.setattr(length, "_validation_seconds", lambda *_: 3.0)
    monkeypatch.setattr(length, "_now", lambda: 0.0)


def lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_in_minutes_is_the_run_of_its_iterations(tmp_path, measured, capsys):
    """Measuring leaves no trace in the weights; 10 steps and the validation fill 8.2 s."""
    folder = write_dataset(tmp_path)
    settings = {"schedule": "cosine", "log_every": 1, "ema_decay": 0.9}
    cfg = config(folder, **settings, max_minutes=8.2 / 60 / (1 - length.RESERVE))
    timed = train(cfg, device="cpu", run_dir=tmp_path / "timed")
    said = capsys.readouterr().out
    assert "10 iterations in train.max_minutes=0.139" in said and "steps of 500 ms" in said
    stated = load_config(timed.path)
    assert (stated.train.iterations, stated.train.max_minutes) == (10, None)
    assert stated.train.lr_steps == (8,) and stated.train.warmup_iterations == 1  # 5 of 6, 2 of 6
    plain = train(stated, device="cpu", run_dir=tmp_path / "plain")
    losses = [
        [line["losses"] for line in lines(r) if line["kind"] == "train"] for r in (timed, plain)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 10
    kept = json.loads((timed.path / "env.json").read_text())["length"]
    assert kept["iterations"] == 10 and kept["max_minutes"] == cfg.train.max_minutes
    assert "length" not in json.loads((plain.path / "env.json").read_text())
    # asked for again, the run that goes on keeps its length
    again = train(cfg, device="cpu", resume=timed.path)
    assert load_config(again.path).train == stated.train
    said = capsys.readouterr().out
    assert "10 iterations, as the run that goes on" in said and "changed  " not in said


def test_measuring_times_steps_and_a_validation_for_real(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path)
    monkeypatch.setattr(length, "SHARE", 0)
    cfg = config(folder, max_minutes=600)
    found, notes, kept = length.settled_length(cfg, [], length.torch.device("cpu"), None)
    assert kept["steps_timed"] >= length.TIMED and kept["step"] > 0 and kept["validation"] > 0
    assert found.train.iterations == kept["iterations"] >= length.FEWEST
    assert any(line.startswith("length") for line in notes)


def test_what_a_validation_takes_beside_its_images_comes_once(monkeypatch):
    """5 s, and 0.1 s for each image."""
    counts = []

    def evaluate(*_, max_images, **__):
        counts.append(max_images)
        return SimpleNamespace(seconds=5 + 0.1 * max_images)

    class Images(list):
        has_truth = True

    monkeypatch.setattr(timing, "evaluate", evaluate)
    for images, asked, seconds in ((1008, 0, 105.8), (1008, 108, 15.8), (3, 0, 5.3), (1, 0, 5.1)):
        cfg = config(validate_images=asked)
        found = timing.validation_seconds(None, cfg, Images(range(images)), "cpu")
        assert found == pytest.approx(seconds)
    assert max(counts) == timing.IMAGES
    assert timing.validation_seconds(None, config(), None, "cpu") == 0


def test_starting_is_paid_twice(tmp_path, measured, monkeypatch):
    """10 s up to the end of 8 steps of 0.5 s, so 6 s of starting; 14 s of measuring. Of 58.8 s,
    38.8 are left for a validation of 3 s and 71 steps."""
    clock = iter([0.0, 10.0, 14.0])
    monkeypatch.setattr(length, "_now", lambda: next(clock))
    cfg = config(write_dataset(tmp_path), max_minutes=1)
    found, _, kept = length.settled_length(cfg, [], length.torch.device("cpu"), None)
    assert found.train.iterations == 71 and kept["spent"] == 14


def test_one_process_decides_on_the_length(tmp_path, measured, monkeypatch):
    monkeypatch.setattr(length, "_iterations", lambda *_: pytest.fail("by a clock of its own"))
    monkeypatch.setattr(length.distributed, "first_run_by_main", lambda _: 77)
    cfg = config(write_dataset(tmp_path), max_minutes=1)
    found, _, _ = length.settled_length(cfg, [], length.torch.device("cpu"), None)
    assert found.train.iterations == 77


@pytest.mark.parametrize("part", ["_step_seconds", "validation_seconds"])
def test_too_little_memory_is_explained_while_measuring_too(tmp_path, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(length, "_step_seconds", lambda *_: (0.5, 8))
    monkeypatch.setattr(length, part, fail)
    cfg = config(write_dataset(tmp_path), max_minutes=1)
    with pytest.raises(ValueError, match="out of memory.*lower train.batch_size"):
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "every, minutes, iterations",
    [(0, 1, 107), (1000, 1, 107), (50, 1, 100), (10, 1, 70), (90, 1, 101)],
)
def test_validations_take_their_share(every, minutes, iterations):
    """58.8 s less 2 s of measuring: 0.5 s a step, and 3 s for each validation."""
    cfg = config(validate_every=every)
    assert length._iterations(cfg, minutes, 0.5, 3.0, 2.0) == iterations


def test_too_few_minutes_are_refused_before_a_folder_is_made(tmp_path, measured):
    cfg = config(write_dataset(tmp_path), max_minutes=0.1)
    with pytest.raises(ValueError, match=r"max_minutes=0\.1.*give at least 0\.2"):
        train(cfg, device="cpu", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_length_is_stated(tmp_path):
    minutes = load_config("quickstart", ["train.max_minutes=8"])
    assert minutes.train.max_minutes == 8
    for other in ("iterations=9", "epochs=2"):
        with pytest.raises(ConfigError, match="give one of them"):
            load_config("quickstart", ["train.max_minutes=8", f"train.{other}"])
    file = tmp_path / "own.yaml"
    file.write_text("base: quickstart\ntrain: {max_minutes: 8}\n")
    assert load_config(file, ["train.iterations=9"]).train.max_minutes is None
    assert load_config(file, ["train.epochs=2"]).train.max_minutes is None
    file.write_text("base: quickstart\ntrain: {max_minutes: 8, iterations: 9}\n")
    with pytest.raises(ConfigError, match="give one of them"):
        load_config(file)
    plain = load_config("quickstart")
    assert config_hash(plain) != config_hash(minutes) and plain.train.max_minutes is None


@pytest.mark.parametrize("stated", ["epochs=2", "max_minutes=1"])
def test_what_is_given_beside_a_length_stays(tmp_path, measured, stated):
    """In epochs and in minutes alike; what is not given follows."""
    file, folder = tmp_path / "own.yaml", write_dataset(tmp_path / "data")
    file.write_text(dump_yaml(config(folder)))
    given = [f"train.{stated}", "train.lr_steps=[7]"]
    for more, warmup in ((["train.warmup_iterations=3"], 3), ([], 2 if "minutes" in stated else 0)):
        asked = load_config(file, [*given, *more])
        found, _, _ = length.settled_length(asked, [], length.torch.device("cpu"), None)
        assert found.train.lr_steps == (7,) and found.train.warmup_iterations == warmup
    whole = load_config({**found.model_dump()})
    assert whole == found


def test_studies_refuse_minutes():
    with pytest.raises(ConfigError, match="machine's speed"):
        comparable(load_config("quickstart", ["train.max_minutes=8"]))
