"""What is kept of annotation files: equal to what is read, made once, and never out of date."""

import json
import os
import threading
import time

import numpy as np
import pytest
import torch

from data import cache, table
from data.cache import FOLDER, Kept, Store
from data.coco import CocoDataset
from data.doctor import annotations as doctor
from data.doctor.check import check_dataset
from data.schema import DataConfig
from data.segmentation import encoded
from data.table import read_table
from layers.problems import DataWarning
from tests.data.sets import SQUARE, annotation, image_entry, write_set

TRIANGLE = [0.5, 0.25, 30.1, 40.7, 3.3, 20.2]
RUNS = {"size": [48, 64], "counts": [100, 500, 48 * 64 - 600]}
TEXT = encoded(RUNS, 48, 64)["counts"].decode()
IMAGES = [
    image_entry(7, "a.png"),
    image_entry("text", "b.png", 32, 32),
    image_entry(3, "empty.png"),
    image_entry(11, "bare.png", 40, 40),
    image_entry(2, "last.png", 40, 40),
]
ANNOTATIONS = [
    annotation(1, 7, 5, segmentation=[SQUARE, TRIANGLE]),
    annotation(2, 2),
    annotation("three", 7, 1, segmentation={"size": [48, 64], "counts": TEXT}, iscrowd=1),
    annotation(4, "text", 1, bbox=[3, 3, 20.25, 20.5]),
    annotation(5, 7, 1, segmentation=RUNS),
    annotation(6, 3, 1, bbox=[3, 3, 0, 9]),
]
CATEGORIES = [{"id": 1, "name": "thing"}, {"id": 5, "name": "other"}, {"id": 9, "name": "spare"}]
NAMES = ("other", "thing")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def make(root, annotations=ANNOTATIONS, **changes):
    return write_set(root, images=IMAGES, annotations=annotations, categories=CATEGORIES, **changes)


def settings(root) -> DataConfig:
    make(root / "train")
    make(root / "val")
    paths = {
        f"{split}_{kind}": f"{split}/{kind}{end}"
        for split in ("train", "val")
        for kind, end in (("images", ""), ("annotations", ".json"))
    }
    return DataConfig(root=str(root), class_names=NAMES, **paths)


def read_nothing(monkeypatch):
    def refuse(path, **_):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(table, "read_coco", refuse)
    monkeypatch.setattr(doctor, "read_coco", refuse)


def kept_files(path):
    return sorted(path.parent.joinpath(FOLDER).glob(f"{path.name}.*"))


def same(one, other):
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == found.dtype and value.tobytes() == found.tobytes(), name
            assert value.shape == found.shape, name
        else:
            assert value == found and repr(value) == repr(found), name
    for image in range(len(one.image_ids)):
        for row in one.rows(image):
            size = one.size(image)
            assert one.encoded_mask(row, *size) == other.encoded_mask(row, *size)


# ------------------------------------------------------------------------------------------ content


@pytest.mark.parametrize("keep_empty", [False, True])
@pytest.mark.parametrize("label_map", [None, {5: 1, 1: 0, 77: 0}])
def test_a_kept_table_is_the_one_that_is_read(tmp_path, monkeypatch, keep_empty, label_map):
    _, path = make(tmp_path)
    options = {"label_map": label_map, "keep_empty": keep_empty}
    plain = read_table(path, NAMES, **options, cache=False)
    same(plain, read_table(path, NAMES, **options))
    read_nothing(monkeypatch)
    again = read_table(path, NAMES, **options)
    same(plain, again)
    assert len(plain.image_ids) == 3 + 2 * keep_empty and len(plain.labels) == 5
    assert plain.labels.tolist() == ([1, 0, 0, 0, 0] if label_map else [0, 1, 1, 1, 1])
    assert plain.zero_area == [6] and not again.coordinates.flags.writeable


