"""What studies do beside their runs: tuning, searches, shared work, dry runs; the end trains a
real, tiny model."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from data.resolve import dump_yaml
from tests.yolact.study.train.stubbed import all_runs, journal, run
from yolact.engine.train import train
from yolact.study.folder import reading
from yolact.study.folder.progress import progress
from yolact.study.folder.reading import metric, read_metrics
from yolact.study.plan import load_study
from yolact.study.train import local as sweep_local
from yolact.study.train import search as sweep_search
from yolact.study.train import worker as sweep_worker
from yolact.study.train.stages import plan_of
from yolact.testing import tiny


def test_tuning_comes_first_and_is_written_down(tuned, capsys):
    assert run("--print") == 0
    said = capsys.readouterr()
    assert (
        len(said.out.splitlines()) == 4
        and "_tune/dice/seed10000-" in said.out
        and "these are the tuning trials" in said.err
    )
    assert run("--status") == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert rows == [
        f"{arm}: mask_weight={weight}" for arm in ("bce", "dice") for weight in (3, 12)
    ], "a row a trial"
    assert run() == 0
    assert "tuned: bce: loss.mask_weight=3; dice: loss.mask_weight=12" in capsys.readouterr().out
    plan = plan_of(load_study("s.yaml"), Path("runs"))
    assert {(r.arm.label, r.config.loss.mask_weight) for r in plan.reported} == {
        ("bce", 3),
        ("dice", 12),
    }
    assert all(trial.run.config.train.iterations == 3 for trial in plan.trials)
    (tuned / "runs" / "s" / "_tune").rename(tuned / "gone")
    assert run("added_seeds=[5]") == 0 and "_tune" not in capsys.readouterr().out, (
        "tune.json is enough to add seeds"
    )
    changed = tuned / "runs" / "s" / "tune.json"
    text = changed.read_text()
    changed.write_text(text.replace('"dice"', '"mse"'))
    assert (
        run("--status") == 2
        and "is of another tuning, of other arms: delete it" in capsys.readouterr().err
    )
    changed.write_text(text)
    assert (
        run("--status", "tune={grid: {loss.mask_weight: [3, 11]}, budget: 3, share: 0.3}") == 2
    ), "as many trials, but others"
    assert "is of another tuning, of other tune, arms" in capsys.readouterr().err
    assert (
        run("--status", "train.lr=0.1") == 2
        and "of other settings: delete" in capsys.readouterr().err
    )
    assert run("--status") == 0


def test_failed_trials_stop_before_the_reported_runs(tuned, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "dice")
    assert run() == 1
    assert "the tuning is not complete, so no reported run was started" in capsys.readouterr().err
    assert {name.split("/")[0] for name in journal(tuned)} == {"bce", "dice"} and not list(
        (tuned / "runs" / "s").glob("bce/seed*")
    )


def test_a_search_ends_goes_on_and_shares_its_journal(tuned, capsys):
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed (the extra `search`)")
    assert (
        run(
            "--search",
            "search={settings: {loss.mask: 'bce + {a}*dice'}, space: {a: [1, 2]}, trials: 2, "
            "budget: 2}",
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "2 trials; mask_ap on the tune split" in text and re.search(
        r"- \{loss.mask: 'bce \+ [12]\*dice'\}", text
    )
    assert (
        run(
            "--search",
            "search={settings: {loss.mask: 'bce + {a}*dice'}, space: {a: [1, 2]}, trials: 4, "
            "budget: 2}",
        )
        == 0
    )
    assert "4 trials" in capsys.readouterr().out, "the journal is continued"
    assert len(journal(tuned)) <= 2, "equal configs are trained once"
    made = load_study("s.yaml").model_copy(update={"name": "other"})
    _, shared = sweep_search.open_journal(made, Path("runs"))
    abandoned = shared.ask()
    abandoned.suggest_float("a", 1, 3)
    assert run("--search", "name=other") == 0
    _, shared = sweep_search.open_journal(made, Path("runs"))
    assert [trial.state for trial in shared.trials] == [optuna.trial.TrialState.COMPLETE] * 4, (
        "a dead process' trial is taken over"
    )


def test_another_study_does_not_train_the_same_again(folder, capsys):
    assert run() == 0
    before = (folder / "journal").read_text()
    assert run("name=second", "margin=1") == 0
    assert (folder / "journal").read_text() == before and capsys.readouterr().out.count(
        "linked       "
    ) == 4
    link = folder / "runs" / "second" / all_runs()[0].name
    assert link.is_symlink() and (link / "config.yaml").is_file()
    (folder / "runs" / "s" / all_runs()[0].name / "env.json").write_text('{"code": "older"}')
    assert run("name=third") == 0 and capsys.readouterr().out.count("linked       ") == 3, (
        "other code may train something else"
    )


def test_kept_runs_and_trials_of_other_studies_are_not_trained_again(tuned, capsys):
    assert run("search=null") == 0
    kept = tuned / "docs" / "studies" / "kept" / "runs"
    kept.parent.mkdir(parents=True)
    kept.mkdir()
    os.rename("runs/s/bce", kept / "bce")
    before = (tuned / "journal").read_text()
    assert run("name=second", "margin=1", "search=null") == 0
    assert (tuned / "journal").read_text() == before and capsys.readouterr().out.count(
        "linked       "
    ) == 8
    trial = next(Path("runs/second/_tune/dice").iterdir())
    assert trial.is_symlink() and next(Path("runs/second/bce").iterdir()).resolve().is_relative_to(
        kept
    )


def test_a_study_whose_runs_are_all_kept_needs_no_start(folder, capsys):
    with (folder / "s.yaml").open("a") as file:
        file.write("init_from: {iterations: 3}\n")
    assert run() == 0
    shutil.rmtree(folder / "runs" / "s" / "_init")
    capsys.readouterr()
    assert run("--status") == run("--print") == 0
    said = capsys.readouterr().out
    assert "4 done" in said and "_init" not in said and "--run" not in said


def test_a_kept_run_without_weights_is_no_start(folder, capsys):
    assert run("seeds=1", "init_from={iterations: 3}", "name=t") == 0
    kept = folder / "docs" / "studies" / "t" / "runs"
    kept.mkdir(parents=True)
    os.rename("runs/t/_init", kept / "_init")
    shutil.rmtree(next(kept.glob("_init/*/weights")))
    shutil.rmtree("runs")
    capsys.readouterr()
    assert run("seeds=1", "init_from={iterations: 3}", "name=u", "margin=1") == 0
    assert "linked" not in capsys.readouterr().out


def test_a_full_disk_fails_the_run_alone(folder, capsys, monkeypatch):
    real, one = sweep_worker.write_whole, all_runs()[0]

    def full(path, text):
        if one.name in path.as_posix():
            raise OSError(28, f"cannot write {path} (No space left on device)")
        real(path, text)

    monkeypatch.setattr(sweep_worker, "write_whole", full)
    assert run() == 1
    out = capsys.readouterr().out
    assert re.search(rf"failed +{one.name}: .*No space left", out) and "3 done" in out


def test_metrics_are_read_again_only_once_they_have_changed(folder, monkeypatch):
    assert run() == 0
    root, one = Path("runs"), all_runs()[0]
    parsed = []
    monkeypatch.setattr(
        reading.json, "loads", lambda text, real=json.loads: parsed.append(text) or real(text)
    )
    first = progress(root, one)
    parsed.clear()
    assert progress(root, one) == first and not parsed
    with (root / one.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 7}) + "\n")
    assert progress(root, one).step == 7 and parsed


def test_the_final_weights_count_and_not_the_best(folder):
    one = Path("runs") / all_runs()[0].folder
    assert run() == 0
    first = {
        "kind": "validation",
        "step": 3,
        "best": True,
        "bbox": {"ap": 0.9},
        "segm": {"ap": 0.9},
    }
    lines = (one / "metrics.jsonl").read_text().splitlines()
    (one / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(first), *lines[1:]]) + "\n")
    assert progress(Path("runs"), all_runs()[0]).value == pytest.approx(3.0)
    assert metric(read_metrics(one)[1], "box_ap") == 90


def test_a_dry_run_shows_arms_cost_and_power_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(
        dump_yaml(tiny.config(tiny.write_dataset(tmp_path / "data")))
    )
    (tmp_path / "s.yaml").write_text(
        "base: base.yaml\narms: [bce, {train.batch_size: 2}]\nbaseline: bce\nseeds: 3\nbudget: "
        "100\nequal: images\nlr_rule: linear\ninit_from: {iterations: 10}\n"
    )
    assert run("--dry_run", "--sd=0.5", "--floor=0.1") == 0
    out = capsys.readouterr().out
    assert "bce           batch 4, 100 iterations, lr 0.001 (baseline)" in out
    assert (
        "batch_size=2  batch 2, 200 iterations, lr 0.0005: train.batch_size=2 (and so iterations, "
        "lr, lr_steps)" in out
    )
    assert re.search(
        r"power      for a seed sd of 0.5 and a floor of 0.1, given this start: "
        r"a difference as large as the margin is found with \d+ %",
        out,
    )
    assert re.search(r"about [\d.]+ minutes for 6 runs, the shared start, 1 at a time on cpu", out)
    assert re.search(
        r"\n  _init/ +seed0-\w{8}\n  bce/ +seed0-\w{8} seed1-\w{8} seed2-\w{8}"
        r"\n  batch_size=2/ seed0-",
        out,
    )
    assert (
        run("--dry_run", "--run", re.search(r"  bce/ +(seed0-\w{8})", out)[1].join(["bce/", ""]))
        == 0
    )
    shown = capsys.readouterr().out
    assert shown == dump_yaml(all_runs()[0].config) and "\n  iterations: 100\n" in shown, (
        "the whole config, to be piped into a file"
    )
    assert run("--dry_run", "init_from={iterations: 10, per_seed: true}", "seeds=2") == 0
    out = capsys.readouterr().out
    assert re.search(r"about [\d.]+ minutes for 4 runs, 2 starts of [\d.]+ minutes, 1 at", out)
    assert re.search(r"\n  _init/ +seed0-\w{8} seed1-\w{8}\n  bce/ ", out)
    assert not (tmp_path / "runs").exists()
    assert run("--sd=0.5") == 2 and "--sd and --floor belong together" in capsys.readouterr().err


def kill_once(driver, folder):
    """kill -9 of the first training, once it has saved and gone on."""
    if (
        not driver.lost
        and driver.active
        and len(read_metrics(folder)) >= 3
        and (folder / "weights" / "last.pth").exists()
    ):
        for worker in driver.active.values():
            worker.process.kill()


def test_a_real_training_is_killed_and_resumed(tmp_path, monkeypatch):
    """kill -9 in the middle of a real run: the sweep resumes it, and its metrics are those of an
    uninterrupted one."""
    monkeypatch.chdir(tmp_path)
    data = tiny.write_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(
        dump_yaml(tiny.config(data, iterations=8, save_every=2, log_every=1))
    )
    (tmp_path / "s.yaml").write_text(
        "base: base.yaml\narms: [bce]\nbaseline: bce\nseeds: 1\nbudget: 40\n"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, root, said = Path("runs") / all_runs()[0].folder, Path("runs"), []
    driver = sweep_local.Driver(
        root, [sweep_local.Slot("cpu", 0)], say=said.append, tick=lambda: kill_once(driver, one)
    )
    assert driver.drive(all_runs()) and [line.split()[0] for line in said] == [
        "started",
        "lost",
        "started",
        "done",
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(all_runs()[0].config, run_dir="whole", device="cpu")
    finally:
        torch.set_num_threads(before)
    kept = [
        [{k: record.get(k) for k in ("step", "loss", "segm")} for record in read_metrics(folder)]
        for folder in (one, Path("whole"))
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 41
