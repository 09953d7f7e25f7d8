"""What a study says of finished runs that today's code or plugins would not repeat."""

import json
from pathlib import Path

import pytest

from tests.yolact.study.train.stubbed import all_runs, journal, run
from yolact.provenance import plugin_digests
from yolact.study import handle
from yolact.study.folder.reading import trained_by


@pytest.fixture
def with_plugin(folder):
    (folder / "my.py").write_text("k = 2\n")
    plan = folder / "s.yaml"
    plan.write_text(plan.read_text() + "settings: {loss.plugins: my.py}\n")
    assert run() == 0
    for each in all_runs():
        record(each, plugins=plugin_digests(["my.py"]))
    return folder / "my.py"


def record(planned, **entries):
    path = Path("runs") / planned.folder / "env.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_a_changed_plugin_does_not_count_as_trained(with_plugin, folder, capsys):
    assert run("--status") == 0 and "note:" not in capsys.readouterr().out
    with_plugin.write_text("k = 3\n")
    assert run("--status") == 0
    words = "loss.plugins=my.py is other code than 4 finished runs (bce/seed0-"
    assert f"note: {words}" in capsys.readouterr().out
    assert run("seeds=2", "added_seeds=[2]") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and words in told and "move these runs aside" in told
    assert len(journal(folder)) == 4, "nothing was trained"
    assert run("added_seeds=[2]", "--amend") == 0 and len(journal(folder)) == 6


def test_runs_are_shared_by_studies_only_with_the_same_plugin(with_plugin, folder):
    here = Path("runs") / all_runs()[0].folder
    assert trained_by(here, "stub", plugin_digests(["my.py"]))
    assert not trained_by(here, "stub", {}) and not trained_by(here, "other", {})
    before = len((folder / "journal").read_text().splitlines())
    assert run("name=second") == 0
    assert len((folder / "journal").read_text().splitlines()) == before, "linked"
    with_plugin.write_text("k = 3\n")
    assert run("name=third") == 0
    assert len((folder / "journal").read_text().splitlines()) > before


def test_other_code_is_told_before_training(folder, capsys, monkeypatch):
    assert run() == 0
    first = all_runs()[0]
    record(first, commit="0123456789abcdef+changes", parts={"layers": "1"})
    capsys.readouterr()
    monkeypatch.setattr(handle, "code_of_today", lambda: "newer")
    monkeypatch.setattr("yolact.study.folder.stale.code_parts", lambda: {"layers": "2"})
    assert run() == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert f"4 finished runs ({first.name}" in note
    assert "with code stub instead of newer, which differs in layers: runs that are" in note
    assert "use that (commit 0123456789), or move these runs aside" in note


def test_other_libraries_are_told(folder, capsys):
    assert run() == 0
    record(all_runs()[0], versions={"torch": "1.0"})
    assert run("--status") == 0
    assert "1 finished run (bce/seed0-" in (said := capsys.readouterr().out)
    assert "was trained with torch 1.0 instead of " in said
