import pytest

from data.resolve import dump_yaml
from tests.yolact.study.train.stubbed import stub_command
from yolact.study import handle
from yolact.study.train import local as sweep_local
from yolact.study.train import worker as sweep_worker
from yolact.testing import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a study of 4 runs of 6 steps; trainings are the stub's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUB_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(sweep_worker, "yolact_command", stub_command)
    monkeypatch.setattr(sweep_local, "POLL_OTHERS", 0.1)
    monkeypatch.setattr(sweep_local, "POLL", 0.02)
    monkeypatch.setattr(handle, "check_losses", lambda *_: [])
    monkeypatch.setattr(handle, "code_of_today", lambda: "stub")
    (tmp_path / "s.yaml").write_text(
        "base: quickstart\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 6\n"
    )
    return tmp_path


@pytest.fixture
def hold(folder, monkeypatch):
    """While this file is there, trainings wait after their second step."""
    monkeypatch.setenv("STUB_HOLD", str(folder / "hold"))
    (folder / "hold").touch()
    return folder / "hold"


@pytest.fixture
def tuned(folder):
    """A study with 2 trials an arm, on a data set of which images can be held out."""
    (folder / "base.yaml").write_text(dump_yaml(tiny.config(tiny.write_dataset(folder / "data"))))
    (folder / "s.yaml").write_text(
        "base: base.yaml\narms: [bce, dice]\nbaseline: bce\nseeds: 2\nbudget: 6\ntune: {grid: "
        "{loss.mask_weight: [3, 12]}, budget: 3, share: 0.3}\nsearch: {settings: {loss.mask: 'bce "
        "+ {a}*dice'}, space: {a: {low: 1, high: 3}}, trials: 4,\n         budget: 2}\n"
    )
    return folder
