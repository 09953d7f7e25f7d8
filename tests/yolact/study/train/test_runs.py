"""Running studies: nothing lost, nothing run twice, whoever is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.yolact.study.train.stubbed import (
    DRIVER,
    all_runs,
    check_nothing_lost_or_run_twice,
    driver,
    holding,
    journal,
    run,
    wait_for,
)
from yolact.study.folder.locks import claim, claimed, is_held, release
from yolact.study.folder.progress import is_done, progress
from yolact.study.plan import load_study


def test_a_study_is_run_and_a_second_call_has_nothing_to_do(folder, capsys):
    assert run() == 0
    text = capsys.readouterr().out
    assert (
        "study      s: 2 arms x 2 seeds (0, 1)" in text
        and "lr rule    constant" in text
        and "loss.mask=dice" in text
    )
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
    assert (
        len(re.findall(r"failed: bce/seed\d-\w+: error: step 2: mask = nan", out)) == 2
        and "2 done, 2 failed" in out
    )
    monkeypatch.delenv("STUB_FAIL")
    assert run() == 0, "the next sweep tries again, from the last checkpoint"
    assert [step for _, step in journal(folder)[all_runs()[0].name]] == [0, 1, 1, 2, 3, 4, 5, 6]


def test_status_print_and_single_runs(folder, capsys):
    assert run("--status") == 0
    assert re.search(r"bce +\. +\.\n", capsys.readouterr().out)
    assert run("--print") == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 4 and commands[1].endswith(
        f"s.yaml --run {all_runs()[1].name} --device cpu"
    )
    assert run("--run", all_runs()[1].name) == 0
    assert list(journal(folder)) == [all_runs()[1].name]
    capsys.readouterr()
    assert run("--print") == 0 and len(capsys.readouterr().out.splitlines()) == 3
    assert (
        run("--run", "dise/seed0") == 2
        and "no run is called 'dise/seed0'" in capsys.readouterr().err
    )


def test_a_planned_run_does_not_wait_for_results_of_others(folder, capsys):
    """A queued job trains its run, though a results file has gone since it was planned."""
    with (folder / "s.yaml").open("a") as file:
        file.write("external: {theirs: theirs.json}\n")
    (folder / "theirs.json").write_text("[]")
    assert run("--print") == 0
    (folder / "theirs.json").unlink()
    assert run("--print") == 2 and "theirs.json" in capsys.readouterr().err
    assert run("--run", all_runs()[0].name) == 0


def test_changes_on_the_command_line(folder, capsys):
    assert run("--status", "seeds=1", "train.batch_size=2", "name=other") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["mask_ap", "seed", "0"]
    assert run("--status", "sedes=1") == 2 and "did you mean seeds" in capsys.readouterr().err


def test_a_begun_study_keeps_its_plan(folder, capsys):
    assert run("seeds=1") == 0
    assert run() == 2
    assert (
        "begun with other settings (seeds: (0,) -> (0, 1)): write more seeds as added_seeds:"
        in capsys.readouterr().err
    )
    assert run("seeds=1", "added_seeds=[7]") == 0 and load_study(
        "runs/s/study.yaml"
    ).added_seeds == (7,)
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
    assert (
        "docs/studies/s/study.yaml was begun with other settings (margin: 0.5 -> 2.0)"
        in capsys.readouterr().err
    )
    assert run("seeds=1") == 0 and load_study("runs/s/study.yaml").margin == 0.5, (
        "a report of runs/s needs the plan there"
    )


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_killed_drivers_and_workers_lose_nothing(folder, hold):
    """kill -9 of a driver (its workers train on), of a worker (its driver resumes it), of a driver
    again, and of a worker left alone."""
    first = driver("--jobs=2")
    orphans = wait_for(lambda: len(holding(folder)) == 2 and holding(folder))
    kill(first)
    second = driver("--jobs=2")
    others = wait_for(
        lambda: (
            len(holding(folder)) == 4
            and {name: pid for name, pid in holding(folder).items() if name not in orphans}
        )
    )
    name, pid = next(iter(others.items()))
    os.kill(pid, signal.SIGKILL)
    # resumed
    wait_for(lambda: journal(folder)[name][-1][1] == 2 and journal(folder)[name][-1][0] != pid)
    kill(second)
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
    status = subprocess.run(
        [sys.executable, "-c", DRIVER, "s.yaml", "--status"], capture_output=True, text=True
    )
    assert re.search(r"bce +33%", status.stdout) and "2 running, 2 waiting" in status.stdout
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and out.count("interrupted  ") == 2
    assert [progress(Path("runs"), r).state for r in all_runs()] == ["interrupted"] * 2 + [
        "waiting"
    ] * 2
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
    assert (
        not is_done(two, all_runs()[1].config) and run() == 0 and is_done(two, all_runs()[1].config)
    )
    assert not (one / "pictures").exists()


def test_an_archived_run_counts_as_done(folder, capsys):
    one = all_runs()[0]
    assert run() == 0
    archive = folder / "docs" / "studies" / "s" / "runs" / one.arm.slug
    archive.mkdir(parents=True)
    # named by an older version's hash
    os.rename(Path("runs") / one.folder, archive / f"seed{one.seed}-01d01d01")
    before = (folder / "journal").read_text()
    assert run() == 0 and (folder / "journal").read_text() == before
    text = (archive / f"seed{one.seed}-01d01d01" / "config.yaml").read_text()
    (archive / f"seed{one.seed}-01d01d01" / "config.yaml").write_text(
        text.replace("iou_crop: false", "iou_crop: true")
    )
    assert run("--status") == 0 and "3 done, 1 waiting" in capsys.readouterr().out.splitlines()[-1]


def test_the_shared_start_is_trained_first_and_once(folder, capsys):
    assert run("--status", "init_from={iterations: 3}", "name=t") == 0
    assert re.search(r"_init +\. *\nbce +\. +\.\n", capsys.readouterr().out), (
        "it shows while it is open"
    )
    assert run("init_from={iterations: 3}", "name=t") == 0
    names = [line.split()[0] for line in (folder / "journal").read_text().splitlines()]
    assert (
        names[:4] == [names[0]] * 4
        and names[0].startswith("_init/seed0-")
        and len(set(names[4:])) == 4
    )
    assert not [name for name in names[4:] if name.startswith("_init")]
    assert "_init/seed0-" in capsys.readouterr().out
    assert (
        run("--status", "init_from={iterations: 3}", "name=t") == 0
        and "_init" not in capsys.readouterr().out
    )


def test_a_failed_start_stops_the_study(folder, capsys, monkeypatch):
    monkeypatch.setenv("STUB_FAIL", "mse")
    assert run("init_from={iterations: 3, settings: {loss.mask: mse}}", "name=t") == 1
    assert (
        "the checkpoint that every run starts from could not be trained: error: step 2"
        in capsys.readouterr().err
    )
    assert not journal(folder)["bce"]
