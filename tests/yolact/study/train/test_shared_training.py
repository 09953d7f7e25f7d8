"""Arms that differ in eval.* alone: one training, an evaluation each."""

import json
import re
import shutil
from pathlib import Path

import pytest

from data.resolve import dump_yaml
from tests.yolact.study.train.stubbed import all_runs, journal, run
from yolact.engine.train import train
from yolact.study.arms import arms_of, runs_of
from yolact.study.folder.progress import Progress, is_done
from yolact.study.folder.reading import read_env, read_metrics, trained_by
from yolact.study.plan import load_study
from yolact.study.statistics.conditions import mixtures
from yolact.study.statistics.finished import load_run
from yolact.study.train import estimate
from yolact.study.train.local import local_slots
from yolact.study.train.stages import plan_of
from yolact.study.train.status import time_left
from yolact.study.train.worker import prepare_run
from yolact.testing import tiny

FINE = "{label: fine, loss.mask: bce, eval.masks: published}"


@pytest.fixture
def study(folder):
    """Arms bce, fine (bce evaluated otherwise) and dice; one seed."""
    text = (folder / "s.yaml").read_text()
    (folder / "s.yaml").write_text(
        text.replace("[bce, dice]", f"[bce, {FINE}, dice]").replace("seeds: 2", "seeds: 1")
    )
    return folder


def names():
    """{label: name} of the runs of one seed."""
    return {one.label: one.name for one in all_runs()}


def made(changes, **study):
    """The runs of arms bce and `changes`, as (arm, seed, arm of the training that they share)."""
    Path("t.yaml").write_text(
        json.dumps(
            {"base": "quickstart", "arms": ["bce", *changes], "baseline": "bce", "budget": 6}
            | {"seeds": 2, **study}
        )
    )
    return [
        (one.label, one.seed, one.shares and f"{one.shares.arm} {one.shares.seed}")
        for one in all_runs("t.yaml")
        if one.label != "bce"
    ]


def test_what_shares_a_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = {"label": "fine", "loss.mask": "bce", "eval.masks": "published"}
    two = {"label": "loose", "loss.mask": "bce", "eval.crop": False}
    assert made([one, two]) == [
        (arm, seed, f"bce {seed}") for seed in (0, 1) for arm in ("fine", "loose")
    ]
    assert made([{**one, "loss.mask": "dice"}, {**two, "loss.mask": "dice"}], seeds=1) == [
        ("fine", 0, None),
        ("loose", 0, "fine 0"),
    ], "the first of those that train alike is trained"
    assert {shared for *_, shared in made([{**one, "train.validate_images": 9}])} == {None}
    assert {shared for *_, shared in made([one], paired=False)} == {None}, "seeds of their own"


def test_one_training_serves_both_arms(study, capsys):
    assert run("--print") == 0
    printed = re.findall(r"--run (\S+)", capsys.readouterr().out)
    assert run() == 0
    steps = {name: [step for _, step in entries] for name, entries in journal(study).items()}
    bce, fine, dice = (names()[label] for label in ("bce", "fine", "dice"))
    assert list(steps) == printed == [bce, fine, dice]
    assert steps[bce] == steps[dice] == [0, 1, 2, 3, 4, 5, 6] and steps[fine] == [6]
    folder, source = study / "runs" / "s" / fine, study / "runs" / "s" / bce
    lines = read_metrics(folder)
    assert lines[:-1] == read_metrics(source)[:-1] and lines[-1]["kind"] == "validation"
    assert read_env(folder) == {"code": "stub", "weights_of": bce}
    assert (folder / "weights" / "last.pth").read_text() == "6"
    assert "masks: published" in (folder / "config.yaml").read_text()
    before = (study / "journal").read_text()
    assert run() == 0 and (study / "journal").read_text() == before


def test_one_run_alone_brings_the_training_that_it_shares(study):
    assert run("--run", names()["fine"]) == 0
    assert list(journal(study)) == [names()["bce"], names()["fine"]]


def test_a_shared_training_that_fails_takes_its_arms_with_it(study, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "bce")
    assert run() == 1
    assert list(journal(study)) == [names()["bce"], names()["dice"]]
    monkeypatch.delenv("STUB_FAIL")
    assert run() == 0 and [step for _, step in journal(study)[names()["fine"]]] == [6]


def test_without_the_weights_an_arm_trains_itself(study):
    assert run("--run", names()["bce"]) == 0
    shutil.rmtree(study / "runs" / "s" / names()["bce"] / "weights")
    assert run() == 0
    assert [step for _, step in journal(study)[names()["fine"]]] == list(range(7))
    assert "weights_of" not in read_env(study / "runs" / "s" / names()["fine"])


