"""Prediction on pictures and folders."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.yolact.engine.oracle import Oracle, config, write_set
from yolact.build import build_model
from yolact.engine import predict
from yolact.engine.found import FoundFiles, Wanted
from yolact.engine.predict import (
    Predictor,
    predict_folder,
    predict_image,
    read_upright,
)
from yolact.files import write_image

SQUARES = [[(16, 32, 80, 0), (120, 100, 100, 1)], [(8, 8, 64, 1)]]


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path, SQUARES, image_ids=["a", "b"], category_ids=[1, 2])
    return tmp_path


@pytest.fixture
def oracle(folder):
    return Predictor(Oracle(), config(folder))


# ---------------------------------------------------------------- arrays


def test_pictures_of_several_sizes_in_one_batch(folder):
    cfg = config(folder, "eval.score_threshold=0.0", "eval.max_dets=10")
    predictor = Predictor(build_model(cfg).train(), cfg)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((60, 90), (300, 200))]
    together = predictor.batch(images)
    for image, found in zip(images, together):
        alone = predictor(image)
        assert found.masks.shape == (10, *image.shape[:2]) and torch.equal(
            found.labels, alone.labels
        )
        assert (
            torch.allclose(found.boxes, alone.boxes, atol=0.01)
            and (found.masks != alone.masks).float().mean() < 1e-3
        )
    assert not predictor.model.training and not together[0].boxes.requires_grad


def test_instances_are_what_the_detections_come_from(folder):
    cfg = config(folder, "eval.score_threshold=0.0", "eval.max_dets=10")
    predictor = Predictor(build_model(cfg), cfg)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    predictions = predictor.forward(predictor.preprocess([image]))
    raw, found = predictor.instances(predictions), predictor(image)
    assert torch.equal(raw.labels, found.labels) and torch.equal(raw.scores, found.scores)
    pixels = raw.boxes.clamp(0, 1) * torch.tensor([90, 60, 90, 60])
    assert torch.allclose(pixels, found.boxes, atol=1e-3) and raw.coefficients.shape == (
        10,
        cfg.model.prototypes,
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(oracle, image):
    with pytest.raises(ValueError, match=r"\(height, width, 3\) uint8 RGB"):
        oracle(image)


def test_bf16_runs_and_stays_close(folder):
    cfg = config(folder, "eval.score_threshold=0.0", base="yolact_small")
    model = build_model(cfg)
    images = Predictor(model, cfg).preprocess(
        [np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)]
    )
    full, half = (
        Predictor(model, cfg, precision=p).forward(images).prototypes.float()
        for p in ("float32", "bf16")
    )
    assert (
        not torch.equal(full, half) and (full - half).abs().mean() < 0.05 * full.abs().mean() + 0.01
    )


# ---------------------------------------------------------------- files


def test_a_picture(folder, oracle):
    """Colours arrive as RGB: the oracle tells red from green, and would see blue as neither."""
    found = predict_image(oracle, folder / "images" / "a.png", folder / "out" / "a.png")
    assert sorted(found.labels[found.scores > 0.5].tolist()) == [0, 1]
    drawn, plain = (
        cv2.imread(str(path)) for path in (folder / "out" / "a.png", folder / "images" / "a.png")
    )
    assert drawn.shape == plain.shape and (drawn != plain).any(2).mean() > 0.1
    assert (drawn[245:] == plain[245:]).all()
    assert not list((folder / "out").glob(".*"))


def test_a_picture_that_is_not_there_or_broken_is_named(folder, oracle):
    with pytest.raises(ValueError, match=r"missing\.jpg does not exist"):
        predict_image(oracle, folder / "missing.jpg", folder / "out.png")
    broken = folder / "broken.png"
    broken.write_bytes((folder / "images" / "a.png").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"broken\.png"):
        predict_image(oracle, broken, folder / "out.png")
    with pytest.raises(ValueError, match=r"out\.docx.*use one of"):
        predict_image(oracle, folder / "images" / "a.png", folder / "out.docx")
    (folder / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        predict_image(oracle, folder / "images" / "a.png", folder / "file" / "out.png")
    assert not (folder / "out.png").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, orientation):
    """Against Pillow, for all eight orientations of EXIF."""
    from PIL import ImageOps

    pixels = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert("RGB").save(
        tmp_path / "p.jpg", exif=exif, quality=100, subsampling=0
    )
    with Image.open(tmp_path / "p.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = read_upright(tmp_path / "p.jpg")
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= 3


def test_a_folder(folder, oracle, capsys):
    source, output = folder / "images", folder / "drawn"
    (source / "notes.txt").write_text("no picture")
    (source / "empty.jpg").write_bytes(b"")
    written = predict_folder(oracle, source, output, progress=False)
    assert (
        [p.name for p in written] == ["a.png", "b.png"] == sorted(p.name for p in output.iterdir())
    )
    said = capsys.readouterr().err
    assert "skipped 2 of 4" in said and "notes.txt (no picture)" in said and "empty.jpg" in said


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folder_gives_what_its_pictures_give_one_by_one(tmp_path, capsys, batch_size):
    """In the order of the names, whatever threads do first; a broken file is named once."""
    squares = [[(8 * i, 16, 64 + 8 * i, i % 2)] for i in range(7)]
    write_set(tmp_path, squares, image_ids=[f"p{i}" for i in range(7)], category_ids=[1, 2])
    source = tmp_path / "images"
    listed = sorted(source.iterdir())
    (source / "p3x.png").write_bytes(b"\x89PNG broken")
    cfg = config(tmp_path)
    found = {}
    for name, run in (
        ("together", lambda **k: predict_folder(batch_size=batch_size, progress=False, **k)),
        (
            "alone",
            lambda source, output, predictor, files: one_by_one(predictor, listed, output, files),
        ),
    ):
        out = tmp_path / name
        with FoundFiles(Wanted(json=out / "found.json", csv=out / "found.csv"), cfg) as files:
            run(predictor=Predictor(Oracle(), cfg), source=source, output=out, files=files)
        found[name] = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    assert found["together"] == found["alone"] and len(found["alone"]) == 9
    said = capsys.readouterr().err
    assert said.count("p3x.png") == said.count("skipped 1 of 8") == 1


def one_by_one(predictor, paths, output, files):
    for path in paths:
        predict_image(predictor, path, output / path.name, files=files)


def test_a_folder_ends_where_a_result_cannot_be_written(folder, oracle, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(predict, "write_image", full)
    with pytest.raises(OSError, match="no space"):
        predict_folder(oracle, folder / "images", folder / "out", progress=False)


def test_a_folder_that_cannot_serve_is_named(folder, oracle):
    with pytest.raises(ValueError, match="nowhere.*does not exist"):
        predict_folder(oracle, folder / "nowhere", folder / "drawn")
    with pytest.raises(ValueError, match="not a folder"):
        predict_folder(oracle, folder / "images" / "a.png", folder / "drawn")
    with pytest.raises(ValueError, match="overwrite"):
        predict_folder(oracle, folder / "images", folder / "images")
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        predict_folder(oracle, folder / "none", folder / "drawn")


def test_pictures_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_image(tmp_path / "p.png", np.zeros((4, 4, 3), np.uint8))
    before = (tmp_path / "p.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "p.png", np.ones((9, 9, 3), np.uint8))
    assert (tmp_path / "p.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
