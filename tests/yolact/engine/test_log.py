"""Means of losses, metrics.jsonl, console lines, and the files beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from yolact.engine.log import (
    Meter,
    RunLog,
    commit,
    cut_metrics,
    environment,
    finite,
    write_run_files,
    write_whole,
)
from yolact.engine.rundir import RunDir
from yolact.engine.step import ReadStep
from yolact.testing import tiny


def step(number, box, *, skipped=False, problem=""):
    return ReadStep(number, {"box": box, "class": 2.0}, {"bce": box / 2}, 1.0, skipped, problem)


def test_meter_means_leave_out_skipped_steps():
    meter = Meter()
    overflow = step(4, 5.0, skipped=True)  # of fp16's loss scale: the loss is finite
    for found in (
        step(1, 1.0),
        step(2, 3.0),
        step(3, float("nan"), skipped=True, problem="box = nan"),
        overflow,
        overflow,
    ):
        meter.add(found)
    assert meter.state()["skipped"] == 1 and Meter(meter.state()).state() == meter.state()
    assert meter.take() == {
        "losses": {"box": 2.0, "class": 2.0},
        "terms": {"bce": 1.0},
        "grad_norm": 1.0,
        "skipped": 1,
        "overflows": 2,
    }
    assert meter.take() == {
        "losses": {},
        "terms": {},
        "grad_norm": None,
        "skipped": 0,
        "overflows": 0,
    }


def test_meter_continues_from_its_state():
    one, two = Meter(), Meter()
    numbers = [0.1, 0.7, 1e-9, 3.3]
    for n in numbers:
        one.add(step(1, n))
    for n in numbers[:2]:
        two.add(step(1, n))
    two = Meter(json.loads(json.dumps(two.state())))
    for n in numbers[2:]:
        two.add(step(1, n))
    assert one.take() == two.take()


def test_cut_metrics_drops_later_and_unfinished_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": n, "kind": "train"}) for n in (10, 20, 30)]
    path.write_text("\n".join(lines) + '\n{"step": 20, "kin')
    cut_metrics(path, 20, 20)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    cut_metrics(tmp_path / "none.jsonl", 5, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cut_metrics_drops_a_validation_that_no_checkpoint_knows_of(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        json.dumps({"kind": kind, "step": n}) + "\n"
        for n in (10, 20)
        for kind in ("train", "validation")
    ]
    path.write_text("".join(lines))
    cut_metrics(path, 20, 10)
    assert path.read_text() == "".join(lines[:3])


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_whole(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yolact.files.os.fsync", full)
    with pytest.raises(OSError, match="config.yaml .*No space left on device.*free space"):
        write_whole(path, "new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_mean_is_over_the_steps_that_had_the_number():
    meter = Meter()
    for step, terms in enumerate([{"bce": 1.0, "bce/share": 0.8}, {"bce": 2.0}, {"bce": 3.0}]):
        meter.add(ReadStep(step, {"mask": 1.0}, terms, 1.0, False, ""))
        meter = Meter(meter.state())
    assert meter.take()["terms"] == {"bce": 2.0, "bce/share": 0.8} and meter.take()["terms"] == {}


def test_json_has_no_nan():
    assert finite({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }


def test_console_line_metrics_and_tensorboard(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = tiny.config(iterations=1000, batch_size=4)
    run = RunDir(tmp_path / "run").make()

    def write(first, steps):
        log = RunLog(
            run, cfg, step=first, validated=first, epoch_images=10, device=torch.device("cpu")
        )
        for number in steps:
            meter = Meter()
            losses = {"box": 1.25, "class": 2.0, "mask": 3.0, "mask_iou": 0.5, "semantic": 0.25}
            meter.add(ReadStep(number, losses, {"bce": 1.0}, 9.0, False, ""))
            log.train_line(number, meter.take(), 1e-3, {"bce": 0.5} if number == 20 else {})
        log.validation(
            steps[-1],
            {"bbox": {"ap": None}, "segm": {"ap": 0.5, "max_dets": 100}},
            best=True,
            seconds=1.0,
        )
        log.pictures(steps[-1], {"first": np.zeros((8, 8, 3), np.uint8)})
        log.close()

    write(0, [10, 20, 30])
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith(
        "[  10/1000] epoch 4 | B 1.250 C 2.000 M 3.000 S 0.250 I 0.500 T 7.000 | lr 1.00e-03 | "
    )
    assert "img/s | ETA" in line
    write(20, [25])  # resumed from a checkpoint at 20
    assert "GB" not in line  # of a GPU, which this run does not use
    records = [json.loads(text) for text in run.metrics.read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        ("train", 10),
        ("train", 20),
        ("train", 25),
        ("validation", 25),
    ]
    assert (
        records[0]["losses"]["mask_iou"] == 0.5
        and records[0]["loss"] == 7.0
        and records[0]["terms"] == {"bce": 1.0}
    )
    assert records[1]["mask_weights"] == {"bce": 0.5} and "mask_weights" not in records[0]
    assert records[-1]["segm"] == {"ap": 0.5, "max_dets": 100} and records[-1]["best"]
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/total")] == [10, 20, 25]
    assert [e.step for e in events.Scalars("validation_mask/ap")] == [25]
    assert [e.value for e in events.Scalars("mask_weights/bce")] == [0.5]
    assert not {"validation_box/ap", "validation_mask/max_dets"} & set(events.Tags()["scalars"])
    assert "pictures/first" in events.Tags()["images"]


def test_environment_and_run_files(tmp_path):
    cfg = tiny.config()
    run = RunDir(tmp_path / "run").make()
    write_run_files(run, cfg, torch.device("cpu"), 1, None)
    write_run_files(run, cfg, torch.device("cpu"), 1, 7)
    found = json.loads((run.path / "env.json").read_text())
    assert (
        found["seed"] == 3
        and found["versions"]["torch"] == torch.__version__.split("+")[0]
        and found["resumed"][0]["step"] == 7
    )
    assert {"argv", "code", "commit", "device", "started", "precision", "threads"} <= found.keys()
    from data.resolve import load_config

    assert load_config(run.path / "config.yaml", check_names=False).train == cfg.train


def test_commit_is_that_of_the_checkout():
    root = Path(__file__).resolve().parents[3]
    found = commit()
    assert (found is None) == (not (root / ".git").exists()) or found is None
    assert environment(tiny.config(), torch.device("cpu"), 1)["commit"] == found
