import errno
import os

import numpy as np
import pytest

from yolact.engine.evaluate import write_results
from yolact.files import write_image, writing


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_names_the_file_and_the_fix():
    with (
        pytest.raises(
            OSError, match=r"cannot write out/a.jpg \(No space left on device\): free space there"
        ),
        writing("out/a.jpg"),
    ):
        full_disk()


def test_a_picture_on_a_full_disk_is_named_and_the_old_one_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*a\.png \(No space left"):
        write_image(path, np.ones((9, 9, 3), np.uint8))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_results_on_a_full_disk_are_named_and_the_old_ones_kept(tmp_path, monkeypatch):
    files = tmp_path / "box.json", tmp_path / "mask.json"
    write_results(*files, [{"score": 1}], [])
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*box\.json \(No space left"):
        write_results(*files, [], [])
    assert files[0].read_text() == '[{"score": 1}]' and len(list(tmp_path.iterdir())) == 2
