"""A study from one start says so wherever it gives a verdict; one with a start for each seed, or
none, does not."""

import shutil
from pathlib import Path

import pytest

from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.small_study import SKILLS, STUDY, read_csv, run_report
from yolact.commands import compare, sweep
from yolact.study.plan import load_study
from yolact.study.report import figures
from yolact.study.report.archive import keep
from yolact.study.report.data import collect

TWO = {**STUDY, "arms": ["bce", "dice"]}
WORDS = "given this start"


@pytest.mark.parametrize(
    "init_from, given",
    [
        ("", False),
        ("weights.pth", True),
        ({"iterations": 5}, True),
        ({"iterations": 5, "per_seed": True}, False),
    ],
)
def test_verdicts_say_whether_they_rest_on_one_start(
    init_from, given, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = make_study(tmp_path / "runs", {**TWO, "init_from": init_from}, SKILLS, images=5)
    drawn, real = [], figures.drawn
    monkeypatch.setattr(
        figures,
        "drawn",
        lambda figure: (
            drawn.extend(text.get_text() for axes in figure.axes for text in axes.texts)
            or real(figure)
        ),
    )
    assert run_report(folder) == 0
    made = folder / "report"
    verdicts = [row["verdict"] for row in read_csv(made / "comparison.csv") if row["difference"]]
    assert [WORDS in verdict for verdict in verdicts] == [given]
    assert sum(WORDS in text for text in drawn) == given, "in the figure"
    for name in ("tables.md", "tables.tex", "report.html"):
        assert (WORDS in (made / name).read_text()) == given
    notes = (made / "tables.md").read_text()
    assert ("Given this start: all runs were trained from one checkpoint" in notes) == given
    capsys.readouterr()
    assert compare.program([str(folder)]) == 0
    whole = capsys.readouterr().out
    arms = [str(folder / name) for name in ("bce", "dice")]
    assert compare.program(arms) == 0
    two = capsys.readouterr().out
    assert (WORDS in whole) == (WORDS in two) == given
    assert whole.count(WORDS) == 3 * given, "a line, a sentence and what it means"


def test_a_kept_study_with_a_start_for_each_seed_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = {**TWO, "init_from": {"iterations": 5, "per_seed": True}}
    folder = make_study(tmp_path / "runs", content, SKILLS, images=5)
    keep(collect(folder), Path("studies/small_study"))
    assert load_study("studies/small_study") == load_study(folder)
    shutil.rmtree("runs")
    capsys.readouterr()
    assert sweep.program(["studies/small_study/study.yaml", "--status"]) == 0
    said = capsys.readouterr().out
    assert "6 done" in said and "_init" not in said, "no start is needed"
    assert sweep.program(["studies/small_study/study.yaml", "--print", "added_seeds=[5]"]) == 0
    printed = capsys.readouterr().out.splitlines()[-3:]
    assert ["--run _init/seed5-" in line for line in printed] == [True, False, False]