@pytest.mark.filterwarnings("ignore::layers.problems.DataWarning")
def test_samples_are_equal(tmp_path):
    folder, path = make(tmp_path)
    CocoDataset(folder, path, NAMES)
    plain, kept = (CocoDataset(folder, path, NAMES, cache=c) for c in (False, True))
    assert kept_files(path)
    for one, other in zip(plain, kept):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.targets.masks, other.targets.masks)


def test_one_table_serves_other_classes(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    read_table(path, NAMES)
    read_nothing(monkeypatch)
    assert read_table(path, NAMES[::-1]).labels.tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="'other' is not in data.class_names"):
        read_table(path, ("thing",))


def test_what_was_left_out_is_told_again(tmp_path, monkeypatch):
    many = [annotation(key, 7) for key in range(10, 110)]
    _, path = make(tmp_path, [*many, annotation(200, 7, bbox=[0, 0, -1, 5])])
    with pytest.warns(DataWarning, match="left out 1 of 101 .*annotation 200") as first:
        read_table(path, ("thing", "other"))
    read_nothing(monkeypatch)
    with pytest.warns(DataWarning) as second:
        read_table(path, ("thing", "other"))
    assert str(first[0].message) == str(second[0].message)


# ------------------------------------------------------------------------------------------- doctor


def test_doctor_and_data_set_read_a_file_once(tmp_path, monkeypatch):
    data = settings(tmp_path)
    plain = check_dataset(data.model_copy(update={"cache": False}), fast=True)
    assert {f.level for f in plain} == {"warning", "note"}
    assert not (tmp_path / "train" / FOLDER).exists()
    assert check_dataset(data, fast=True) == plain
    read_nothing(monkeypatch)
    assert check_dataset(data, fast=True) == plain
    read_table(tmp_path / "train/annotations.json", NAMES)


def test_images_are_looked_for_each_time(tmp_path, monkeypatch):
    data = settings(tmp_path)
    check_dataset(data, fast=True)
    read_nothing(monkeypatch)
    (tmp_path / "train/images/a.png").unlink()
    (tmp_path / "val/images/b.png").unlink()
    (tmp_path / "val/images/b.png").symlink_to(tmp_path / "train/images/b.png")
    told = [str(f) for f in check_dataset(data, fast=True)]
    assert any("1 of them are not in" in text and "a.png" in text for text in told)
    assert any("1 images are in the train and in the val split (b.png)" in text for text in told)


@pytest.mark.parametrize("change", [{"class_names": NAMES[:1]}, {"keep_empty": True}])
def test_findings_belong_to_their_settings(tmp_path, change):
    data = settings(tmp_path)
    check_dataset(data, fast=True)
    changed = data.model_copy(update=change)
    plain = check_dataset(changed.model_copy(update={"cache": False}), fast=True)
    assert check_dataset(changed, fast=True) == plain != check_dataset(data, fast=True)


def test_what_is_refused_is_not_kept(tmp_path):
    data = settings(tmp_path)
    path = tmp_path / "train/annotations.json"
    make(tmp_path / "train", [*ANNOTATIONS, annotation(8, 99)])
    first, second = (check_dataset(data, fast=True) for _ in range(2))
    assert first == second and first[0].level == "error" and not kept_files(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="annotation 8 belongs to image 99"):
            read_table(path, NAMES)
    assert not kept_files(path)


