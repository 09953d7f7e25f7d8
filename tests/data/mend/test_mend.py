"""What a mended copy puts right: each case is told by the check before, and not after."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from data.mend.ids import EntryIds, counted
from data.mend.masks import Wishes, nested
from data.mend.whole import mend
from data.table import read_table
from layers.problems import ProblemError
from tests.data.sets import SQUARE, annotation, image_entry, write_set

TALL = [10, 5, 30, 5, 30, 45, 10, 45]


def mended(root, content, wishes=Wishes(), *, draw=True):  # noqa: B008
    """(the content of the copy, the lines of what was done)."""
    folder, path = write_set(root, draw=draw)
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    copy = mend(path, folder, wishes)
    assert path.read_bytes() == before
    return copy.content, copy.notes.lines()


def made(*annotations, images=None, categories=None, **more):
    return {
        "images": images or [image_entry()],
        "annotations": [*annotations] or [annotation(1)],
        "categories": categories or [{"id": 1, "name": "thing"}],
        **more,
    }


def test_a_sound_file_stays_as_it_is(tmp_path):
    content = made(annotation(7, note="kept"), info={"year": 2024})
    assert mended(tmp_path, content) == (content, [])


def test_an_export_of_via(tmp_path):
    """EntryIds as text, flat polygons, every category twice, boxes elsewhere."""
    flat = annotation("1", "1", "2", segmentation=SQUARE, bbox=[0, 0, 5, 5])
    content = made(
        flat,
        annotation("1", "1", 1, segmentation=TALL, bbox=None),
        categories=[{"id": 1, "name": "thing"}, {"id": 2, "name": "thing"}],
    )
    copy, lines = mended(tmp_path, content)
    assert copy["categories"] == [{"id": 1, "name": "thing"}]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in copy["annotations"]] == [
        (1, 1, 1),
        (2, 1, 1),
    ]
    assert [a["segmentation"] for a in copy["annotations"]] == [[SQUARE], [TALL]]
    assert [a["bbox"] for a in copy["annotations"]] == [[10, 10, 20, 20], [10, 5, 20, 40]]
    assert "boxes computed from their masks: 2 (annotation '1', annotation '1')" in lines
    assert "categories of the same name merged: 1 (thing)" in lines


@pytest.mark.parametrize(("scale", "sides"), [("percent", (100, 100)), ("unit", (1, 1))])
def test_coordinates_are_scaled_where_that_is_asked(tmp_path, scale, sides):
    shares = [v * sides[0] / (48 if place % 2 else 64) for place, v in enumerate(SQUARE)]
    box = [v * sides[0] / (48 if place % 2 else 64) for place, v in enumerate([10, 10, 20, 20])]
    content = made(annotation(1, segmentation=[shares], bbox=box, area=-1))
    copy, _ = mended(tmp_path, content, Wishes(scale=scale))
    (one,) = copy["annotations"]
    assert np.allclose(one["segmentation"][0], SQUARE)
    assert np.allclose(one["bbox"], [10, 10, 20, 20])
    assert one["area"] == 400  # of 20 x 20 pixels


def test_shares_of_an_image_cannot_be_used_unasked(tmp_path):
    content = made(annotation(1, segmentation=[[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]))
    with pytest.raises(ProblemError, match="covers no pixel.*--scale"):
        mended(tmp_path, content)


def test_numbers_of_hundreds_of_digits_are_no_coordinates(tmp_path):
    content = made(annotation(1), annotation(2, segmentation=[[10**400, 1, 2, 3, 4, 5]]))
    copy, _ = mended(tmp_path, content, Wishes(scale="percent"))
    assert [a["id"] for a in copy["annotations"]] == [1]


def test_crowd_flags(tmp_path):
    content = made(annotation(1, iscrowd="0"), annotation(2, iscrowd=1, bbox=[9, 9, 20, 20]))
    copy, lines = mended(tmp_path / "kept", content)
    assert [a["iscrowd"] for a in copy["annotations"]] == [0, 1]
    assert lines == ["crowd flags written as numbers: 1 (annotation 1)"]
    copy, _ = mended(tmp_path / "cleared", content, Wishes(clear_crowd=True))
    assert [a["iscrowd"] for a in copy["annotations"]] == [0, 0]


@pytest.mark.parametrize(
    "name", ["images\\a.png", "A.PNG", "images/a.png", "a", "https://host/x/a.png"]
)
def test_names_are_those_of_the_files(tmp_path, name):
    copy, lines = mended(tmp_path, made(images=[image_entry(name=name)]))
    assert copy["images"][0]["file_name"] == "a.png"
    assert lines == [f"file names written as the files are called: 1 ({name} -> a.png)"]


def test_images_without_a_file_go_where_that_is_asked(tmp_path):
    images = [image_entry(), image_entry(2, "gone.png")]
    content = made(annotation(1), annotation(2, image=2), images=images)
    copy, _ = mended(tmp_path / "kept", content)
    assert len(copy["images"]) == 2
    copy, lines = mended(tmp_path / "out", content, Wishes(drop_missing=True))
    assert [image["id"] for image in copy["images"]] == [1] and len(copy["annotations"]) == 1
    assert "LEFT OUT images without a file: 1 (gone.png)" in lines


UNUSABLE = {
    "no outline": {"segmentation": []},
    "two points": {"segmentation": [[1, 1, 2, 2]]},
    "infinity": {"segmentation": [[1, 1, float("inf"), 2, 3, 3]]},
    "no pixel": {"segmentation": [[1, 1, 1.1, 1, 1.1, 1.1]]},
    "outside": {"segmentation": [[100, 100, 120, 100, 120, 120]]},
    "runs": {"segmentation": {"size": [48, 64], "counts": [1, None]}},
    "size": {"segmentation": {"size": [4, 6], "counts": [24]}},
    "flag": {"iscrowd": "perhaps"},
    "image": {"image_id": 9},
    "category": {"category_id": [1]},
}


@pytest.mark.parametrize("changes", UNUSABLE.values(), ids=UNUSABLE)
def test_the_unusable_is_left_out_and_listed(tmp_path, changes):
    """An image of which nothing is left goes too: its objects would be background."""
    images = [image_entry(), image_entry(2, "b.png")]
    content = made(annotation(1), annotation(2, image=2) | changes, images=images)
    folder, path = write_set(tmp_path, images=images)
    path.write_text(json.dumps(content))
    copy = mend(path, folder, Wishes())
    assert [a["id"] for a in copy.content["annotations"]] == [1]
    assert "LEFT OUT" in "".join(copy.notes.lines()) and "annotation 2" in "".join(
        copy.notes.lines()
    )
    if "image_id" not in changes:
        assert [image["id"] for image in copy.content["images"]] == [1]


def test_scraps_of_polygons_are_left_out(tmp_path):
    content = made(annotation(1, segmentation=[SQUARE, [1, 1, 2, 2], [70, 1, 90, 1, 90, 9]]))
    assert mended(tmp_path, content)[0]["annotations"][0]["segmentation"] == [SQUARE]


def test_boxes_stay_where_the_masks_may_be_turned(tmp_path):
    turned = [annotation(k, segmentation=[TALL], bbox=[5, 10, 40, 20]) for k in (1, 2, 3)]
    for k, one in enumerate(turned):
        one["area"] = k
        one["segmentation"] = [[v + k for v in TALL]]
    assert [a["bbox"] for a in mended(tmp_path, made(*turned))[0]["annotations"]] == [
        [5, 10, 40, 20]
    ] * 3


def test_each_annotation_once(tmp_path):
    copy, lines = mended(tmp_path, made(annotation(1), annotation(2), annotation(3, bbox=None)))
    assert [a["id"] for a in copy["annotations"]] == [1]
    assert "LEFT OUT repeated annotations: 2 (annotation 2, annotation 3)" in lines


def test_entries_of_a_file_are_merged(tmp_path):
    images = [image_entry("x"), image_entry("y")]
    content = made(annotation(1, "x"), annotation(2, "y", segmentation=[TALL]), images=images)
    copy, _ = mended(tmp_path, content)
    assert [image["id"] for image in copy["images"]] == ["x"]
    assert [a["image_id"] for a in copy["annotations"]] == ["x", "x"]


def test_an_id_of_two_files_means_neither(tmp_path):
    images = [image_entry(1), image_entry(1, "b.png"), image_entry(2, "c.png")]
    content = made(annotation(1, image=1), annotation(2, image=2), images=images)
    copy, lines = mended(tmp_path, content)
    assert [(i["id"], i["file_name"]) for i in copy["images"]] == [(3, "c.png")]
    assert copy["annotations"][0]["image_id"] == 3
    assert "LEFT OUT annotations whose image_id several entries have: 1 (annotation 1)" in lines


def test_sizes_are_those_of_the_annotated_picture(tmp_path):
    """A picture of 64 x 48 that EXIF turns by 90 degrees; one without a size; one swapped."""
    folder, path = write_set(tmp_path, draw=False)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif)
    cv2.imwrite(str(folder / "b.png"), pixels)
    low = [10, 40, 30, 40, 30, 60, 10, 60]  # inside 64 rows, not inside 48
    images = [
        image_entry(1, "turned.jpg"),
        image_entry(2, "b.png", None, "48"),
        image_entry(3, "b.png", 48, 64) | {"file_name": "./b.png"},
    ]
    right = [50, 10, 60, 10, 60, 20, 50, 20]
    content = made(
        annotation(1, 1, segmentation=[low], bbox=[10, 40, 20, 20]),
        annotation(2, 2),
        annotation(3, 3, segmentation=[right], bbox=[50, 10, 10, 10]),
        images=images,
    )
    path.write_text(json.dumps(content))
    copy = mend(path, folder, Wishes()).content
    assert [(i["width"], i["height"]) for i in copy["images"]] == [(48, 64), (64, 48), (64, 48)]


def test_what_was_mended_is_read_without_a_word(tmp_path, recwarn):
    images = [image_entry({"$oid": "5f"})]
    content = made(
        annotation(None, {"$oid": "5f"}, segmentation=SQUARE, iscrowd="false", area="big"),
        images=[*images, "scrap"],
        categories=[{"id": 1.0, "name": 7}],
    )
    copy, _ = mended(tmp_path, content)
    (tmp_path / "copy.json").write_text(json.dumps(copy))
    table = read_table(tmp_path / "copy.json", ("7",))
    assert table.boxes.tolist() == [[10, 10, 30, 30]] and table.image_ids == [1]
    assert not recwarn.list


def test_ids_of_one_type():
    assert [*map(EntryIds(["7", 8, 9.0], [0, 1, 2]).__getitem__, range(3))] == [7, 8, 9]
    assert [*map(EntryIds(["a", 8], [0, 1]).__getitem__, range(2))] == ["a", "8"]
    assert [*map(EntryIds(["a", None], [0, 1]).__getitem__, range(2))] == [1, 2]
    ids = EntryIds([7, "7"], [0, 1])
    assert ids.positions(7) == {0} and ids.positions("7") == {1} and ids.positions(7.0) == {0, 1}
    assert ids.positions("8") == set() and ids.positions(None) == set()


def test_annotation_ids_are_counted_on():
    assert counted([5, 5, None, "x", 9]) == [5, 10, 11, 12, 9]
    assert counted(["a", "b"]) == ["a", "b"]


def test_outlines_in_other_forms():
    points = [[1, 2], [3, 4], [5, 6]]
    assert nested([1, 2, 3, 4, 5, 6]) == nested(points) == nested([points]) == [[1, 2, 3, 4, 5, 6]]
    assert nested(None) is None and nested({"size": [1, 1]}) == {"size": [1, 1]}
