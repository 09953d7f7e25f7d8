"""The generated set of many kinds of things: what is annotated is what is seen."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from data.shapes import material, scene
from data.shapes.generate import generate_shapes
from data.shapes.outline import KINDS, hole_of
from data.shapes.scene import CLASS_NAMES, render_shapes
from yolact.commands.make_shapes import program


def masks_of(picture):
    found = [coco_mask.decode(a["segmentation"]).astype(bool) for a in picture.annotations]
    return np.stack(found)


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_about_one_long_and_around_the_origin(kind):
    rng = np.random.default_rng(0)
    for _ in range(20):
        outline = KINDS[kind](rng)
        extent = np.ptp(outline, axis=0).max()
        assert 0.6 < extent < 1.4 and np.abs(outline.mean(0)).max() < 0.3
        hole = hole_of(kind, outline, rng)
        assert (hole is not None) == (kind == "ring")


def test_a_picture_depends_on_its_number_alone():
    one, other = render_shapes(3, "train", 5, size=128), render_shapes(3, "train", 5, size=128)
    assert np.array_equal(one.image, other.image) and one.annotations == other.annotations
    assert not np.array_equal(one.image, render_shapes(3, "train", 6, size=128).image)


def test_masks_are_apart_and_boxes_are_theirs():
    for index in range(12):
        picture = render_shapes(1, "train", index, size=128)
        masks = masks_of(picture)
        assert masks.sum(0).max() <= 1
        for annotation, mask in zip(picture.annotations, masks, strict=True):
            assert annotation["area"] == mask.sum() >= scene.LEAST_PIXELS
            x, y, w, h = (int(v) for v in annotation["bbox"])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (x, y, x + w - 1, y + h - 1) == (columns[0], rows[0], columns[-1], rows[-1])


def test_a_mask_is_what_is_painted(monkeypatch):
    """One thing without shadow on an even ground: where it is, the picture is another."""
    monkeypatch.setattr(material, "cast_shadow", lambda *args: None)
    rng = np.random.default_rng(0)
    light = scene.sample_light(rng)
    for kind in KINDS:
        canvas = np.full((96, 96, 3), 0.5, np.float32)
        outline = KINDS[kind](rng) * 50 + 48
        thing = scene._Placed(kind, outline, hole_of(kind, outline, rng))
        red = material.Material("plain", ((250, 0, 0),) * 2, 0.0, 1.0, 0.2, False)
        material.paint_thing(canvas, thing.outline, thing.hole, red, light, rng)
        painted = canvas[..., 0] - canvas[..., 1] > 0.5
        mask = scene._mask(thing, 96)
        border = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) - cv2.erode(
            mask.astype(np.uint8), np.ones((3, 3), np.uint8)
        )
        assert (painted != mask)[border == 0].sum() == 0 and mask.sum() > 100


def test_the_set_is_whole_and_holds_every_kind(tmp_path):
    out = generate_shapes(tmp_path / "set", train=30, val=2, size=96, workers=1, progress=False)
    content = json.loads((out / "train" / "coco_annotations.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(CLASS_NAMES)
    assert {a["category_id"] for a in content["annotations"]} == set(range(1, 9))
    assert len({image["view"] for image in content["images"]}) == 4
    shorter = generate_shapes(tmp_path / "two", train=2, val=0, size=96, workers=0, progress=False)
    for name in ("00000000.jpg", "00000001.jpg"):
        paths = (folder / "train" / "images" / name for folder in (out, shorter))
        assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize(
    "words, part",
    [
        (["--size=32"], "size=32"),
        (["--seed=-1"], "seed=-1"),
        (["--train=0", "--val=0"], "train=0 and val=0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, words, part):
    assert program([str(tmp_path / "out"), *words]) == 2
    message = capsys.readouterr().err
    assert part in message and message.count("\n") == 1 and not (tmp_path / "out").exists()
