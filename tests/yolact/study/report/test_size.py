"""The page of thirty runs stays below 10 MB: what stands on it without images, and what images may
take."""

from types import SimpleNamespace

import numpy as np

from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.small_study import STUDY
from yolact.study.report.assemble import draw
from yolact.study.report.data import collect
from yolact.study.report.images import tab
from yolact.study.report.images.tab import OUTLINES, PICTURES, ImagesTab, Pair
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


def test_pictures_are_read_once_the_rest_fits(monkeypatch):
    """However often there are fewer images."""
    read, asked = [], []

    class Source:
        def pictures(self, records, chosen, budget):
            read.append(len(chosen))
            return {image: b"" for image in chosen}, {image: (1, 1) for image in chosen}

    def outlines(self, records, source, chosen):
        asked.append(len(chosen))
        return {image: {"path": "x" * 1000} for image in chosen}

    monkeypatch.setattr(tab, "OUTLINES", 20_000)
    monkeypatch.setattr(ImagesTab, "_outlines", outlines)
    monkeypatch.setattr(ImagesTab, "_source", Source())
    changes = SimpleNamespace(mean=np.linspace(-1, 1, 100), agree=np.ones(100))
    made = ImagesTab(None, 40)
    made.__dict__["pairs"] = [Pair(1, None, [0], changes)]
    made.__dict__["first"] = SimpleNamespace(records=lambda: SimpleNamespace(class_names=()))
    found = made._drawn()
    assert len(asked) > 1 and read == [asked[-1]] == [len(found["images"])]
    assert 10 <= len(found["images"]) < 20 < asked[0]
