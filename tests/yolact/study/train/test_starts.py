"""Studies whose seeds have a start each: which are trained, when, and what trains from them."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from data.yaml_text import read_yaml
from tests.yolact.study.train.stubbed import all_runs, driver, holding, journal, run, wait_for
from yolact.study.arms import init_run
from yolact.study.folder.locks import claimed
from yolact.study.plan import load_study
from yolact.study.train.local import Driver, Slot
from yolact.study.train.stages import plan_of


@pytest.fixture
def starts(folder):
    """{seed: name of its start} of a study of two arms and two seeds."""
    with (folder / "s.yaml").open("a") as file:
        file.write("init_from: {iterations: 3, per_seed: true}\n")
    return {seed: init_run(load_study("s.yaml"), seed).name for seed in (0, 1, 2)}


def begun(folder):
    """Runs in the order in which they were begun."""
    return list(journal(folder))


def test_every_seed_of_every_arm_trains_from_its_own_start(folder, starts, capsys):
    assert run("--print") == 0
    printed = re.findall(r"--run (\S+)", capsys.readouterr().out)
    assert run() == 0
    order = begun(folder)
    assert order == printed
    assert [name.split("-")[0] for name in order] == [
        f"{arm}/seed{seed}" for seed in (0, 1) for arm in ("_init", "bce", "dice")
    ], "a start comes just before what needs it, so seeds are complete one by one"
    for one in all_runs():
        config = read_yaml((Path("runs") / one.folder / "config.yaml").read_text())
        assert config["train"]["init_from"] == f"runs/s/{starts[one.seed]}/weights/last.pth"
        assert config["train"]["seed"] == one.seed
    for seed in (0, 1):
        config = read_yaml(Path("runs", "s", starts[seed], "config.yaml").read_text())
        assert (config["train"]["seed"], config["train"]["iterations"]) == (seed, 3)
    capsys.readouterr()
    assert run("--status") == 0 and "_init" not in capsys.readouterr().out


def test_only_the_starts_that_are_needed_are_trained(folder, starts, capsys):
    second = next(one for one in all_runs() if one.seed == 1)
    assert run("--run", second.name) == 0 and begun(folder) == [starts[1], second.name]
    capsys.readouterr()
    assert run("--status") == 0
    assert re.search(
        r"mask_ap +seed 0 +seed 1\n_init +\. +\d+.00\nbce +\. +4.00\ndice +\. +\.\n2 done",
        capsys.readouterr().out,
    )
    assert run() == 0
    shutil.rmtree(folder / "runs" / "s" / "_init")
    (folder / "journal").unlink()
    assert run("added_seeds=[2]") == 0
    assert [name.split("-")[0] for name in begun(folder)] == [
        "_init/seed2",
        "bce/seed2",
        "dice/seed2",
    ]


def test_starts_and_runs_go_on_after_kills(folder, starts, monkeypatch):
    """kill -9 of the sweep and of one of two starts that train at once; then of the next sweep."""
    hold = folder / "hold"
    monkeypatch.setenv("STUB_HOLD", str(hold))
    hold.touch()
    first = driver("--jobs=2")
    held = wait_for(lambda: len(holding(folder)) == 2 and holding(folder))
    assert set(held) == {starts[0], starts[1]}, "starts train side by side"
    first.kill()
    os.kill(held[starts[0]], signal.SIGKILL)
    first.communicate()
    second = driver("--jobs=2")
    wait_for(lambda: journal(folder)[starts[0]][-1][0] != held[starts[0]])
    second.kill()
    second.communicate()
    last = driver("--jobs=2")
    hold.unlink()
    out = last.communicate(timeout=300)[0]
    assert last.returncode == 0 and "4 done" in out, out
    steps = {name: [step for _, step in found] for name, found in journal(folder).items()}
    for one in all_runs():
        assert steps[one.name][0] == 0 and steps[one.name][-1] == 6
        assert begun(folder).index(starts[one.seed]) < begun(folder).index(one.name)
    assert steps[starts[0]] == [0, 1, 2, 2, 3] and steps[starts[1]] == [0, 1, 2, 3]


def test_a_run_waits_until_its_start_has_ended(folder, starts):
    """Its records are there before the training has saved for the last time."""
    plan = plan_of(load_study("s.yaml"), Path("runs"))
    start, one = plan.due[:2]
    assert run("--run", start.name) == 0 and plan.done(start)
    said = []
    made = Driver(plan.root, [Slot("cpu", 0)], say=said.append)
    with claimed(plan.root, start):
        assert made._fill([one], made.slots[:], plan.start_of) == [one] and not said
    assert made.drive([one], plan.start_of) and plan.done(one)


def test_what_starts_from_a_failed_run_is_not_trained(folder, starts, capsys, monkeypatch):
    assert run("--run", starts[1]) == 0
    monkeypatch.setenv("STUB_FAIL", "mse")
    change = "init_from={iterations: 3, per_seed: true, settings: {loss.mask: mse}}"
    assert run(change, "name=t") == 1
    said = capsys.readouterr()
    assert [name.split("/")[0] for name in begun(folder)] == ["_init"] * 3
    for seed in (0, 1):
        assert (
            f"the checkpoint that seed {seed} starts from could not be trained: error: step 2"
            in said.err
        )
    assert "4 waiting" in said.out


def test_another_study_takes_the_starts_and_runs(folder, starts, capsys):
    assert run() == 0
    before = (folder / "journal").read_text()
    assert run("name=second", "margin=1") == 0
    assert (folder / "journal").read_text() == before
    assert capsys.readouterr().out.count("linked       ") == 6
    shared = "init_from={iterations: 3, seed: 1}"
    assert run("name=third", shared) == 0
    assert f"linked       {starts[1]}" in (said := capsys.readouterr().out)
    assert said.count("linked       bce/") == 1 and begun(folder)[6:] == [
        one.name
        for one in sorted(all_runs("runs/third/study.yaml"), key=lambda one: one.seed)
        if one.seed == 0
    ], "of a shared start, one seed is the same run"


def test_trials_have_starts_of_their_own(tuned, capsys):
    change = "init_from={iterations: 2, per_seed: true}"
    assert run(change, "search=null") == 0
    assert [name.split("-")[0] for name in begun(tuned) if "seed10000" in name][0] == (
        "_init/seed10000"
    )
    assert {name.split("-")[0] for name in begun(tuned) if name.startswith("_init")} == {
        f"_init/seed{seed}" for seed in (10000, 0, 1)
    }
    plan = read_yaml(Path("runs/s/tune.json").read_text())["plan"]
    assert plan["init_from"]["per_seed"] is True
    assert run("name=t", "init_from={iterations: 2}", "search=null") == 0
    plan = read_yaml(Path("runs/t/tune.json").read_text())["plan"]
    assert "per_seed" not in plan["init_from"], "as files have it that are older than this key"
    assert run("--status", "name=t", "init_from={iterations: 2}", "search=null") == 0
