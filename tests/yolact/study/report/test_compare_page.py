"""The page of two runs and of two results files, which no study planned: the same tables, figures
and images."""

import json
import re
import shutil

import pytest

from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.small_study import STUDY, evaluated, place, shapes
from yolact.commands import compare
from yolact.study import compare as comparing
from yolact.study.compare import compare_paths
from yolact.study.report import data as report_data
from yolact.testing import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    tiny.write_dataset(root, train=1, val=8)
    content = {**STUDY, "arms": ["bce", "mse"], "settings": shapes(root), "seeds": 1}
    folder = make_study(root / "runs", content, {"bce": 0, "mse": 0.02}, images=8, pictures=True)
    truth = json.loads((root / "val.json").read_text())
    for run in folder.glob("*/seed*"):
        evaluated(run, truth)
    for arm in ("bce", "mse"):
        results = place(folder, arm, 0) / "results" / "mask_detections.json"
        shutil.copy(results, root / f"{arm}.json")
    return root


def page_of(tmp_path, *words):
    file = tmp_path / "page.html"
    assert compare.program([*map(str, words), "--html", str(file)]) == 0
    text = file.read_text()
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def check(data, comparison, labels):
    assert [arm["label"] for arm in data["arms"]] == labels
    interval, own = comparison.interval, data["arms"][1]
    ends = [own[key] for key in ("difference", "difference_low", "difference_high")]
    assert ends == pytest.approx(
        [interval.difference, interval.low, interval.high], rel=1e-5, abs=1e-9
    )
    assert own["verdict"] == comparison.label and interval.difference != 0


def test_two_runs(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [place(made / "runs" / "small_study", arm, 0) for arm in ("bce", "mse")]
    text, data = page_of(tmp_path, *runs, "--images", "2")
    (comparison,) = compare_paths(runs).comparisons
    check(data, comparison, [comparison.baseline, comparison.arm])
    assert len(data["images"]["images"]) >= 2 and "Loss curves" in text
    assert "yolact train --config" in data["runs"][0]["command"]
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]  # nothing else is written


def test_two_results_files(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files, gt = [made / "bce.json", made / "mse.json"], made / "val.json"
    words = [*files, "--gt", gt]
    (comparison,) = compare_paths(files, gt).comparisons
    text, data = page_of(tmp_path, *words)
    check(data, comparison, ["bce.json", "mse.json"])
    assert not data["images"] and "--image_folder=FOLDER" in text
    assert "yolact report STUDY" not in text and "yolact compare --boundary prints it" in text
    assert "yolact_base" not in text and "published:" not in text  # nothing is known of a config
    text, data = page_of(tmp_path, *words, "--image_folder", made / "val", "--images", "2")
    shown = data["images"]["images"]
    assert len(shown) >= 2
    seen = [one for image in shown.values() for one in image["runs"]["0"]["found"]]
    assert {"right", "wrong place"} & {one["kind"] for one in seen} and seen[0]["path"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--images", "2"], "--html"),
        (["--html", "a.html", "--images", "0"], "1 or more"),
        (["--html", "a.html", "--image_folder", "absent"], "no such folder"),
        (["--html", "a.html", "--image_folder", "."], "--gt"),
        (["--html", "a.html", "--metric", "mask_ap55"], "no verdict on mask_ap55: choose mask_"),
        (["--html", "."], "name a file"),
        (["--html", f"{__file__}/a/b.html"], "name a file, in a folder"),
    ],
)
def test_mistakes_are_one_line(made, capsys, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare.program([str(made / "bce.json"), str(made / "mse.json"), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and not list(tmp_path.iterdir())


def test_a_study_is_read_once_into_a_folder_that_is_made(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, real = [], comparing.load_runs
    for module in (comparing, report_data):
        monkeypatch.setattr(module, "load_runs", lambda folder: read.append(folder) or real(folder))
    page = tmp_path / "new" / "folder" / "page.html"
    study = made / "runs" / "small_study"
    assert compare.program([str(study), "--html", str(page)]) == 0
    assert read == [study] and "small_study" in page.read_text()
