"""Studies whose trainings are the stub's, run in this process or in drivers that may be killed."""

import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from yolact.commands import sweep
from yolact.study.arms import arms_of, runs_of
from yolact.study.plan import load_study

ROOT = Path(__file__).resolve().parents[4]
STUB = Path(__file__).parent / "stub_train.py"
DRIVER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.yolact.study.train.stubbed import stub_command
from yolact.commands import sweep
from yolact.study import handle
from yolact.study.train import local, worker
worker.yolact_command, handle.check_losses, local.POLL_OTHERS = stub_command, lambda *_: [], 0.3
handle.code_of_today = lambda: "stub"
sys.exit(sweep.program(sys.argv[1:]))
"""


def stub_command(name, *words):
    """What stands in for `yolact train`."""
    assert name == "train"
    return [sys.executable, str(STUB), *words]


def run(*words):
    return sweep.program(["s.yaml", "--device=cpu", *words])


def driver(*words):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "s.yaml", "--device=cpu", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def all_runs(file="s.yaml"):
    made = load_study(file)
    return runs_of(made, arms_of(made))


def journal(folder):
    """{run: [(pid, step), ...]} in the order of time."""
    found = defaultdict(list)
    for line in (
        (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else ()
    ):
        name, pid, step = line.split()
        found[name].append((int(pid), int(step)))
    return found


def check_nothing_lost_or_run_twice(folder, steps=6):
    """Every step of every run was done once, and no two processes shared a run. (The stub is never
    killed in the middle of a step.)"""
    found = journal(folder)
    assert sorted(found) == sorted(run.name for run in all_runs())
    for entries in found.values():
        pids = [pid for pid, _ in entries]
        assert sum(a != b for a, b in zip(pids, pids[1:], strict=False)) == len(set(pids)) - 1, (
            "one process after the other"
        )
        starts = {pids.index(pid) for pid in pids}
        assert [step for at, (_, step) in enumerate(entries) if at not in starts] == list(
            range(1, steps + 1)
        )


def holding(folder):
    """{run: pid} of the trainings that wait at step 2."""
    return {
        name: entries[-1][0] for name, entries in journal(folder).items() if entries[-1][1] == 2
    }


def wait_for(condition, seconds=200, every=0.02):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found
