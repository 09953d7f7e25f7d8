"""The gallery at the end of a training: it costs no run, and is drawn once."""

import errno

import cv2
import numpy as np
import pytest

from yolact.draw import shrunk
from yolact.engine import ending
from yolact.engine.train import train
from yolact.testing import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("image a.jpg cannot be decoded"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_training_is_finished_without_it(data, tmp_path, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ending, "prediction_pictures", fail)
        run = train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1 and told[0].startswith("warning: no gallery.jpg: ")
    assert run.metrics[-1]["step"] == 6 and not (run.path / "gallery.jpg").exists()
    # made up for by --resume, which trains nothing
    train(tiny.config(data), device="cpu", resume=run.path)
    assert (run.path / "gallery.jpg").is_file()


def test_errors_of_the_code_are_not_hidden(data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TypeError("of the code")

    monkeypatch.setattr(ending, "prediction_pictures", fail)
    with pytest.raises(TypeError):
        train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")


def test_a_finished_run_is_not_drawn_again(data, tmp_path, monkeypatch):
    run = train(tiny.config(data), device="cpu", run_dir=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ending, "draw_gallery", lambda *_: pytest.fail("drawn again"))
        train(tiny.config(data), device="cpu", resume=run.path)
    drawn = []
    monkeypatch.setattr(ending, "draw_gallery", lambda *_: drawn.append(1))
    train(tiny.config(data, iterations=8), device="cpu", resume=run.path)
    assert drawn == [1]


def test_large_photos_are_shrunk_one_by_one(tmp_path, monkeypatch):
    """At full size together they may take gigabytes."""
    large = tiny.write_dataset(tmp_path / "large", side=200)
    monkeypatch.setattr(ending, "LONGEST", 90)
    run = train(tiny.config(large, iterations=2), device="cpu", run_dir=tmp_path / "run")
    sheet = cv2.imread(str(run.path / "gallery.jpg"))
    assert sheet.shape[1] == 3 * 90 + 4 * 6


def test_shrunk():
    image = np.zeros((300, 200, 3), np.uint8)
    assert shrunk(image, 300) is image and shrunk(image, 150).shape == (150, 100, 3)
