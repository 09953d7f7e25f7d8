"""The picture of outlines: which objects, their IoUs, and what is drawn."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from data.resolve import RUN_CONFIG, dump_yaml
from yolact.analysis.edges import CELL, draw_edges
from yolact.testing import tiny


@pytest.fixture
def runs(tmp_path):
    """Two runs: one that finds every mask exactly, one that misses the first and finds the rest a
    pixel to the right."""
    cfg = tiny.config(tiny.write_dataset(tmp_path / "set"))
    truth = json.loads((tmp_path / "set" / "val.json").read_text())
    made = {}
    for title, shift in (("exact", 0), ("shifted", 1)):
        folder = made[title] = tmp_path / title
        (folder / "results").mkdir(parents=True)
        (folder / RUN_CONFIG).write_text(dump_yaml(cfg))
        entries = []
        for a in truth["annotations"][shift:]:
            mask = coco_mask.decode(coco_mask.frPyObjects(a["segmentation"], 72, 72))[:, :, 0]
            rle = coco_mask.encode(np.asfortranarray(np.roll(mask, shift, 1)))
            entries.append(
                {key: a[key] for key in ("image_id", "category_id")}
                | {"score": 0.9, "segmentation": rle | {"counts": rle["counts"].decode()}}
            )
        (folder / "results" / "mask_detections.json").write_text(json.dumps(entries))
    return made, truth["annotations"]


def test_objects_that_all_runs_find_from_the_largest_on(runs, tmp_path):
    folders, annotations = runs
    found = draw_edges(folders, tmp_path / "edges.png", objects=2)
    by_area = sorted(annotations[1:], key=lambda a: -a["area"])
    half = by_area[len(by_area) // 2]
    assert found["exact"] == [1.0, 1.0] and len(by_area) >= 2
    for iou, a in zip(found["shifted"], (by_area[0], half), strict=True):
        mask = coco_mask.decode(coco_mask.frPyObjects(a["segmentation"], 72, 72))[:, :, 0]
        moved = np.roll(mask, 1, 1)
        assert iou == pytest.approx((mask & moved).sum() / (mask | moved).sum())
    picture = cv2.imread(str(tmp_path / "edges.png"))
    assert picture.shape[1] > 2 * CELL
    left, right = np.split(picture[:, : picture.shape[1] // 2 * 2], 2, axis=1)
    white = [(part.reshape(-1, 3) == 255).all(1).sum() for part in (left, right)]
    assert white[0] < white[1]  # the orange outline lies on the white one where both are the same


def test_runs_without_a_common_object(runs, tmp_path):
    folders, _ = runs
    (folders["shifted"] / "results" / "mask_detections.json").write_text("[]")
    with pytest.raises(ValueError, match="no object is found by all of exact, shifted"):
        draw_edges(folders, tmp_path / "edges.png")
    assert not (tmp_path / "edges.png").exists()
