"""File names as other tools write them, and what stands in place of a picture."""

import os

import pytest

from data.doctor.check import check_dataset
from data.schema import DataConfig
from tests.data.sets import annotation, image_entry, write_set


def section(root, names) -> DataConfig:
    """A set whose folder holds pictures/a.png and b.png, listed under other names."""
    entries = [image_entry(i, name) for i, name in enumerate(names, 1)]
    write_set(root, images=entries, annotations=[annotation(1)], draw=False)
    (root / "images/pictures").mkdir()
    for name in ("pictures/a.png", "b.png"):
        (root / "images" / name).write_bytes(b"x")
    return DataConfig(
        root=str(root),
        train_images="images",
        train_annotations="annotations.json",
        class_names=("thing",),
    )


def told(data, level="error", *, fast=True) -> list[str]:
    found = check_dataset(data, fast=fast, splits=("train",))
    return [str(f) for f in found if f.level == level]


@pytest.mark.parametrize(
    "name, words, fix",
    [
        ("pictures\\a.png", "there with / for \\, such as pictures/a.png", "forward slashes"),
        ("images\\b.png", "there without its folder, such as b.png", "remove the folder"),
        (
            "..\\..\\upload\\4\\b.png",
            "there without its folder, such as b.png",
            "correct data.train",
        ),
        ("https://host/x/b.png", "there without its folder, such as b.png", "remove the folder"),
        ("a.png", "there in a folder below, such as pictures/a.png", "with the folder"),
        ("B.PNG", "there in another case, such as b.png", "as the file is called"),
        ("b", "there with an ending, such as b.png", "with its ending"),
        ("gone.png", "(gone.png): copy them there", "remove their entries"),
    ],
)
def test_missing_files_are_looked_for(tmp_path, name, words, fix):
    (error,) = told(section(tmp_path, [name]))
    assert "lists 1 images, and 1 of them are not in" in error and words in error and fix in error


def test_a_name_that_could_mean_two_files_means_none(tmp_path):
    data = section(tmp_path, ["c.png"])
    for folder in ("one", "two"):
        (tmp_path / "images" / folder).mkdir()
        (tmp_path / "images" / folder / "c.png").write_bytes(b"x")
    (error,) = told(data)
    assert "copy them there" in error


def test_names_that_leave_the_folder_are_remarked(tmp_path):
    (tmp_path / "other.png").write_bytes(b"x")
    data = section(tmp_path, ["b.png", "../other.png", str(tmp_path / "other.png")])
    (warning,) = told(data, "warning")
    assert "2 file names that lead out of the image folder" in warning


def test_pipes_folders_and_loops_are_no_pictures(tmp_path):
    data = section(tmp_path, ["b.png", "pictures", "pipe.png", "loop.png"])
    os.mkfifo(tmp_path / "images/pipe.png")
    (tmp_path / "images/loop.png").symlink_to("loop.png")
    (error,) = told(data)
    assert "3 folders, pipes or broken links in place of images (loop.png, pictures" in error
    assert any("cannot be decoded" in text for text in told(data, fast=False))  # b.png, read


def test_unreadable_pictures_are_one_finding_a_kind(tmp_path):
    names = ["b.png", "c.png", "d.png", "e.png"]
    data = section(tmp_path, names)
    for name in names[1:]:
        (tmp_path / "images" / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    pointers, other = told(data, fast=False)[::-1]
    assert "c.png is a Git LFS pointer" in pointers and "(and 2 more of this kind" in pointers
    assert "b.png cannot be decoded" in other
