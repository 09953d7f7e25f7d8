"""`yolact predict`, from weights and pictures to files, and what it refuses."""

import json
import sys

import cv2
import numpy as np
import pytest

from tests.yolact.commands.test_eval import weights  # noqa: F401  a fixture
from yolact.commands.predict import program


@pytest.fixture
def here(weights, tmp_path, monkeypatch):  # noqa: F811
    """The folder of the weights, with images/0.png to 2.png."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return program(["model.pth", *words, "--device=cpu", "--no_bar"])


def test_a_folder_and_a_video_to_files(here, capsys):
    frames = cv2.VideoWriter("v.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for level in (0, 200):
        frames.write(np.full((48, 64, 3), level, np.uint8))
    frames.release()
    words = ["--out=out", "--json=f.json", "--masks=m", "--csv=f.csv", "--score=0.01"]
    assert run("images", "v.avi", *words) == 0
    told = capsys.readouterr().out
    entries = json.loads((here / "f.json").read_text())
    assert f" drawn of {len(entries)}: score >= 0.01, top 15" in told
    assert len(entries) == 25  # eval.max_dets is 5, and eval.score_threshold 0
    assert {e["file_name"] for e in entries} == {
        "0.png",
        "1.png",
        "2.png",
        "v.avi#1",
        "v.avi#2",
    }
    assert sorted(p.name for p in (here / "out").iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "v.avi",
    ]
    assert {p.name for p in (here / "m").iterdir()} > {"0.png", "v_000001.png", "v_000002.png"}


def test_without_flags_pictures_go_into_predictions_and_with_data_none_are_drawn(here, capsys):
    assert run("images/0.png", "eval.max_dets=3") == 0
    assert (here / "predictions" / "0.png").exists()
    assert " drawn of 3: score >= 0.15, top 15" in capsys.readouterr().out
    assert run("images/1.png", "--json=f.json") == 0
    assert "kept of 5" in capsys.readouterr().out
    assert not (here / "predictions" / "1.png").exists()


@pytest.mark.parametrize(
    "words, part",
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist"),
        (["eval.max_dets=3"], "name a picture"),
        (["images", "images/0.png"], "have one name"),
        (["images", "--masks=images"], "another folder"),
        (["images", "--classes=rad"], "red"),
        (["images", "--score=nan"], "nan"),
        (["broken.png"], "broken.png"),
        (["images", "--overlap=0.2"], "give --tile"),
        (["images", "--tile=64", "--batch_size=2"], "--batch_size does not go with --tile"),
        (["images", "--skip=0"], "--skip is of videos"),
        (["images", "--tile=0"], "side of a tile in pixels"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(here, capsys, words, part):
    (here / "broken.png").write_bytes(b"\x89PNG")
    before = sorted(path.name for path in here.iterdir())
    try:
        code = run(*words, "--json=f.json", "--csv=f.csv")
    except SystemExit as error:  # argparse's
        code = error.code
    message = capsys.readouterr().err
    assert code == 2 and part in message and message.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    "words, part", [(["images"], "--track follows"), (["v.avi"], "yolact-loss-lab[track]")]
)
def test_tracking_needs_a_video_and_its_package(here, capsys, monkeypatch, words, part):
    monkeypatch.setitem(sys.modules, "trackers", None)
    (here / "v.avi").write_bytes(b"never opened")
    before = sorted(path.name for path in here.iterdir())
    assert run(*words, "--track", "--json=f.json") == 2
    message = capsys.readouterr().err
    assert part in message and message.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == before