# ----------------------------------------------------------------------------------- what is kept


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    read_table(path, NAMES)
    before = path.stat()
    path.write_text(path.read_text().replace("0.25, 30.1", "0.75, 30.1"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert 0.75 in read_table(path, NAMES).coordinates
    os.utime(path)  # touched, and the same
    read_nothing(monkeypatch)
    assert 0.75 in read_table(path, NAMES).coordinates


def test_times_alone_tell_of_a_file_that_rests(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    monkeypatch.setattr(cache, "SETTLED", -1)
    first = read_table(path, NAMES)

    def refuse(*_):
        raise AssertionError("the content was hashed")

    monkeypatch.setattr(cache, "_digest", refuse)
    again = read_table(path, NAMES)
    assert np.array_equal(again.coordinates, first.coordinates)


def test_other_code_reads_again(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    read_table(path, NAMES)
    monkeypatch.setattr(cache, "_code", lambda: "other")
    read_nothing(monkeypatch)
    with pytest.raises(AssertionError, match="was read"):
        read_table(path, NAMES)


@pytest.mark.parametrize("place", [20, 28, 40, -1, "cut", "head"])
def test_damage_is_told_and_mended(tmp_path, monkeypatch, place):
    _, path = make(tmp_path)
    plain = read_table(path, NAMES, cache=False)
    read_table(path, NAMES)
    (kept,) = kept_files(path)
    data = bytearray(kept.read_bytes())
    if isinstance(place, int):
        data[place] ^= 0x10
    kept.write_bytes(data[: {"cut": -100, "head": 20}.get(place)])
    with pytest.warns(DataWarning, match="is damaged, and is made anew"):
        same(plain, read_table(path, NAMES))
    read_nothing(monkeypatch)
    same(plain, read_table(path, NAMES))


@pytest.mark.parametrize("foreign", ["text", "folder", "pipe"])
def test_a_foreign_file_is_refused_and_stays(tmp_path, foreign):
    _, path = make(tmp_path)
    read_table(path, NAMES)
    (kept,) = kept_files(path)
    kept.unlink()
    if foreign == "text":
        kept.write_text("mine")
    elif foreign == "folder":
        kept.mkdir()
    else:
        os.mkfifo(kept)
    with pytest.raises(ValueError, match="was not written by this program: move it away, or set"):
        read_table(path, NAMES)
    assert foreign != "text" or kept.read_text() == "mine"
    read_table(path, NAMES, cache=False)


# ------------------------------------------------------------------------------------------- places


def test_small_files_leave_nothing(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    read_table(path, NAMES, cache=False)
    monkeypatch.setattr(cache, "SMALLEST", path.stat().st_size + 1)
    read_table(path, NAMES)
    assert not (tmp_path / FOLDER).exists()


def test_it_is_kept_at_home_where_the_set_takes_nothing(tmp_path, monkeypatch):
    _, path = make(tmp_path)
    (tmp_path / FOLDER).touch()
    plain = read_table(path, NAMES)
    assert len([*(tmp_path / "home").rglob("annotations.json.*")]) == 1
    read_nothing(monkeypatch)
    same(plain, read_table(path, NAMES))


def test_no_place_at_all_is_told(tmp_path):
    _, path = make(tmp_path)
    (tmp_path / FOLDER).touch()
    (tmp_path / "home").touch()
    with pytest.warns(DataWarning, match="cannot be kept for the next start .*data.cache=false"):
        found = read_table(path, NAMES)
    same(found, read_table(path, NAMES, cache=False))


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path):
    _, path = make(tmp_path)

    def change() -> Kept:
        path.write_text(json.dumps({}))
        return Kept({"old": True})

    assert Store(path, "key").fetch(change).facts == {"old": True}
    assert not kept_files(path)


def test_starts_at_once_make_it_once(tmp_path):
    _, path = make(tmp_path)
    made, found = [], []

    def slow() -> Kept:
        made.append(1)
        time.sleep(0.2)
        return Kept({"number": len(made)}, {"a": np.arange(5), "none": np.zeros((0, 3))})

    threads = [
        threading.Thread(target=lambda: found.append(Store(path, "key").fetch(slow)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and [kept.facts["number"] for kept in found] == [1] * 4
    assert all(kept.arrays["a"].tolist() == [0, 1, 2, 3, 4] for kept in found)
    assert found[0].arrays["none"].shape == (0, 3)


def test_what_a_killed_process_left_is_removed(tmp_path):
    _, path = make(tmp_path)
    store = Store(path, "key")
    left = tmp_path / FOLDER / f".{store.name}.123.part"
    left.parent.mkdir()
    left.touch()
    store.fetch(lambda: Kept({}))
    assert [file.name for file in left.parent.iterdir()] == [store.name]
