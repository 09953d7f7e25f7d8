"""Pascal VOC with masks, and instance PNGs as Cityscapes has them."""

import cv2
import numpy as np
import pytest
from PIL import Image

from data.importing.records import Hints
from data.importing.run import import_set
from data.importing.voc import _colours
from data.importing.write import Target
from tests.data.importing import sources
from tests.data.importing.test_formats import imported, objects
from yolact.commands.import_data import program

SIZE = (sources.HEIGHT, sources.WIDTH)


def areas(content):
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    return [(names[a["category_id"]], a["area"]) for a in content["annotations"]]


def layers():
    """Objects 1 and 2, of classes 8 and 12, with a line of void above them."""
    numbers, classes = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for number, label, left in ((1, 8, 5), (2, 12, 40)):
        numbers[10:30, left : left + 20] = number
        classes[10:30, left : left + 20] = label
    numbers[9], classes[9] = 255, 255
    return numbers, classes


def voc(root, kind="P", labelmap=""):
    colours = np.array([[0, 0, 0], *(list(c.to_bytes(3, "big")) for c in _colours())], np.uint8)
    colours[255] = (224, 224, 192)
    for name in sources.draw_all(root / "JPEGImages"):
        for folder, values in zip(("SegmentationObject", "SegmentationClass"), layers()):
            (root / folder).mkdir(exist_ok=True)
            if kind == "P":
                picture = Image.fromarray(values)
                picture.putpalette(colours.ravel().tolist())
            else:
                picture = Image.fromarray(colours[values])
            picture.save(root / folder / name)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n4\n")
    if labelmap:
        (root / "labelmap.txt").write_text(labelmap)
    return root


@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_voc_has_its_own_classes(kind, tmp_path):
    content, told = imported(voc(tmp_path / "s", kind), tmp_path / "out")
    assert {*areas(content["train"])} == {("cat", 400), ("dog", 400)}
    assert [len(content[s]["images"]) for s in ("train", "val")] == [3, 2]
    assert "split of the source kept" in told and "LEFT OUT" not in told  # void is no object


def test_the_colours_of_voc():
    assert _colours()[:4] == [0x800000, 0x008000, 0x808000, 0x000080]
    assert _colours()[19] == 0x004080  # tvmonitor


@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_voc_of_other_tools_names_its_colours(kind, tmp_path):
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nnut:64,0,128::\nscrew:64,0,0::\n"
    content, _ = imported(voc(tmp_path / "s", kind, text), tmp_path / "out")
    assert {*areas(content["val"])} == {("nut", 400), ("screw", 400)}  # of 12 and of 8


def test_names_of_the_command_go_by_number(tmp_path):
    names = tuple("abcdefghijklmn")
    content, _ = imported(voc(tmp_path / "s"), tmp_path / "out", hints=Hints(names=names))
    assert {*areas(content["val"])} == {("h", 400), ("l", 400)}


def cityscapes(root, label=26):
    for number, split in enumerate(("train", "val")):
        for at in range(3):
            stem = f"town_{number}{at:02}"
            sources.draw(
                root / f"leftImg8bit/{split}/town/{stem}_leftImg8bit.png", 10 * number + at
            )
            values = np.full(SIZE, 7, np.uint16)  # road
            values[5:15, 5:25] = label * 1000
            values[30:50, 40:60] = label * 1000 + 1
            values[52:58, 2:30] = 24  # persons not told apart
            folder = root / f"gtFine/{split}/town"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{stem}_gtFine_instanceIds.png"), values)
            cv2.imwrite(str(folder / f"{stem}_gtFine_labelIds.png"), values.astype(np.uint8))
    return root


def test_instances_of_cityscapes(tmp_path):
    content, _ = imported(cityscapes(tmp_path / "s"), tmp_path / "out")
    for split, part in content.items():
        assert sorted(areas(part)) == [("car", 200)] * 3 + [("car", 400)] * 3
        assert all(f"/{split}/" in f"/{e['file_name']}" for e in part["images"])
        assert all(isinstance(mask, dict) for _, mask in objects(part))


def test_classes_that_cityscapes_lacks(tmp_path):
    source = cityscapes(tmp_path / "s", label=3)
    imported_names = lambda out, **options: {  # noqa: E731
        name for name, _ in areas(imported(source, tmp_path / out, **options)[0]["val"])
    }
    assert imported_names("a") == {"class_3"}
    assert imported_names("b", hints=Hints(names=("x", "y", "z"))) == {"z"}


@pytest.mark.parametrize(
    "make, gone, message",
    [
        (voc, "JPEGImages/2.png", "mask SegmentationObject/2.png has no file in JPEGImages"),
        (voc, "SegmentationClass/2.png", "has no file in SegmentationClass"),
        (cityscapes, "leftImg8bit/val/town/town_101_leftImg8bit.png", "ceIds.png has no image"),
    ],
)
def test_a_file_that_is_gone(make, gone, message, tmp_path, capsys):
    source = make(tmp_path / "s")
    (source / gone).unlink()
    words = [str(source), "--out", str(tmp_path / "out"), "--fast"]
    assert program(words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_colour_of_no_class(tmp_path):
    source = voc(tmp_path / "s", "RGB", "nut:64,0,128::\n")
    with pytest.raises(ValueError, match="colour 64, 0, 0, which is of no class.*labelmap.txt"):
        import_set(source, Target(tmp_path / "out", "yolact_plus_tiny"))
