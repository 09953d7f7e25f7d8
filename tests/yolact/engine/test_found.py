"""What is found, as data: JSON, masks, crops and rows, against each other and the pictures."""

import csv
import json
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from torch.utils._python_dispatch import TorchDispatchMode

from data.resolve import load_config
from yolact.draw import draw_detections
from yolact.engine.found import FoundFiles, Wanted
from yolact.outputs import Detections, Predictions
from yolact.postprocess import detect
from yolact.rle import MaskRuns

SIZE = (20, 30)


@pytest.fixture
def cfg():
    return load_config("quickstart", ["data.class_names=[cat, 'a, dog']"], check_names=False)


@pytest.fixture
def found():
    """Rectangles on 20 x 30 pixels. By mask score: cat 0.7, dog 0.6, dog 0.1; the best two overlap
    by 4 x 8 pixels."""
    boxes = torch.tensor([[2.0, 3, 12, 13], [8, 5, 20, 15], [22.0, 1, 29, 4]])
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    scores = torch.tensor([0.9, 0.8, 0.5]), torch.tensor([0.6, 0.7, 0.1])
    return Detections(boxes, torch.tensor([1, 0, 1]), *scores, masks)


def image():
    return np.arange(3 * SIZE[0] * SIZE[1], dtype=np.int64).reshape(*SIZE, 3).astype(np.uint8)


def all_of(folder, **options):
    """Wanted of every kind."""
    return Wanted(
        folder / "new" / "f.json", folder / "masks", folder / "crops", folder / "f.csv", **options
    )


def test_json_holds_every_detection_by_rank_and_the_mask_file_is_numbered_by_it(
    tmp_path, cfg, found
):
    with FoundFiles(all_of(tmp_path), cfg) as files:
        files.add("b/none.jpg", image(), found.select(torch.zeros(3, dtype=torch.bool)))
        files.add("b/some.jpg", image(), found)
    entries = json.loads((tmp_path / "new" / "f.json").read_text())
    assert [set(e) for e in entries] == 3 * [
        {"image_id", "file_name", "category_id", "category_name", "bbox", "segmentation", "score"}
        | {"mask_score"}
    ]
    assert [e["mask_score"] for e in entries] == pytest.approx([0.7, 0.6, 0.1])
    assert [e["score"] for e in entries] == pytest.approx([0.8, 0.9, 0.5])
    assert [(e["category_id"], e["category_name"]) for e in entries] == [
        (1, "cat"),
        (2, "a, dog"),
        (2, "a, dog"),
    ]
    assert {(e["image_id"], e["file_name"]) for e in entries} == {(2, "b/some.jpg")}
    assert entries[0]["bbox"] == [8, 5, 12, 10]
    numbers = cv2.imread(str(tmp_path / "masks" / "some.png"), cv2.IMREAD_UNCHANGED)
    first, second = (rle.decode(e["segmentation"]).astype(bool) for e in entries[:2])
    assert numbers.dtype == np.uint16 and (numbers[first] == 1).all()
    assert (numbers[second & ~first] == 2).all() and numbers.max() == 2  # 0.1 is below the score
    assert (numbers[~first & ~second] == 0).all()
    assert not cv2.imread(str(tmp_path / "masks" / "none.png"), cv2.IMREAD_UNCHANGED).any()
    assert files.told() == "2 drawn of 3: score >= 0.15, top 15"
    assert not list(tmp_path.rglob("*.part"))


def test_rows_and_crops_hold_what_the_pictures_show(tmp_path, cfg, found):
    with FoundFiles(all_of(tmp_path), cfg) as files:
        files.add("some.jpg", image(), found)
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "image_id": "1",
            "file_name": "some.jpg",
            "width": "30",
            "height": "20",
            "count": "2",
            "area": str(12 * 10 + 10 * 10),
        }
    ]
    names = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert names == ["some_1.png", "some_2.png"]
    crop = cv2.imread(str(tmp_path / "crops" / "some_1.png"), cv2.IMREAD_UNCHANGED)
    assert crop.shape == (10, 12, 4) and (crop[..., 3] == 255).all()
    assert (crop[..., 2::-1] == image()[5:15, 8:20]).all()


