"""What cannot be imported is refused in one line, and nothing is left behind."""

import json
import re
import zipfile

import pytest

from tests.data.importing import sources
from yolact.commands.import_data import program


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def labelled(root, label):
    return sources.labelme(root, shapes=[{"label": label, "points": sources.SQUARE}])


def mixed(root):
    sources.yolo(root)
    return sources.labelme(root)


def outside(root):
    root.mkdir()
    with zipfile.ZipFile(root / "set.zip", "w") as packed:
        packed.writestr("../evil.txt", "x")
    return root / "set.zip"


def no_images(root):
    for path in sources.yolo(root).glob("images/3.png"):
        path.unlink()
    return root


def no_coco_images(root):
    for path in (sources.roboflow(root) / "train").glob("*.png"):
        path.unlink()
    return root


def endless(root):
    """An outline of 3 million points."""
    sources.labelme(root)
    text = f"[{'[1,1],' * 2_999_999}[1,1]]"
    path = root / "0.json"
    content = json.loads(path.read_text())
    content["shapes"][0]["points"] = "HERE"
    path.write_text(json.dumps(content).replace('"HERE"', text))
    return root


def yolo_row(text):
    def make(root):
        path = sources.yolo(root) / "labels/2.txt"
        path.write_text(path.read_text() + text)
        return root

    return make


def no_set(text, suffix):
    """A file that is no data set, beside one."""

    def make(root):
        sources.yolo(root) if suffix == ".json" else sources.labelme(root)
        (root / f"notes{suffix}").write_text(text)
        return root / f"notes{suffix}"

    return make


def no_class(root):
    return sources.labelme(root, shapes=[])


def empty(root):
    root.mkdir()
    return root


def boxes(root):
    root.mkdir()
    (root / "a.xml").write_text("<annotation/>")
    return root


def single(root):
    sources.labelme(root)
    for path in [*root.glob("[1-9].*")]:
        path.unlink()
    return root


def twice(root):
    path = sources.labelme(root) / "0.json"
    (root / "again.json").write_text(path.read_text())
    return root


def other_size(root):
    edit(sources.labelme(root) / "0.json", lambda content: content.update(imageWidth=81))
    return root


CASES = {
    "mixed": (mixed, r"several formats: yolo \(labels/0.txt\), labelme \(0.json\): choose one by"),
    "broken file": (no_set("{", ".json"), "notes.json holds no annotations of a known format"),
    "other file": (no_set("[1]", ".json"), "notes.json holds no annotations of a known format"),
    "other YAML": (no_set("a: 1", ".yaml"), "notes.yaml holds no annotations of a known format"),
    "zip": (outside, "'../evil.txt' points outside the folder: nothing was unpacked"),
    "yolo image": (no_images, "label file labels/3.txt has no image"),
    "coco image": (no_coco_images, "lists 5 images, of which 5 are not there"),
    "break": (lambda root: labelled(root, "a\nb"), r"called 'a\\nb', which is empty or holds a li"),
    "no class": (no_class, "no object that can be used"),
    "points": (endless, "has an outline of 3000000 points"),
    "box": (yolo_row("0 .5 .5 .1 .1\n"), "labels/2.txt, line 3 is a box without an outline"),
    "class": (yolo_row("9 0 0 1 0 1 1\n"), "line 3 is of class 9, and there are names of 2"),
    "word": (yolo_row("0 0 0 1 x 1 1\n"), "line 3 is not a row of numbers"),
    "pixels": (yolo_row("0 0 0 64 0 64 48\n"), "coordinates from 0 to 64: write shares"),
    "odd": (yolo_row("0 0 0 1 0 1 1 1\n"), "line 3 has 7 coordinates"),
    "empty": (empty, "holds no file"),
    "boxes": (boxes, "XML annotations alone"),
    "one image": (single, "has 1 images that do not differ"),
    "twice": (twice, "has labels in two files"),
    "size": (other_size, "is of an image of 81x60, and 0.png has 80x60"),
    "absent": (lambda root: root, "does not exist"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(case, tmp_path, capsys):
    make, message = CASES[case]
    source = make(tmp_path / "s")
    before = sorted(tmp_path.rglob("*"))
    assert program([str(source), "--out", str(tmp_path / "new/out"), "--fast"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert re.search(message, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_there_stays(tmp_path, capsys):
    source, out = sources.labelme(tmp_path / "s"), tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    assert program([str(source), "--out", str(out), "--fast"]) == 2
    assert "is there already: choose a new folder" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_missing_images_are_left_out_on_request(tmp_path, capsys):
    source = no_images(tmp_path / "s")
    words = [str(source), "--out", str(tmp_path / "out"), "--fast", "--drop_missing"]
    assert program(words) == 0
    assert "LEFT OUT labels without an image: 1 (labels/3.txt)" in capsys.readouterr().out


def test_quotes_in_names_are_escaped(tmp_path, capsys):
    from data.resolve import load_config

    name = "5\" bolt, 'no' # x"
    source, out = labelled(tmp_path / "s", name), tmp_path / "out"
    assert program([str(source), "--out", str(out), "--fast"]) == 0
    assert load_config(out / "config.yaml").data.class_names == (name,)


def test_errors_of_the_check_are_2_and_the_next_command_is_told(tmp_path, capsys):
    source, out = sources.labelme(tmp_path / "s"), tmp_path / "out"
    assert program([str(source), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.rstrip().endswith(f"next: yolact train --config {out}/config.yaml")
    assert "0 errors" in told and "under an anchor" in told
    (source / "0.png").write_bytes((source / "0.png").read_bytes()[:300])
    other = tmp_path / "other"
    words = [str(source), "--out", str(other), "--format", "labelme"]
    assert program(words) == 2
