"""The finished study that the tests of reports share."""

import shutil
from pathlib import Path

import pytest

from tests.yolact.study.made_runs import make_study, write_detections
from tests.yolact.study.report.small_study import SKILLS, STUDY, shapes
from yolact.study.arms import arms_of, runs_of
from yolact.study.plan import load_study
from yolact.study.report.data import collect
from yolact.testing import tiny


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A study with every run finished, on discs and bars, and its records resampled once."""
    root = tmp_path_factory.mktemp("finished")
    tiny.write_dataset(root, train=1, val=5)
    data = shapes(root)
    folder = make_study(root / "runs", {**STUDY, "settings": data}, SKILLS, images=30)
    for number, run in enumerate(
        runs_of(load_study(folder), arms_of(load_study(folder)), root=root / "runs")
    ):
        if run.seed < 2:
            write_detections(root / "runs" / run.folder, run.config, 0, number)
    collect(folder)
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy of the finished study that a test may change, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "runs" / finished.name))
