"""Large images by tiles: every object is found once, with its whole mask."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from tests.yolact.engine.oracle import COLOURS, Oracle, config, write_set
from yolact.commands.predict import program
from yolact.engine import tiles
from yolact.engine.predict import Predictor
from yolact.engine.tiles import TiledPredictor, starts

TILE = 256  # the oracle's own side: tiles are not resized


@pytest.fixture
def predictor(tmp_path):
    write_set(tmp_path, [[(8, 8, 64, 1)]], image_ids=["a"], category_ids=[1, 2])
    return Predictor(Oracle(), config(tmp_path))


def picture(height, width, squares):
    """Grey, with (x, y, side, class)."""
    image = np.full((height, width, 3), 128, np.uint8)
    for x, y, side, label in squares:
        image[y : y + side, x : x + side] = COLOURS[label]
    return image


def sure(predictor, image):
    """Without the other class of each anchor, which Fast NMS lets in."""
    (found,) = predictor.batch([image])
    return found.select(found.scores > 0.5)


@pytest.mark.parametrize(
    "length, tile, overlap", [(1000, 256, 0.2), (257, 256, 0), (9000, 1024, 0.5)]
)
def test_tiles_cover_a_side_and_share_what_they_should(length, tile, overlap):
    places = starts(length, tile, overlap)
    assert places[0] == 0 and places[-1] == length - tile
    shared = [a + tile - b for a, b in zip(places, places[1:])]
    assert min(shared) >= overlap * tile - 1 and max(shared) - min(shared) <= 1
    assert starts(100, tile, overlap) == [0]


# apart; across a border; across four tiles; longer than the overlap; a neighbour of another class
SQUARES = [
    (8, 12, 40, 0),
    (200, 20, 60, 0),
    (196, 200, 72, 1),
    (300, 40, 140, 1),
    (268, 200, 48, 0),
]


@pytest.mark.parametrize("overlap", [0.2, 0.5])
def test_objects_across_borders_are_found_once_with_their_masks(predictor, overlap):
    image = picture(460, 600, SQUARES)
    found = sure(TiledPredictor(predictor, TILE, overlap), image)
    assert len(found) == len(SQUARES)
    for x, y, side, label in SQUARES:
        truth = np.zeros(image.shape[:2], bool)
        truth[y : y + side, x : x + side] = True
        overlaps = [
            (found.runs.mask(i) & truth).sum() / (found.runs.mask(i) | truth).sum()
            for i in range(len(found))
        ]
        best = int(np.argmax(overlaps))
        assert overlaps[best] > 0.9 and found.labels[best] == label
        expected = torch.tensor([x, y, x + side, y + side]).float()
        assert torch.allclose(found.boxes[best], expected, atol=4)


def test_neighbours_of_one_class_stay_apart(predictor):
    squares = [(180, 40, 48, 0), (232, 40, 48, 0), (284, 40, 48, 0)]
    found = sure(TiledPredictor(predictor, TILE, 0.5), picture(256, 500, squares))
    assert len(found) == 3


# three tiles in a row, neighbours sharing a third
ROW = [(0, left, 100, left + 150) for left in (0, 100, 200)]


def part(tile, left, right, score):
    """A bar of the image, as far as its tile sees it."""
    x0, x1 = max(left, ROW[tile][1]), min(right, ROW[tile][3])
    return tiles._Part(ROW[tile], 0, score, score, (x0, 20, x1, 40), 20, x0, np.ones((20, x1 - x0)))


def bars(*parts):
    """(left, right, score) of what becomes of parts, by falling score."""
    merged = [tiles._merged(group) for group in tiles._groups([part(*one) for one in parts])]
    assert all(m.pixels.all() and m.pixels.shape == (20, m.box[2] - m.box[0]) for m in merged)
    return [(m.box[0], m.box[2], m.score) for m in sorted(merged, key=lambda m: -m.score)]


def test_a_weak_part_over_two_objects_leaves_both_as_they_are():
    """The second tile sees both objects, and weakly a third one that spans them."""
    both = (0, 110, 145, 0.95), (1, 110, 145, 0.9), (1, 160, 200, 0.85)
    expected = [(110, 145, 0.95), (160, 200, 0.85), (110, 200, 0.07)]
    assert bars(*both, (1, 110, 200, 0.07)) == expected
    assert bars((1, 110, 200, 0.07), *reversed(both)) == expected


def test_a_weak_part_loses_no_object_of_a_third_tile():
    """The second tile sees no object but the weak one, which agrees with one at each side."""
    ends = (0, 110, 145, 0.95), (2, 205, 240, 0.9)
    found = bars(*ends, (1, 110, 240, 0.07))
    assert [score for *_, score in found] == [0.95, 0.9]


def test_a_part_joins_what_it_agrees_with_best():
    """Of two objects of the first tile, where the shared strip is 100..150."""
    found = bars((0, 100, 140, 0.9), (0, 108, 150, 0.8), (1, 108, 170, 0.5))
    assert found == [(100, 140, 0.9), (108, 170, 0.8)]


def test_an_object_longer_than_a_tile_is_one():
    parts = (0, 30, 320, 0.9), (1, 30, 320, 0.5), (2, 30, 320, 0.85)
    assert bars(*parts) == [(30, 320, 0.9)]


def test_small_images_go_through_together_with_the_inputs_that_were_made(predictor, monkeypatch):
    small, large = picture(200, 256, [(8, 8, 64, 1)]), picture(256, 400, [(300, 8, 64, 0)])
    tiled = TiledPredictor(predictor, TILE)
    expected = [tiled.batch([image])[0] for image in (small, large, small)]
    inputs = [tiled.input(image) for image in (small, large, small)]
    passes, forward = [], tiled.forward
    monkeypatch.setattr(tiled, "forward", lambda x: passes.append(len(x)) or forward(x))
    found = tiled.batch([small, large, small], inputs)
    assert passes[0] == 2 and sum(passes) == 4  # the large one has two tiles
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.masks, other.masks)
    monkeypatch.setattr(tiled, "input", lambda _: pytest.fail("resized twice"))
    tiled.batch([small, small], [inputs[0], inputs[2]])


def test_a_small_image_goes_through_whole(predictor):
    image = picture(256, 256, [(8, 8, 64, 1)])
    (tiled,), (whole,) = TiledPredictor(predictor, TILE).batch([image]), predictor.batch([image])
    assert torch.equal(tiled.boxes, whole.boxes) and torch.equal(tiled.masks, whole.masks)


def test_memory_is_that_of_the_image_and_a_few_tiles(predictor):
    squares = [(x, y, 60, (x + y) % 2) for x in range(10, 2900, 240) for y in range(10, 1900, 240)]
    image = picture(2000, 3000, squares)
    tiled = TiledPredictor(predictor, TILE, 0.2)
    tracemalloc.start()
    found = sure(tiled, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == len(squares)
    assert peak < image.nbytes  # the stack of masks would take 96 x 6 MB


@pytest.mark.parametrize("tile, overlap, part", [(8, 0.2, "--tile 8"), (256, 1.5, "--overlap 1.5")])
def test_senseless_tiles_are_refused(predictor, tile, overlap, part):
    with pytest.raises(ValueError, match=part):
        TiledPredictor(predictor, tile, overlap)


def test_the_program_takes_them(predictor, tmp_path, monkeypatch, capsys):
    from yolact.engine import load

    class Opened:
        report = "the oracle"

    Opened.predictor = predictor
    monkeypatch.setattr(load, "open_model", lambda *_, **__: Opened)
    cv2.imwrite(str(tmp_path / "big.png"), picture(460, 600, SQUARES)[..., ::-1])
    words = ["run", str(tmp_path / "big.png"), f"--json={tmp_path / 'found.json'}"]
    assert program([*words, "--tile=256", "--overlap=0.3"]) == 0
    entries = json.loads((tmp_path / "found.json").read_text())
    assert sum(entry["score"] > 0.5 for entry in entries) == len(SQUARES)
    assert program([*words, "--tile=8"]) == 2 and "--tile 8" in capsys.readouterr().err
