"""The page of thirty runs stays below 10 MB: what stands on it without images, and what images may
take."""

from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.small_study import STUDY
from yolact.study.report.assemble import draw
from yolact.study.report.data import collect
from yolact.study.report.images.tab import OUTLINES, PICTURES, ImagesTab
from yolact.study.report.page.content import page
from yolact.study.report.tables import tables

MOST = 10_000_000  # bytes
GALLERY = 1_000_000  # of one picture of six arms, in base64: 616 KB for five arms of quick_study


def test_thirty_runs_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = ["bce", "dice", "mse", "bce + dice", "bce + 0.5*mse", "focal"]
    content = {**STUDY, "arms": arms, "seeds": 5}
    skills = {label: 0.1 * number for number, label in enumerate(arms)}
    report = collect(make_study(tmp_path / "runs", content, skills, images=20))
    assert len(report.runs) == 30
    html = page(report, tables(report), draw(report), ImagesTab(report, 40))
    assert 100_000 < len(html.encode()) < MOST - PICTURES - OUTLINES - GALLERY


def test_pictures_and_outlines_keep_their_budgets():
    assert PICTURES + OUTLINES + GALLERY < MOST
