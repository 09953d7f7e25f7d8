"""check_data.py --write: a mended copy of the annotations, or nothing."""

import json

import pytest

from tests.data.sets import annotation, write_set
from yolact.commands.check_data import program


def broken(root, **changes):
    """A set of one image whose annotation has no box and refers to its image by text."""
    one = annotation(1, "1", bbox=None, **changes)
    return write_set(root, annotations=[one])


def test_the_copy_is_checked_and_the_input_stays(tmp_path, capsys):
    images, path = broken(tmp_path)
    before, out = path.read_bytes(), tmp_path / "out.json"
    words = ["--annotations", str(path), "--images", str(images), "--fast"]
    assert program(words) == 1
    assert "image_id" not in capsys.readouterr().out
    assert program([*words, "--write", str(out)]) == 0
    told = capsys.readouterr().out
    assert "boxes computed from their masks: 1 (annotation 1)" in told
    assert "image_id written as its entry has it: 1" in told and "0 errors" in told
    assert json.loads(out.read_text())["annotations"][0]["bbox"] == [10, 10, 20, 20]
    assert path.read_bytes() == before
    assert program(["--annotations", str(out), "--images", str(images), "--fast"]) == 0
    assert [*tmp_path.glob(".*")] == []


def test_both_files_of_a_set(tmp_path, capsys):
    for split in ("train", "val"):
        broken(tmp_path / split)
    config = tmp_path / "set.yaml"
    config.write_text(
        f"base: quickstart\ndata: {{name: set, root: {tmp_path}, train_images: train/images, "
        "val_images: val/images, train_annotations: train/annotations.json, "
        "val_annotations: val/annotations.json, class_names: [thing]}\n"
    )
    out = tmp_path / "out.json"
    assert program([str(config), "--fast", "--write", str(out)]) == 0
    told = capsys.readouterr().out
    second = tmp_path / "out_val.json"
    assert f"data.train_annotations={out} data.val_annotations={second}" in told
    for path in (out, second):
        assert json.loads(path.read_text())["annotations"][0]["image_id"] == 1


def test_what_remains_is_told(tmp_path, capsys):
    images, path = broken(tmp_path)
    (images / "a.png").unlink()
    out = tmp_path / "out.json"
    words = ["--annotations", str(path), "--images", str(images), "--fast", "--write", str(out)]
    assert program(words) == 1
    assert "are not in" in capsys.readouterr().out and out.is_file()


@pytest.mark.parametrize("place", ["annotations.json", "images/../annotations.json", "link.json"])
def test_the_input_is_not_replaced(tmp_path, capsys, place):
    images, path = broken(tmp_path)
    (tmp_path / "link.json").hardlink_to(path)
    before = path.read_bytes()
    words = ["--annotations", str(path), "--images", str(images), "--write", str(tmp_path / place)]
    assert program(words) == 2
    assert "would replace the input" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_nothing_is_written_of_what_cannot_be_mended(tmp_path, capsys):
    images, path = broken(tmp_path, segmentation=[])
    out = tmp_path / "out.json"
    out.write_text("older")
    words = ["--annotations", str(path), "--images", str(images), "--write", str(out)]
    assert program(words) == 2
    error = capsys.readouterr().err
    assert "has no annotation that can be used or mended" in error and "no segmentation" in error
    assert out.read_text() == "older" and len(error.splitlines()) == 1


def test_requests_belong_to_a_copy(capsys):
    with pytest.raises(SystemExit, match="2"):
        program(["nuclei", "--clear_crowd"])
    assert "--clear_crowd changes a copy: give --write" in capsys.readouterr().err


def test_changes_stand_anywhere(tmp_path, capsys):
    for split in ("train", "val"):
        write_set(tmp_path / split)
    words = ["quickstart", "--fast", f"data.root={tmp_path}", "data.class_names=[thing]"]
    for split in ("train", "val"):
        words.append(f"data.{split}_images={split}/images")
        words.append(f"data.{split}_annotations={split}/annotations.json")
    assert program(words) == 0
    assert "0 errors" in capsys.readouterr().out
