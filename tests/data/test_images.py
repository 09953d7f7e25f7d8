"""Pictures of every kind: which way up they are read, and what is no picture, or a damaged one."""

import os
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from data.coco import CocoDataset
from data.doctor.check import check_dataset
from data.images import orientation, read_annotated, read_image, read_reduced, read_upright
from data.schema import DataConfig
from layers.problems import DataWarning
from tests.data.sets import COCO, image_entry, write_set

PHOTOS = sorted((COCO / "images").glob("*.jpg"))


def tagged(path, turn, size=(64, 48)):
    """A picture of width x height `size` with an EXIF orientation, and its stored pixels."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 20, 20)
    pixels[height // 2 :, : width // 2] = (20, 250, 20)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(path, exif=exif)
    return pixels


@pytest.mark.parametrize("turn", range(1, 9))
def test_training_and_prediction_turn_a_picture_alike(tmp_path, turn):
    """As OpenCV does, which is what published YOLACT reads with."""
    stored = tagged(tmp_path / "a.png", turn)
    turned = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    size = turned.shape[:2]
    assert np.array_equal(read_image(tmp_path / "a.png"), stored)
    assert np.array_equal(read_upright(tmp_path / "a.png"), turned)
    assert np.array_equal(read_annotated(tmp_path / "a.png", size), turned)
    images, path = write_set(
        tmp_path / "set", images=[image_entry(1, "a.png", size[1], size[0])], draw=False
    )
    (tmp_path / "a.png").rename(images / "a.png")
    assert np.array_equal(CocoDataset(images, path, ("thing",)).load_image(0), turned)


def test_where_only_the_stored_size_is_stated_the_stored_pixels_are_read(tmp_path):
    stored = tagged(tmp_path / "a.png", 6)
    assert np.array_equal(read_annotated(tmp_path / "a.png", (48, 64)), stored)
    assert read_annotated(tmp_path / "a.png", (64, 48)).shape == (64, 48, 3)


def test_the_doctor_counts_pictures_that_are_turned(tmp_path):
    names = {"half": 3, "quarter": 6, "stored": 8, "plain": 1}
    sizes = {"half": (64, 48), "quarter": (48, 64), "stored": (64, 48), "plain": (64, 48)}
    entries = [image_entry(i, f"{n}.png", *sizes[n]) for i, n in enumerate(names, 1)]
    images, _ = write_set(tmp_path, images=entries, draw=False)
    for name, turn in names.items():
        tagged(images / f"{name}.png", turn)
    data = DataConfig(
        root=str(tmp_path),
        train_images="images",
        train_annotations="annotations.json",
        class_names=("thing",),
    )
    told = {
        f.level: str(f)
        for f in check_dataset(data, splits=("train",))
        if "EXIF" in str(f) and "half" not in str(f)
    }
    assert told.keys() == {"warning", "note"}
    assert "1 images that EXIF orientation turns (stored.png)" in told["warning"]
    assert "1 images that EXIF orientation turns (quarter.png)" in told["note"]
    (half,) = [f for f in check_dataset(data, splits=("train",)) if "(half.png)" in str(f)]
    assert half.level == "warning" and "remove the tag" in half.problem.fix


def test_a_broken_orientation_leaves_the_picture_as_it_is():
    assert orientation(b"\xff\xd8 Exif and nothing") == orientation(b"") == 1


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE HTML><title>Sign in</title>", "is a web page"),
        (b"<html><body>404", "is a web page"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive"),
        (b"\x1f\x8b" + bytes(60), "compressed by gzip"),
        (b"nothing known", "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.jpg {words}|a.jpg is.*{words}"):
        read_image(tmp_path / "a.jpg")


def test_a_pipe_a_folder_and_impossible_names_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, words in (
        ("pipe.jpg", "is a pipe or a device"),
        ("", "is a folder"),
        ("a\0.jpg", "has a name that no file can have"),
        ("a\ud800.jpg", "has a name that no file can have|does not exist"),
        ("a" * 300 + ".jpg", "cannot be read .File name too long"),
    ):
        with pytest.raises(ValueError, match=words):
            read_image(f"{tmp_path}/{name}")


@pytest.mark.parametrize("suffix", [".hdr", ".pfm", ".tiff"])
def test_pictures_of_floating_point_values_are_refused(tmp_path, suffix):
    pixels = np.random.default_rng(0).random((20, 30, 3), np.float32)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    with pytest.raises(ValueError, match="floating-point values"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("photo", PHOTOS[:6], ids=lambda path: path.stem)
def test_a_hole_in_the_middle_of_a_jpeg_is_found(tmp_path, photo, capfd):
    data = bytearray(photo.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: bytes in its middle are zero"):
        read_image(tmp_path / "a.jpg")
    assert capfd.readouterr() == ("", "")


def test_zeros_that_a_flat_picture_holds_are_no_hole(tmp_path):
    flat = np.full((2000, 2000), 128, np.uint8)
    cv2.circle(flat, (1000, 1000), 200, 0, -1)
    cv2.imwrite(str(tmp_path / "a.jpg"), flat, [cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    assert bytes(1000) in (tmp_path / "a.jpg").read_bytes()
    assert read_image(tmp_path / "a.jpg").shape == (2000, 2000, 3)


def test_prediction_warns_of_dim_16_bit_pictures(tmp_path):
    dim = np.full((8, 8), 1000, np.uint16)
    cv2.imwrite(str(tmp_path / "dim.png"), dim)
    cv2.imwrite(str(tmp_path / "bright.png"), dim * 60)
    with pytest.warns(DataWarning, match="dim.png uses less than a sixteenth of its 16 bits"):
        read_upright(tmp_path / "dim.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_upright(tmp_path / "bright.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_jpeg_is_reduced_only_where_its_grid_stays(tmp_path, turn):
    """Sides of whole blocks: each pixel is about the mean of its block. Other sides: the grid of a
    turned picture would begin at the wrong edge, so it is read in full."""
    for side, exact in ((64, True), (60, False)):
        tagged(tmp_path / "a.jpg", turn, (side, 48))
        full = read_upright(tmp_path / "a.jpg")
        small, times = read_reduced(tmp_path / "a.jpg", full.shape[:2], 8)
        assert times == (8 if exact or turn == 1 else 1)
        if exact:
            height, width = full.shape[0] // 8, full.shape[1] // 8
            means = full.reshape(height, 8, width, 8, 3).mean((1, 3))
            assert small.shape == means.shape and np.abs(small - means).mean() <= 4


def test_what_cannot_be_reduced_is_read_in_full(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name, size in (("a.png", (48, 64)), ("a.jpg", (48, 65)), ("a.jpg", (64, 48))):
        cv2.imwrite(str(tmp_path / name), image)
        read, times = read_reduced(tmp_path / name, size, 4)
        assert times == 1 and read.shape == (48, 64, 3)
