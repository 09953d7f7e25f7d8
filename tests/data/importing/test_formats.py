"""Every format is read into the same objects, with coordinates as they stand in the source."""

import base64
import json
import os
import zipfile

import cv2
import numpy as np
import pytest

from data.importing.records import Hints
from data.importing.run import import_set
from data.importing.write import Target
from data.resolve import load_config
from data.segmentation import encoded, pixels_of
from data.table import read_table
from tests.data.importing import sources

BASE = "yolact_plus_tiny"
OUTLINES = {name: sources.flat(points) for name, points in sources.OBJECTS}


def imported(source, out, **options):
    """The written content by split, and what was said."""
    copy = options.pop("copy", False)
    lines = import_set(source, Target(out, BASE, copy), **options)
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.json"))
    assert names == ["annotations/train.json", "annotations/val.json"]
    assert [p.name for p in out.rglob("*.yaml")] == ["config.yaml"]
    content = {
        split: json.loads((out / f"annotations/{split}.json").read_text())
        for split in ("train", "val")
    }
    return content, "\n".join(lines)


def objects(content):
    """[(class, segmentation)] of a split."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    return [(names[a["category_id"]], a["segmentation"]) for a in content["annotations"]]


@pytest.mark.parametrize("make", [sources.labelme, sources.yolo, sources.roboflow])
def test_outlines_stay_as_they_are(make, tmp_path):
    content, _ = imported(make(tmp_path / "source"), tmp_path / "out")
    for part in content.values():
        assert part["images"]
        for name, (outline,) in objects(part):
            assert outline == pytest.approx(OUTLINES[name], abs=1e-9)
        boxes = {tuple(np.round(a["bbox"], 6)) for a in part["annotations"]}
        assert boxes == {(10.25, 10.5, 20.5, 19.625), (40.5, 20.25, 29.625, 30.5)}
    total = sum(len(part["images"]) for part in content.values())
    assert total == (10 if make is sources.roboflow else 5)


@pytest.mark.parametrize("make", [sources.labelme, sources.yolo, sources.roboflow, sources.masks])
def test_what_is_written_is_read(make, tmp_path):
    out = tmp_path / "out"
    _, told = imported(make(tmp_path / "source"), out)
    cfg = load_config(out / "config.yaml")
    assert cfg.name == "out" and f"wrote    {out}/config.yaml" in told
    for split in ("train", "val"):
        images, path = (getattr(cfg.data, f"{split}_{what}") for what in ("images", "annotations"))
        table = read_table(os.path.join(cfg.data.root, path), cfg.data.class_names)
        for name in table.file_names:
            assert os.path.isfile(os.path.join(cfg.data.root, images, name))
    assert len((out / "config.yaml").read_text().splitlines()) <= 14


def test_classes_in_the_order_of_the_source(tmp_path):
    imported(sources.yolo(tmp_path / "yolo"), tmp_path / "a")
    assert load_config(tmp_path / "a/config.yaml").data.class_names == ("screw", "nut")
    imported(sources.labelme(tmp_path / "labelme"), tmp_path / "b")
    assert load_config(tmp_path / "b/config.yaml").data.class_names == ("nut", "screw")
    _, told = imported(sources.roboflow(tmp_path / "robo"), tmp_path / "c")
    assert load_config(tmp_path / "c/config.yaml").data.class_names == ("screw", "nut")
    assert "classes without an object left out: 1 (['hardware'])" in told


# ------------------------------------------------------------------------------------------ labelme


def labelme_objects(tmp_path, *shapes):
    content, told = imported(sources.labelme(tmp_path / "s", shapes=shapes), tmp_path / "out")
    return content["val"]["annotations"], told


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    far = [[x + 35, y + 20] for x, y in sources.SQUARE]
    parts = [{"label": "nut", "points": p, "group_id": 4} for p in (sources.SQUARE, far)]
    other = {"label": "screw", "points": sources.SQUARE, "group_id": 4}
    alone = [{"label": "nut", "points": sources.SQUARE, "group_id": None}] * 2
    found, _ = labelme_objects(tmp_path, *parts, other, *alone)
    assert [len(a["segmentation"]) for a in found] == [2, 1, 1, 1]
    assert found[0]["area"] == 2 * found[1]["area"]


def test_other_shapes_of_labelme(tmp_path):
    circle = {"label": "a", "points": [[40, 30], [40, 40]], "shape_type": "circle"}
    box = {"label": "b", "points": [[5, 6], [15, 26]], "shape_type": "rectangle"}
    png = cv2.imencode(".png", np.full((4, 6), 255, np.uint8))[1].tobytes()
    mask = {
        "label": "c",
        "points": [[7, 9], [13, 13]],
        "shape_type": "mask",
        "mask": base64.b64encode(png).decode(),
    }
    line = {"label": "d", "points": [[1, 1], [9, 9]], "shape_type": "line"}
    found, told = labelme_objects(tmp_path, circle, box, mask, line)
    assert found[0]["area"] == pytest.approx(np.pi * 100, rel=0.02)
    assert found[1]["bbox"] == [5, 6, 10, 20] and found[1]["area"] == 200
    assert found[2]["bbox"] == [7, 9, 6, 4] and found[2]["area"] == 24
    assert len(found) == 3 and "LEFT OUT shapes without area (line): 5" in told


def test_an_image_whose_objects_are_lost_shows_no_background(tmp_path):
    source = sources.labelme(tmp_path / "s")
    path = source / "2.json"
    content = json.loads(path.read_text())
    for shape in content["shapes"]:
        shape["points"] = shape["points"][:2]
    path.write_text(json.dumps(content))
    written, told = imported(source, tmp_path / "out")
    names = {e["file_name"] for part in written.values() for e in part["images"]}
    assert names == {"0.png", "1.png", "3.png", "4.png"}
    assert "LEFT OUT images of which no object can be used: 1" in told


def test_images_of_labelme_are_found_by_their_last_name(tmp_path):
    source = sources.labelme(tmp_path / "s")
    for path in source.glob("*.json"):
        content = json.loads(path.read_text())
        content["imagePath"] = f"..\\photos\\{content['imagePath']}"
        path.write_text(json.dumps(content))
    content, _ = imported(source, tmp_path / "out")
    assert sum(len(part["images"]) for part in content.values()) == 5


# --------------------------------------------------------------------------------------------- yolo


def test_a_yolo_image_without_labels_has_no_object(tmp_path):
    source = sources.yolo(tmp_path / "s")
    (source / "labels/1.txt").unlink()
    (source / "labels/2.txt").write_text("")
    content, told = imported(source, tmp_path / "out")
    empty = sum(len(p["images"]) * 2 - len(p["annotations"]) for p in content.values()) / 2
    assert empty == 2 and "images without a label file, taken to hold no object: 1" in told


def test_names_come_from_a_list_a_file_or_the_command(tmp_path):
    for name, text, names in (("a", "", ()), ("b", "[screw, nut]", ()), ("c", "", ("s", "n"))):
        source = sources.yolo(tmp_path / name, names=text)
        if name == "a":
            (source / "classes.txt").write_text("screw\nnut\n")
        imported(source, tmp_path / f"out_{name}", hints=Hints(names=names))
        found = load_config(tmp_path / f"out_{name}/config.yaml").data.class_names
        assert found == (names or ("screw", "nut"))


# --------------------------------------------------------------------------------------------- coco


def test_coco_of_other_tools_is_mended(tmp_path):
    """Ids as text, flat outlines, images in images/ named with a folder and back-slashes."""
    root = tmp_path / "s"
    content = sources.coco_json([f"images\\{name}" for name in sources.draw_all(root / "images")])
    for entry in content["annotations"]:
        entry |= {"image_id": str(entry["image_id"]), "segmentation": entry["segmentation"][0]}
    (root / "annotations").mkdir()
    (root / "annotations/instances_default.json").write_text(json.dumps(content))
    written, told = imported(root, tmp_path / "out")
    found = [pair for part in written.values() for pair in objects(part)]
    assert len(found) == 10 and all(mask == [OUTLINES[name]] for name, mask in found)
    assert "flat or pointwise outlines written as lists of polygons: 10" in told


def test_a_file_is_taken_alone(tmp_path):
    root = tmp_path / "s"
    names = sources.draw_all(root)
    for file in ("a.json", "b.json"):
        (root / file).write_text(json.dumps(sources.coco_json(names[:4])))
    content, _ = imported(root / "a.json", tmp_path / "out")
    assert sum(len(part["images"]) for part in content.values()) == 4


# -------------------------------------------------------------------------------------------- masks


def test_masks_of_one_value_hold_separate_objects(tmp_path):
    content, told = imported(sources.masks(tmp_path / "s"), tmp_path / "out")
    for part in content.values():
        for at, (name, rle) in enumerate(objects(part)):
            assert name == "object" and (at % 2 or pixels_of(encoded(rle, 60, 80)) == 20 * 21)
    assert "read as objects" in told


def test_what_values_of_masks_mean(tmp_path):
    source = sources.masks(tmp_path / "s", (1, 2))
    with pytest.raises(ValueError, match=r"\[1, 2\] besides 0, which may mean several.*--masks"):
        imported(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for meaning, classes in (("instances", ["object"]), ("classes", ["class_1", "class_2"])):
        content, _ = imported(source, tmp_path / meaning, hints=Hints(masks=meaning))
        assert [c["name"] for c in content["val"]["categories"]] == classes
        assert len(content["val"]["annotations"]) == 2
    wide = sources.masks(tmp_path / "w", (300, 301), np.uint16)
    content, told = imported(wide, tmp_path / "wide")
    assert "read as instances" in told and len(content["val"]["annotations"]) == 2


def test_masks_beside_their_images(tmp_path):
    source = sources.masks(tmp_path / "s")
    for path in sorted((source / "masks").iterdir()):
        path.rename(source / "images" / f"{path.stem}_mask.png")
    (source / "masks").rmdir()
    content, _ = imported(source, tmp_path / "out")
    assert sum(len(part["annotations"]) for part in content.values()) == 10


# ---------------------------------------------------------------------------------------------- zip


def test_a_zip_brings_its_images_along(tmp_path):
    source, archive = sources.yolo(tmp_path / "s"), tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(source.rglob("*")):
            packed.write(path, path.relative_to(source))
    out = tmp_path / "out"
    content, _ = imported(archive, out)
    names = [e["file_name"] for part in content.values() for e in part["images"]]
    assert sorted(p.name for p in (out / "images").iterdir()) == sorted(names) == names_of(5)
    assert load_config(out / "config.yaml").data.train_images == str(out / "images")


def names_of(count):
    return [f"{number}.png" for number in range(count)]


def test_images_stay_or_are_copied(tmp_path):
    source = sources.labelme(tmp_path / "s")
    imported(source, tmp_path / "a")
    assert load_config(tmp_path / "a/config.yaml").data.val_images == str(source)
    imported(source, tmp_path / "b", copy=True)
    assert sorted(p.name for p in (tmp_path / "b/images").iterdir()) == names_of(5)
