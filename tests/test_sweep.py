"""Running studies: nothing lost, nothing run twice, whoever is killed. Most of it trains a stub; the end trains a real, tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from data.arms import expand, runs_of
from data.resolve import dump_yaml
from data.study import load_study
from scripts import sweep, sweep_local, sweep_search, sweep_state, sweep_worker
from scripts.sweep_stages import plan_of
from scripts.sweep_state import claim, claimed, is_done, is_held, metric, progress, read_metrics, release
from tests.engine import tiny
from yolact.engine.train import train

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = sweep_state.ARCHIVE
STUB = ROOT / "tests" / "stub_train.py"
DRIVER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from scripts import sweep, sweep_local, sweep_worker
sweep_worker.TRAIN, sweep.check_losses, sweep_local.POLL_OTHERS = Path({str(STUB)!r}), lambda *_: [], 0.3
sweep.code_of_today = lambda: "stub"
sys.exit(sweep.cli.run(sweep.main, sweep.read_arguments(sys.argv[1:])))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a study of 4 runs of 6 steps; trainings are the stub's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(sweep_worker, "TRAIN", STUB)
    monkeypatch.setattr(sweep_local, "POLL_OTHERS", 0.1)
    monkeypatch.setattr(sweep_local, "POLL", 0.02)
    monkeypatch.setattr(sweep, "check_losses", lambda *_: [])
    monkeypatch.setattr(sweep, "code_of_today", lambda: "stub")
    monkeypatch.setattr(sweep_state, "ARCHIVE", tmp_path / "docs" / "studies")
    (tmp_path / "s.yaml").write_text("base: quickstart\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 6\n")
    return tmp_path


@pytest.fixture
def hold(folder, monkeypatch):
    """While this file is there, trainings wait after their second step."""
    monkeypatch.setenv("STUB_HOLD", str(folder / "hold"))
    (folder / "hold").touch()
    return folder / "hold"


def run(*words):
    return sweep.cli.run(sweep.main, sweep.read_arguments(["s.yaml", "--device=cpu", *words]))


def driver(*words):
    return subprocess.Popen([sys.executable, "-c", DRIVER, "s.yaml", "--device=cpu", *words], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def all_runs(file="s.yaml"):
    made = load_study(file)
    return runs_of(made, expand(made))


def journal(folder):
    """{run: [(pid, step), ...]} in the order of time."""
    found = defaultdict(list)
    for line in (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else ():
        name, pid, step = line.split()
        found[name].append((int(pid), int(step)))
    return found


def check_nothing_lost_or_run_twice(folder, steps=6):
    """Every step of every run was done once, and no two processes shared a run. (The stub is never killed in the middle of a step.)"""
    found = journal(folder)
    assert sorted(found) == sorted(run.name for run in all_runs())
    for entries in found.values():
        pids = [pid for pid, _ in entries]
        assert sum(a != b for a, b in zip(pids, pids[1:], strict=False)) == len(set(pids)) - 1, "one process after the other"
        starts = {pids.index(pid) for pid in pids}
        assert [step for at, (_, step) in enumerate(entries) if at not in starts] == list(range(1, steps + 1))


def holding(folder):
    """{run: pid} of the trainings that wait at step 2."""
    return {name: entries[-1][0] for name, entries in journal(folder).items() if entries[-1][1] == 2}


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def test_a_study_is_run_and_a_second_call_has_nothing_to_do(folder, capsys):
    assert run() == 0
    text = capsys.readouterr().out
    assert "study      s: 2 arms x 2 seeds (0, 1)" in text and "lr rule    constant" in text and "loss.mask=dice" in text
    assert re.search(r"bce +3.00 +4.00\ndice +4.00 +5.00\n4 done", text)
    check_nothing_lost_or_run_twice(folder)
    before = (folder / "journal").read_text()
    assert run() == 0 and (folder / "journal").read_text() == before
    assert "started" not in capsys.readouterr().out
    assert load_study("runs/s/study.yaml").seeds == (0, 1)


def test_a_failed_run_is_reported_and_the_others_go_on(folder, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "bce")
    assert run() == 1
    out = capsys.readouterr().out
    assert len(re.findall(r"failed: bce/seed\d-\w+: error: step 2: mask = nan", out)) == 2 and "2 done, 2 failed" in out
    monkeypatch.delenv("STUB_FAIL")
    assert run() == 0, "the next sweep tries again, from the last checkpoint"
    assert [step for _, step in journal(folder)[all_runs()[0].name]] == [0, 1, 1, 2, 3, 4, 5, 6]


def test_status_print_and_single_runs(folder, capsys):
    assert run("--status") == 0
    assert re.search(r"bce +\. +\.\n", capsys.readouterr().out)
    assert run("--print") == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 4 and commands[1].endswith(f"s.yaml --run {all_runs()[1].name} --device cpu")
    assert run("--run", all_runs()[1].name) == 0
    assert list(journal(folder)) == [all_runs()[1].name]
    capsys.readouterr()
    assert run("--print") == 0 and len(capsys.readouterr().out.splitlines()) == 3
    assert run("--run", "dise/seed0") == 2 and "no run is called 'dise/seed0'" in capsys.readouterr().err


def test_changes_on_the_command_line(folder, capsys):
    assert run("--status", "seeds=1", "train.batch_size=2", "name=other") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["mask_ap", "seed", "0"]
    assert run("--status", "sedes=1") == 2 and "did you mean seeds" in capsys.readouterr().err


def test_a_begun_study_keeps_its_plan(folder, capsys):
    assert run("seeds=1") == 0
    assert run() == 2
    assert "begun with other settings (seeds: (0,) -> (0, 1)): write more seeds as added_seeds:" in capsys.readouterr().err
    assert run("seeds=1", "added_seeds=[7]") == 0 and load_study("runs/s/study.yaml").added_seeds == (7,)
    assert run("seeds=1", "added_seeds=[7]", "margin=2") == 2
    assert run("seeds=1", "added_seeds=[7]", "margin=2", "--amend") == 0
    kept = load_study("runs/s/study.yaml")
    assert (kept.amended, kept.margin) == (("margin",), 2)
    assert run("seeds=1", "added_seeds=[7]", "margin=2") == 0, "the amended plan is the plan now"


def test_a_kept_study_keeps_its_plan_too(folder, capsys):
    assert run("seeds=1") == 0
    (folder / "docs" / "studies" / "s").mkdir(parents=True)
    os.rename("runs/s/study.yaml", "docs/studies/s/study.yaml")
    shutil.rmtree("runs")
    assert run("seeds=1", "margin=2") == 2
    assert "docs/studies/s/study.yaml was begun with other settings (margin: 0.5 -> 2.0)" in capsys.readouterr().err
    assert run("seeds=1") == 0 and load_study("runs/s/study.yaml").margin == 0.5, "a report of runs/s needs the plan there"
    assert ARCHIVE == ROOT / "docs" / "studies", "wherever the sweep is called from"


def test_killed_drivers_and_workers_lose_nothing(folder, hold):
    """kill -9 of a driver (its workers train on), of a worker (its driver resumes it), of a driver again, and of a worker left alone."""
    first = driver("--jobs=2")
    orphans = wait_for(lambda: len(holding(folder)) == 2 and holding(folder))
    first.kill()
    first.wait()
    second = driver("--jobs=2")
    others = wait_for(lambda: len(holding(folder)) == 4 and {name: pid for name, pid in holding(folder).items() if name not in orphans})
    name, pid = next(iter(others.items()))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: journal(folder)[name][-1][1] == 2 and journal(folder)[name][-1][0] != pid)  # resumed
    second.kill()
    second.wait()
    os.kill(next(iter(orphans.values())), signal.SIGKILL)
    last = driver("--jobs=2")
    hold.unlink()
    out = last.communicate(timeout=300)[0]
    assert last.returncode == 0, out
    check_nothing_lost_or_run_twice(folder)


def test_two_drivers_share_a_study(folder, hold):
    both = [driver("--jobs=1") for _ in range(2)]
    wait_for(lambda: len(holding(folder)) == 2)
    hold.unlink()
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert sum(out.count("started") for out in outs) == 4
    check_nothing_lost_or_run_twice(folder)
    assert all("4 done" in out for out in outs), "each waits for the other's runs"


def test_a_signal_saves_and_the_next_sweep_goes_on(folder, hold):
    process = driver("--jobs=2")
    wait_for(lambda: len(holding(folder)) == 2)
    status = subprocess.run([sys.executable, "-c", DRIVER, "s.yaml", "--status"], capture_output=True, text=True)
    assert re.search(r"bce +33%", status.stdout) and "2 running, 2 waiting" in status.stdout
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and out.count("interrupted  ") == 2
    assert [progress(Path("runs"), r).state for r in all_runs()] == ["interrupted"] * 2 + ["waiting"] * 2
    hold.unlink()
    assert run() == 0
    check_nothing_lost_or_run_twice(folder)


def test_a_lock_lives_as_long_as_who_trains(folder):
    root, one = Path("runs"), all_runs()[0]
    lock = claim(root, one)
    assert claim(root, one) is None and is_held(root, one)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock])
    release(lock)
    assert claim(root, one) is None, "the training inherited it"
    child.kill()
    child.wait()
    with claimed(root, one) as again:
        assert again is not None
    assert not is_held(root, one)


def test_half_written_runs_start_again(folder):
    """A kill before the first checkpoint, and one in the middle of the last line."""
    one, two = (Path("runs") / r.folder for r in all_runs()[:2])
    (one / "pictures").mkdir(parents=True)
    (one / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    assert run() == 0
    lines = (two / "metrics.jsonl").read_text()
    (two / "metrics.jsonl").write_text(lines[:-20])
    assert not is_done(two, all_runs()[1].config) and run() == 0 and is_done(two, all_runs()[1].config)
    assert not (one / "pictures").exists()


def test_an_archived_run_counts_as_done(folder, capsys):
    one = all_runs()[0]
    assert run() == 0
    archive = folder / "docs" / "studies" / "s" / "runs" / one.arm.slug
    archive.mkdir(parents=True)
    os.rename(Path("runs") / one.folder, archive / f"seed{one.seed}-01d01d01")  # named by an older version's hash
    before = (folder / "journal").read_text()
    assert run() == 0 and (folder / "journal").read_text() == before
    text = (archive / f"seed{one.seed}-01d01d01" / "config.yaml").read_text()
    (archive / f"seed{one.seed}-01d01d01" / "config.yaml").write_text(text.replace("iou_crop: false", "iou_crop: true"))
    assert run("--status") == 0 and "3 done, 1 waiting" in capsys.readouterr().out.splitlines()[-1]


def test_the_shared_start_is_trained_first_and_once(folder, capsys):
    assert run("--status", "init_from={iterations: 3}", "name=t") == 0
    assert re.search(r"_init +\. *\nbce +\. +\.\n", capsys.readouterr().out), "it shows while it is open"
    assert run("init_from={iterations: 3}", "name=t") == 0
    names = [line.split()[0] for line in (folder / "journal").read_text().splitlines()]
    assert names[:4] == [names[0]] * 4 and names[0].startswith("_init/seed0-") and len(set(names[4:])) == 4
    assert not [name for name in names[4:] if name.startswith("_init")]
    assert "_init/seed0-" in capsys.readouterr().out
    assert run("--status", "init_from={iterations: 3}", "name=t") == 0 and "_init" not in capsys.readouterr().out


def test_a_failed_start_stops_the_study(folder, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "mse")
    assert run("init_from={iterations: 3, settings: {loss.mask: mse}}", "name=t") == 1
    assert "the checkpoint that every run starts from could not be trained: error: step 2" in capsys.readouterr().err
    assert not journal(folder)["bce"]


@pytest.fixture
def tuned(folder):
    """A study with 2 trials an arm, on a data set of which images can be held out."""
    (folder / "base.yaml").write_text(dump_yaml(tiny.config(tiny.write_dataset(folder / "data"))))
    (folder / "s.yaml").write_text("base: base.yaml\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 6\n"
                                   "tune: {grid: {loss.mask_weight: [3, 12]}, budget: 3, share: 0.3}\n"
                                   "search: {settings: {loss.mask: 'bce + {a}*dice'}, space: {a: {low: 1, high: 3}}, trials: 4,\n"
                                   "         budget: 2}\n")
    return folder


def test_tuning_comes_first_and_is_written_down(tuned, capsys):
    assert run("--print") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4 and "_tune/dice/seed10000-" in said.out and "these are the tuning trials" in said.err
    assert run("--status") == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert rows == [f"{arm}: mask_weight={weight}" for arm in ("bce", "dice") for weight in (3, 12)], "a row a trial"
    assert run() == 0
    assert "tuned: bce: loss.mask_weight=3; dice: loss.mask_weight=12" in capsys.readouterr().out
    plan = plan_of(load_study("s.yaml"), Path("runs"))
    assert {(r.arm.label, r.config.loss.mask_weight) for r in plan.reported} == {("bce", 3), ("dice", 12)}
    assert all(trial.run.config.train.iterations == 3 for trial in plan.trials)
    (tuned / "runs" / "s" / "_tune").rename(tuned / "gone")
    assert run("added_seeds=[5]") == 0 and "_tune" not in capsys.readouterr().out, "tune.json is enough to add seeds"
    changed = tuned / "runs" / "s" / "tune.json"
    text = changed.read_text()
    changed.write_text(text.replace('"dice"', '"mse"'))
    assert run("--status") == 2 and "is of another tuning, of other arms: delete it" in capsys.readouterr().err
    changed.write_text(text)
    assert run("--status", "tune={grid: {loss.mask_weight: [3, 11]}, budget: 3, share: 0.3}") == 2, "as many trials, but others"
    assert "is of another tuning, of other tune, arms" in capsys.readouterr().err
    assert run("--status", "train.lr=0.1") == 2 and "of other settings: delete" in capsys.readouterr().err
    assert run("--status") == 0


def test_failed_trials_stop_before_the_reported_runs(tuned, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "dice")
    assert run() == 1
    assert "the tuning is not complete, so no reported run was started" in capsys.readouterr().err
    assert {name.split("/")[0] for name in journal(tuned)} == {"bce", "dice"} and not list((tuned / "runs" / "s").glob("bce/seed*"))


def test_a_search_ends_goes_on_and_shares_its_journal(tuned, capsys):
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed (the extra `search`)")
    assert run("--search", "search={settings: {loss.mask: 'bce + {a}*dice'}, space: {a: [1, 2]}, trials: 2, budget: 2}") == 0
    text = capsys.readouterr().out
    assert "2 trials; mask_ap on the tune split" in text and re.search(r"- \{loss.mask: 'bce \+ [12]\*dice'\}", text)
    assert run("--search", "search={settings: {loss.mask: 'bce + {a}*dice'}, space: {a: [1, 2]}, trials: 4, budget: 2}") == 0
    assert "4 trials" in capsys.readouterr().out, "the journal is continued"
    assert len(journal(tuned)) <= 2, "equal configs are trained once"
    made = load_study("s.yaml").model_copy(update={"name": "other"})
    _, shared = sweep_search.open_journal(made, Path("runs"))
    abandoned = shared.ask()
    abandoned.suggest_float("a", 1, 3)
    assert run("--search", "name=other") == 0
    _, shared = sweep_search.open_journal(made, Path("runs"))
    assert [trial.state for trial in shared.trials] == [optuna.trial.TrialState.COMPLETE] * 4, "a dead process' trial is taken over"


def test_another_study_does_not_train_the_same_again(folder, capsys):
    assert run() == 0
    before = (folder / "journal").read_text()
    assert run("name=second", "margin=1") == 0
    assert (folder / "journal").read_text() == before and capsys.readouterr().out.count("linked       ") == 4
    link = folder / "runs" / "second" / all_runs()[0].name
    assert link.is_symlink() and (link / "config.yaml").is_file()
    (folder / "runs" / "s" / all_runs()[0].name / "env.json").write_text('{"code": "older"}')
    assert run("name=third") == 0 and capsys.readouterr().out.count("linked       ") == 3, "other code may train something else"


def test_kept_runs_and_trials_of_other_studies_are_not_trained_again(tuned, capsys):
    assert run("search=null") == 0
    kept = tuned / "docs" / "studies" / "kept" / "runs"
    kept.parent.mkdir(parents=True)
    kept.mkdir()
    os.rename("runs/s/bce", kept / "bce")
    before = (tuned / "journal").read_text()
    assert run("name=second", "margin=1", "search=null") == 0
    assert (tuned / "journal").read_text() == before and capsys.readouterr().out.count("linked       ") == 8
    trial = next(Path("runs/second/_tune/dice").iterdir())
    assert trial.is_symlink() and next(Path("runs/second/bce").iterdir()).resolve().is_relative_to(kept)


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
    monkeypatch.setattr(sweep_state.json, "loads", lambda text, real=json.loads: parsed.append(text) or real(text))
    first = progress(root, one)
    parsed.clear()
    assert progress(root, one) == first and not parsed
    with (root / one.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 7}) + "\n")
    assert progress(root, one).step == 7 and parsed


def test_the_final_weights_count_and_not_the_best(folder):
    one = Path("runs") / all_runs()[0].folder
    assert run() == 0
    first = {"kind": "validation", "step": 3, "best": True, "bbox": {"ap": 0.9}, "segm": {"ap": 0.9}}
    lines = (one / "metrics.jsonl").read_text().splitlines()
    (one / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(first), *lines[1:]]) + "\n")
    assert progress(Path("runs"), all_runs()[0]).value == pytest.approx(3.0)
    assert metric(read_metrics(one)[1], "box_ap") == 90


def test_a_dry_run_shows_arms_cost_and_power_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(dump_yaml(tiny.config(tiny.write_dataset(tmp_path / "data"))))
    (tmp_path / "s.yaml").write_text("base: base.yaml\narms: [bce, {train.batch_size: 2}]\nbaseline: bce\nseeds: 3\nbudget: 100\n"
                                     "equal: images\nlr_rule: linear\ninit_from: {iterations: 10}\n")
    assert run("--dry_run", "--sd=0.5", "--floor=0.1") == 0
    out = capsys.readouterr().out
    assert "bce           batch 4, 100 iterations, lr 0.001 (baseline)" in out
    assert "batch_size=2  batch 2, 200 iterations, lr 0.0005: train.batch_size=2 (and so iterations, lr, lr_steps)" in out
    assert re.search(r"power      for a seed sd of 0.5 and a floor of 0.1: a difference as large as the margin is found with \d+ %", out)
    assert re.search(r"about [\d.]+ minutes for 6 runs, the shared start, 1 at a time on cpu", out)
    assert re.search(r"\n  _init/ +seed0-\w{8}\n  bce/ +seed0-\w{8} seed1-\w{8} seed2-\w{8}\n  batch_size=2/ seed0-", out)
    assert run("--dry_run", "--run", re.search(r"  bce/ +(seed0-\w{8})", out)[1].join(["bce/", ""])) == 0
    shown = capsys.readouterr().out
    assert shown == dump_yaml(all_runs()[0].config) and "\n  iterations: 100\n" in shown, "the whole config, to be piped into a file"
    assert not (tmp_path / "runs").exists()
    assert run("--sd=0.5") == 2 and "--sd and --floor belong together" in capsys.readouterr().err


def kill_once(driver, folder):
    """kill -9 of the first training, once it has saved and gone on."""
    if not driver.lost and driver.active and len(read_metrics(folder)) >= 3 and (folder / "weights" / "last.pth").exists():
        for worker in driver.active.values():
            worker.process.kill()


def test_a_real_training_is_killed_and_resumed(tmp_path, monkeypatch):
    """kill -9 in the middle of a real run: the sweep resumes it, and its metrics are those of an uninterrupted one."""
    monkeypatch.chdir(tmp_path)
    data = tiny.write_dataset(tmp_path / "data")
    (tmp_path / "base.yaml").write_text(dump_yaml(tiny.config(data, iterations=8, save_every=2, log_every=1)))
    (tmp_path / "s.yaml").write_text("base: base.yaml\narms: [bce]\nbaseline: bce\nseeds: 1\nbudget: 40\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, root, said = Path("runs") / all_runs()[0].folder, Path("runs"), []
    driver = sweep_local.Driver(root, [sweep_local.Slot("cpu", 0)], say=said.append, tick=lambda: kill_once(driver, one))
    assert driver.drive(all_runs()) and [line.split()[0] for line in said] == ["started", "lost", "started", "done"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(all_runs()[0].config, run_dir="whole", device="cpu")
    finally:
        torch.set_num_threads(before)
    kept = [[{k: record.get(k) for k in ("step", "loss", "segm")} for record in read_metrics(folder)] for folder in (one, Path("whole"))]
    assert kept[0] == kept[1] and len(kept[0]) == 41
