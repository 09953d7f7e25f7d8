"""The split: that of the source, or by lot with near-duplicates on one side."""

import json

import cv2
import numpy as np
import pytest

from data.doctor.anchors import _best_overlaps
from data.importing.anchors import fit_anchors
from data.importing.run import import_set
from data.importing.split import near_duplicates
from data.importing.write import Target
from data.schema import ModelConfig
from tests.data.importing import sources


def split_of(source, out, **options):
    lines = import_set(source, Target(out, "yolact_plus_tiny"), **options)
    names = {
        split: [
            entry["file_name"]
            for entry in json.loads((out / f"annotations/{split}.json").read_text())["images"]
        ]
        for split in ("train", "val")
    }
    return names, "\n".join(lines)


def test_the_split_of_the_source_is_kept(tmp_path):
    source = sources.yolo(tmp_path / "s", splits=("train", "val", "test"))
    names, told = split_of(source, tmp_path / "out")
    assert names["val"] == [f"val/{number}.png" for number in range(100, 105)]
    assert names["train"] == [f"train/{number}.png" for number in range(5)]
    assert "split of the source kept" in told and "test images left out: 5" in told


def test_one_folder_for_both_is_no_split(tmp_path):
    source = sources.yolo(tmp_path / "s")
    path = source / "data.yaml"
    path.write_text("train: images\nval: images\nnames: [screw, nut]\n")
    names, told = split_of(source, tmp_path / "out")
    assert "warning: data.yaml names one folder for train and val" in told
    assert (len(names["train"]), len(names["val"])) == (4, 1)
    root = tmp_path / "coco"
    content = json.dumps(sources.coco_json(sources.draw_all(root)))
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(content)
    names, told = split_of(root, tmp_path / "b")
    assert "warning: train and val are the same images" in told
    assert sorted(names["train"] + names["val"]) == [f"{number}.png" for number in range(5)]


def test_the_lot_depends_on_the_seed_alone(tmp_path):
    source = sources.labelme(tmp_path / "s")
    found = [
        split_of(source, tmp_path / f"{n}", seed=seed, val_share=0.4)[0]["val"]
        for n, seed in enumerate((0, 0, 1, 2, 3))
    ]
    assert found[0] == found[1] and len({tuple(names) for names in found}) > 1
    assert all(len(names) == 2 for names in found)


def test_near_duplicates_stay_on_one_side(tmp_path):
    source = sources.labelme(tmp_path / "s")
    for number in (1, 2):
        frame = cv2.imread(str(source / "0.png")).astype(np.int16)
        noise = np.random.default_rng(number).integers(-1, 2, frame.shape)
        cv2.imwrite(str(source / f"{number}.png"), np.clip(frame + noise, 0, 255).astype(np.uint8))
    for seed in range(4):
        names, told = split_of(source, tmp_path / f"{seed}", seed=seed, val_share=0.4)
        sides = {next(s for s in names if f"{n}.png" in names[s]) for n in range(3)}
        assert len(sides) == 1 and "near-duplicates kept on one side: 3 images" in told


def test_groups_against_all_pairs():
    rng = np.random.default_rng(0)
    seeds = rng.random((6, 16, 16)) < 0.5
    hashes = [seeds[number % 6] ^ (rng.random((16, 16)) < 0.012) for number in range(40)]
    groups = {at: set(group) for group in near_duplicates(hashes) for at in group}
    for a, one in enumerate(hashes):
        for b, other in enumerate(hashes):
            if (one != other).sum() <= 7:
                assert b in groups[a]
            if a % 6 != b % 6:
                assert b not in groups[a]


@pytest.mark.parametrize("low, high", [(5, 25), (20, 460), (80, 120), (150, 540)])
def test_anchors_follow_the_size_of_boxes_and_the_places_that_they_can_have(low, high):
    """Against the anchors of the model themselves, over boxes that lie anywhere."""
    model, draw = ModelConfig(), np.random.default_rng(0)
    sides = np.exp(draw.uniform(np.log(low), np.log(high), (600, 1))).repeat(2, axis=1)
    shares = sides / model.max_size
    boxes = np.concatenate([draw.uniform(0, 1 - shares), shares], axis=1)

    def reached(scales, ratios):
        changed = model.model_copy(update={"anchor_scales": scales, "anchor_ratios": ratios})
        return float(_best_overlaps(boxes, changed).mean())

    found = fit_anchors(shares, model)
    assert [len(level) for level in found.scales] == [1] * 5 and len(found.ratios) == 3
    assert found.before == pytest.approx(
        reached(model.anchor_scales, model.anchor_ratios), abs=0.03
    )
    assert found.iou == pytest.approx(reached(found.scales, found.ratios), abs=0.03)
    by_factor = [
        reached(
            [[side * 2.0**power for side in level] for level in model.anchor_scales], found.ratios
        )
        for power in (-2, -1, 0, 1, 2)
    ]
    assert found.iou > max(by_factor) - 0.04


def test_ratios_follow_long_boxes():
    model = ModelConfig()
    sides = np.random.default_rng(0).uniform(40, 200, 400)
    boxes = np.stack([sides * 2.5, sides / 2.5], 1) / model.max_size
    found = fit_anchors(boxes, model)
    assert found.ratios == pytest.approx([6.25] * 3, rel=0.01)
    assert found.iou > found.before + 0.2