def test_classes_and_top_k_and_a_lower_score(tmp_path, cfg, found):
    wanted = all_of(tmp_path, classes=("a, dog",), score=0.05, top_k=1)
    with FoundFiles(wanted, cfg) as files:
        left = files.add("some.jpg", image(), found)
    assert left.labels.tolist() == [1, 1]
    entries = json.loads((tmp_path / "new" / "f.json").read_text())
    assert [e["category_name"] for e in entries] == ["a, dog", "a, dog"]
    assert files.told() == "1 drawn of 2: score >= 0.05, top 1, a, dog only"
    assert files.told(pictures=False) == "2 kept of 2: score >= 0.05, a, dog only"
    with pytest.raises(ValueError, match="did you mean 'cat'|cat"):
        FoundFiles(Wanted(classes=("cats",)), cfg)


def test_ids_are_those_of_the_label_map(tmp_path, cfg, found):
    cfg = cfg.model_copy(
        update={"data": cfg.data.model_copy(update={"label_map": {17: 0, 90: 1, 91: 1}})}
    )
    with FoundFiles(Wanted(json=tmp_path / "f.json"), cfg) as files:
        files.add("some.jpg", image(), found)
    entries = json.loads((tmp_path / "f.json").read_text())
    assert [e["category_id"] for e in entries] == [17, 90, 90]


def test_an_error_leaves_earlier_files_alone_and_nothing_half_written(tmp_path, cfg, found):
    for name in ("f.json", "f.csv"):
        (tmp_path / name).write_text("earlier")
    with pytest.raises(RuntimeError):
        with FoundFiles(Wanted(json=tmp_path / "f.json", csv=tmp_path / "f.csv"), cfg) as files:
            files.add("some.jpg", image(), found)
            raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.csv", "f.json"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"earlier"}


def test_pictures_of_one_stem_keep_files_of_their_own(tmp_path, cfg, found):
    with FoundFiles(Wanted(masks=tmp_path / "m"), cfg) as files:
        for name in ("a.jpg", "a.png", "b.jpg"):
            files.add(name, image(), found)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "a.png",
        "a.png.png",
        "b.png",
    ]


def test_folders_and_files_that_would_overwrite_each_other_are_refused(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (tmp_path / "dir.json").mkdir()
    for wanted, out in (
        (Wanted(masks=here), None),
        (Wanted(masks=there, crops=there), None),
        (Wanted(crops=there), there),
        (Wanted(), here),
        (Wanted(json=tmp_path / "dir.json"), None),
        (Wanted(json=tmp_path / "f", csv=tmp_path / "f"), None),
    ):
        with pytest.raises(ValueError, match="another folder|name a file|a file each"):
            wanted.refuse_clashes([here], out)
    Wanted(masks=there, json=there / "f.json").refuse_clashes([here], tmp_path / "out")


def test_no_program_makes_the_stack_of_masks(tmp_path, cfg, monkeypatch):
    """100 detections that cover a picture of 500 x 700 pixels: their stack is 35 MB. Nothing on the
    way from the network's output to the files and the picture is larger than a few masks."""
    size, d, made = (500, 700), 100, []
    predictions = Predictions(
        torch.zeros(1, d, 4),
        torch.stack([torch.linspace(1, 5, d), torch.linspace(5, 1, d)], 1)[None],
        torch.ones(1, d, 8),
        torch.rand(1, 34, 34, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.5, 0.5, 1, 1]).expand(d, 4),
        sigmoid=True,
    )

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append(result.numel() * result.element_size())
            return result

    monkeypatch.setattr(MaskRuns, "stack", lambda *_: pytest.fail("the stack was made"))
    picture = np.full((*size, 3), 90, np.uint8)
    tracemalloc.start()
    try:
        with Watch(), FoundFiles(replace(all_of(tmp_path), crops=None), cfg) as files:
            (found,) = detect(predictions, [size], iou_threshold=1.0, crop=True)
            left = files.add("some.jpg", picture, found)
            drawn = draw_detections(picture, left, cfg.data.class_names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == d and min(found.runs.areas()) > 0.9 * size[0] * size[1]
    assert (drawn != 90).any(2).mean() > 0.9
    assert max(made) < 4e6 and peak < 15e6