def test_a_kill_between_the_files_starts_again(study):
    assert run("--run", names()["bce"]) == 0
    folder = study / "runs" / "s" / names()["fine"]
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / ".last.pth.part").write_text("half")
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    assert run() == 0 and [step for _, step in journal(study)[names()["fine"]]] == [6]
    assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4, 5, 6, 6]
    assert not list((folder / "weights").glob(".*"))


def test_a_training_of_its_own_that_was_begun_goes_on(study):
    assert run("--run", names()["bce"]) == 0
    weights = study / "runs" / "s" / names()["bce"] / "weights" / "last.pth"
    fine = next(one for one in all_runs() if one.label == "fine")
    folder = study / "runs" / fine.folder
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "last.pth").write_text("3")
    assert "--resume" in prepare_run(folder, fine, "cpu", weights)
    assert (folder / "weights" / "last.pth").read_text() == "3"
    assert not (folder / "env.json").exists()


def test_a_shared_training_needs_its_start_once(study, capsys):
    with (study / "s.yaml").open("a") as file:
        file.write("init_from: {iterations: 3}\n")
    assert run("--run", names()["bce"]) == 0
    shutil.rmtree(study / "runs" / "s" / "_init")
    before = len(journal(study))
    assert run("--run", names()["fine"]) == 0 and len(journal(study)) == before + 1
    capsys.readouterr()
    assert run("--status") == 0 and "_init" in capsys.readouterr().out, "dice needs it still"


def test_a_dry_run_counts_one_training(study, monkeypatch):
    monkeypatch.setattr(estimate, "START", 0)
    monkeypatch.setattr(estimate, "time_run", lambda *_: (10.0, 30.0))
    made = load_study("s.yaml")
    arms, runs = arms_of(made), all_runs()
    words = estimate.describe_study(made, arms, runs, Path("runs"))
    assert "eval.masks=published (trained as bce)" in words and words.count("trained as") == 1
    cost = estimate.estimate_cost(made, runs, slots=local_slots(1, "cpu"))
    assert re.search(r"\n +fine +of bce, +30 s a validation x 1: 0.5 minutes a run", cost)
    assert "about 3.5 minutes for 3 runs" in cost, "6 steps and a validation twice, and one more"


def test_the_time_left_counts_one_training(study):
    runs = all_runs()
    found = {one.folder: Progress("waiting") for one in runs}
    batch = runs[0].config.train.batch_size
    found[runs[0].folder] = Progress("running", 2, images_per_s=batch / 5)  # 5 s a step
    assert time_left(found, runs) == "; about 0:00:50 of training left", "4 and 6 steps"


def test_an_evaluation_equals_that_of_a_training_of_its_own(tmp_path, monkeypatch):
    """Real weights: box AP and losses of the shared training, mask AP of the arm's own setting, bit
    for bit what training the arm gives; and runs that may stand in one table."""
    monkeypatch.chdir(tmp_path)
    base = tiny.config(
        tiny.write_dataset(tmp_path / "data"), iterations=4, log_every=2, validate_every=2
    )
    Path("base.yaml").write_text(dump_yaml(base))
    Path("s.yaml").write_text(
        f"base: base.yaml\narms: [bce, {FINE}]\nbaseline: bce\nseeds: 1\nbudget: 4\n"
        "settings: {eval.score_threshold: 0, eval.masks: subpixel}\n"
    )
    study = load_study("s.yaml")
    bce, fine = runs_of(study, arms_of(study))
    places = [Path("runs") / one.folder for one in (bce, fine)]
    train(bce.config, run_dir=places[0], device="cpu")
    weights = places[0] / "weights" / "last.pth"
    command = prepare_run(places[1], fine, "cpu", weights)
    assert "--resume" in command and not is_done(places[1], fine.config)
    train(fine.config, resume=places[1], device="cpu")
    train(fine.config, run_dir="own", device="cpu")
    shared, own = (read_metrics(place) for place in (places[1], Path("own")))
    own = [line for line in own if line["kind"] == "train" or line["step"] == 4]
    keys = ("kind", "step", "loss", "lr", "bbox", "segm")
    assert [[line.get(k) for k in keys] for line in shared] == [
        [line.get(k) for k in keys] for line in own
    ]
    assert is_done(places[1], fine.config)
    detections = [
        (place / "results" / "mask_detections.json").read_text() for place in (*places, Path("own"))
    ]
    assert detections[1] == detections[2] != detections[0]
    env = read_env(places[1])
    assert env["weights_of"] == bce.name and env["resumed"][0]["step"] == 4
    code = read_env(places[0])["code"]
    assert code and all(trained_by(place, code, {}) for place in places)
    runs = {str(place): load_run(place, resamples=20) for place in places}
    assert list(mixtures(runs, study, set())) == ["evaluation"]
    assert mixtures(runs, study, {"eval.masks"}) == {}
    assert plan_of(study, Path("runs")).open([bce, fine]) == []
