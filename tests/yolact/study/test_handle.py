"""yolact.study: a study as one object, and how its trainings are started elsewhere."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.yolact.study.train.conftest import folder  # noqa: F401  a fixture
from yolact import study
from yolact.study.train import launch

ROOT = Path(__file__).parents[3]


def test_the_package_lists_what_it_offers_and_loads_nothing():
    assert dir(study) == study.__all__ and study.load.__doc__ and study.StudyHandle.__doc__
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        study.laod  # noqa: B018
    code = "import sys, yolact.study as s; s.load; print('torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(words, capture_output=True, text=True, env=env).stdout == "False\n"


def test_a_study_is_trained_by_its_handle(folder):  # noqa: F811
    made = study.load("s.yaml", ["seeds=1"])
    with pytest.raises(ValueError, match="has not begun: train it first"):
        made.compare()
    assert "2 waiting" in made.status()
    assert made.train(jobs=1, device="cpu")
    assert "2 done" in made.status() and made.folder == Path("runs/s")
    assert study.load("runs/s").study == made.study, "its folder is the study too"
    before = (folder / "journal").read_text()
    assert made.train(jobs=1, device="cpu") and (folder / "journal").read_text() == before
    with pytest.raises(ValueError, match="begun with other settings"):
        study.load("s.yaml", ["seeds=1", "margin=2"]).train(device="cpu")


def test_changes_are_read_as_the_programs_read_them():
    """Paths and expressions as they stand, the rest as YAML."""
    words = [
        "data.root=2017",
        "assign.name=atss(k=9)",
        "train.lr=1e-3",
        "name=2018",
        "seeds=[4, 5]",
    ]
    made = study.load(ROOT / "configs" / "sweeps" / "same_loss.yaml", words)
    config = made.plan.reported[0].config
    assert (config.data.root, config.assign.name, config.train.lr) == ("2017", "atss(k=9)", 1e-3)
    assert made.study.name == "2018" and made.study.seeds == (4, 5)
    with pytest.raises(ValueError, match=r"^train.lr=\[1: .*expected ',' or '\]'"):
        study.load(ROOT / "configs" / "sweeps" / "same_loss.yaml", ["train.lr=[1"])
    with pytest.raises(ValueError, match="unknown key data.rot; did you mean data.root"):
        study.load(ROOT / "configs" / "sweeps" / "same_loss.yaml", ["data.rot=2017"])


def test_a_failed_run_is_told(folder, monkeypatch):  # noqa: F811
    monkeypatch.setenv("STUB_FAIL", "bce")
    made = study.load("s.yaml", ["seeds=1"])
    assert made.train(device="cpu") is False and "1 done, 1 failed" in made.status()


def test_a_kept_study_is_compared_and_reported(tmp_path, monkeypatch):
    """The verdicts are those that studies/same_loss/README.md states."""
    monkeypatch.chdir(tmp_path)
    made = study.load(ROOT / "configs" / "sweeps" / "same_loss.yaml")
    assert made.folder == ROOT / "studies" / "same_loss"
    found = {one.arm: one for one in made.compare()}
    page = (ROOT / "studies" / "same_loss" / "README.md").read_text(encoding="utf-8")
    assert len(found) == 2
    for arm, one in found.items():
        assert one.verdict == "undecided" and one.sentence
        shown = (
            f"{one.interval.difference:+.2f} [{one.interval.low:+.2f}, {one.interval.high:+.2f}]"
        )
        assert shown in next(line for line in page.splitlines() if f"`{arm}`" in line)
    assert made.report("out") == Path("out") / "report.html" and Path("out/tables.md").is_file()


def test_a_program_is_started_from_any_folder(tmp_path):
    """What --print prints, pasted into a shell that knows nothing of this checkout."""
    line = shlex.join(launch.pasteable(launch.yolact_command("sweep", "--help")))
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--dry_run" in done.stdout, done.stderr


def test_an_installed_package_needs_no_path(monkeypatch):
    monkeypatch.setattr(launch.site, "getsitepackages", lambda: [str(launch.PACKAGE)])
    assert launch.python_path() == "" and launch.pasteable(["a"]) == ["a"]
    monkeypatch.setattr(launch.site, "getsitepackages", lambda: [])
    monkeypatch.setenv("PYTHONPATH", f"elsewhere{os.pathsep}{launch.PACKAGE}")
    assert launch.python_path() == f"{launch.PACKAGE}{os.pathsep}elsewhere"
