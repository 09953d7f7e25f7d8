"""The Cigarettes stand-in: statistics of the real set, masks, layout, determinism, and what happens
when writing fails."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from data import generated
from data.cigarettes import objects as cigarettes_objects
from data.cigarettes import shape as cigarettes_shape
from data.cigarettes.contact_sheet import contact_sheet
from data.cigarettes.generate import generate
from data.cigarettes.ground import GROUNDS, Light, sample_light
from data.cigarettes.objects import DISTRACTORS, ButtLook, paint_butt
from data.cigarettes.scene import image_layout, render

ROOT = Path(__file__).resolve().parents[2]

# 5, 50, 95 % quantiles of the 2000 training images of the real set, pixels at 512 x 512
REAL = {
    "sqrt box area": (41, 71, 123),
    "oriented length": (50, 86, 164),
    "oriented width": (18, 28, 43),
    "oriented area / box area": (0.29, 0.47, 0.90),
}
REAL_CENTRES = (73, 440)  # read as 5 and 95 %, like the quantiles it is listed with


def measure(
    seed: int, split: str = "train", count: int = 500, size: int = 512
) -> dict[str, np.ndarray]:
    """Object statistics of a split, from the annotations alone."""
    rows = []
    for index in range(count):
        fields = cigarettes_shape.annotate(
            image_layout(seed, split, index, size=size).butts[0], size
        )
        points = np.array(fields["segmentation"][0], np.float32).reshape(-1, 2)
        _, sides, angle = cv2.minAreaRect(points)
        angle = (angle if sides[0] >= sides[1] else angle + 90) % 180
        x, y, w, h = fields["bbox"]
        rows.append(
            (
                np.sqrt(w * h),
                max(sides),
                min(sides),
                sides[0] * sides[1] / (w * h),
                x + w / 2,
                y + h / 2,
                angle,
            )
        )
    return dict(zip([*REAL, "x", "y", "angle"], np.array(rows).T, strict=True))


@pytest.mark.parametrize(("seed", "split"), [(0, "train"), (5, "train"), (2, "val")])
def test_quantiles_of_500_images_are_within_a_tenth_of_the_real_set(seed, split):
    measured = measure(seed, split)
    for name, real in REAL.items():
        np.testing.assert_allclose(
            np.quantile(measured[name], (0.05, 0.5, 0.95)), real, rtol=0.1, err_msg=name
        )
    for axis in "xy":
        np.testing.assert_allclose(
            np.quantile(measured[axis], (0.05, 0.95)), REAL_CENTRES, rtol=0.1, err_msg=axis
        )
    ranks = np.sort(measured["angle"]) / 180 - (np.arange(500) + 0.5) / 500
    assert np.abs(ranks).max() < 0.05  # Kolmogorov distance to the uniform distribution


def test_sizes_scale_with_the_image():
    full, half = measure(3, count=200), measure(3, count=200, size=256)
    for name in ("sqrt box area", "oriented length", "oriented width"):
        np.testing.assert_allclose(np.median(half[name]) * 2, np.median(full[name]), rtol=0.03)


def test_no_butt_touches_the_border_and_some_are_bent():
    butts = [image_layout(1, "train", i, size=512).butts[0] for i in range(400)]
    boxes = np.array([cigarettes_shape.annotate(b, 512)["bbox"] for b in butts])
    assert boxes[:, :2].min() >= 1 and (boxes[:, :2] + boxes[:, 2:]).max() <= 511
    assert 0.1 < np.mean([b.bend > 0.12 for b in butts]) < 0.4


def test_a_placement_at_the_border_is_drawn_again():
    # 200 px long, lying along x, centred 47 px from the left border
    u = np.array([0.99, 0.5, 0.0, 0.0, 0.5])
    butt = cigarettes_shape.place_butt(np.random.default_rng(0), 512, u)
    assert np.ptp(butt.outline[:, 0]) > 180 and butt.outline.min() >= cigarettes_shape.BORDER


def decode(fields: dict, size: int) -> np.ndarray:
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects(fields["segmentation"], size, size))
    ).astype(bool)


@pytest.mark.parametrize("index", range(6))
def test_mask_is_what_is_painted(index, monkeypatch):
    """On a colour that no butt has and without shadow, the pixels that are mostly butt are the
    mask, to sub-pixel accuracy."""
    monkeypatch.setattr(cigarettes_objects, "cast_shadow", lambda *args: None)
    butt = image_layout(7, "train", index, size=512).butts[0]
    # so bright a green that coverage can be read off
    canvas = np.full((512, 512, 3), (0, 4000, 0), np.float32)
    look = ButtLook("cork", cigarettes_objects.ENDS[index % 4])
    paint_butt(
        canvas, butt, look, sample_light(np.random.default_rng(index)), np.random.default_rng(index)
    )
    cover = 1 - canvas[..., 1] / 4000
    mask = decode(cigarettes_shape.annotate(butt, 512), 512)
    assert (mask & (cover > 0.5)).sum() > 0.97 * (mask | (cover > 0.5)).sum()
    assert (cover[mask] > 0.1).all() and (cover[~mask] < 0.9).all()
    assert abs(cover.sum() / mask.sum() - 1) < 0.02


def test_shadow_falls_away_from_the_light_and_is_not_in_the_mask():
    # from the right, so the shadow is on the left
    light = Light(np.array([0.6, 0.0, 0.8], np.float32), 1.0)
    butt = image_layout(0, "train", 0, size=512).butts[0]
    canvas = np.ones((512, 512, 3), np.float32)
    paint_butt(canvas, butt, ButtLook("tan", "burnt"), light, np.random.default_rng(0))
    mask = decode(cigarettes_shape.annotate(butt, 512), 512)
    dark = (canvas.mean(2) < 0.75) & ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(
        bool
    )
    assert dark.sum() > 0.05 * mask.sum()
    assert np.nonzero(dark)[1].mean() < np.nonzero(mask)[1].mean()


@pytest.mark.parametrize("ground", sorted(GROUNDS))
@pytest.mark.parametrize("size", [96, 257])
def test_grounds_are_textured_at_any_size(ground, size):
    rng = np.random.default_rng(0)
    image = GROUNDS[ground](rng, size, size / 512, sample_light(rng))
    assert image.shape == (size, size, 3) and np.isfinite(image).all()
    assert 0.02 < image.mean(2).std() < 0.5


def test_images_vary():
    scenes = [render(0, "train", i, size=96) for i in range(48)]
    assert len({s.ground for s in scenes}) >= 4
    assert len({s.looks[0].filter for s in scenes}) >= 3
    assert len({s.looks[0].end for s in scenes}) >= 3
    brightness = [s.image.mean() for s in scenes]
    assert np.ptp(brightness) > 40 and len({s.jpeg_quality for s in scenes}) > 10


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return generate(
        tmp_path_factory.mktemp("cig") / "set",
        train=6,
        val=3,
        size=160,
        seed=4,
        max_instances=3,
        workers=1,
        progress=False,
    )


def test_layout_and_json(small_set):
    assert sorted(p.name for p in small_set.iterdir()) == ["train", "val"]
    for split, count in (("train", 6), ("val", 3)):
        content = json.loads((small_set / split / "coco_annotations.json").read_text())
        assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
        assert content["categories"] == [{"id": 1, "name": "cig_butt", "supercategory": "litter"}]
        assert [i["id"] for i in content["images"]] == list(range(count))
        assert [a["id"] for a in content["annotations"]] == list(range(len(content["annotations"])))
        assert {a["image_id"] for a in content["annotations"]} == set(range(count))
        names = [i["file_name"] for i in content["images"]]
        assert sorted(p.name for p in (small_set / split / "images").iterdir()) == names
        for record in content["images"]:
            image = cv2.imread(str(small_set / split / "images" / record["file_name"]))
            assert image.shape == (record["height"], record["width"], 3) == (160, 160, 3)


def test_pycocotools_reads_it_and_masks_boxes_and_areas_agree(small_set):
    coco = COCO(str(small_set / "train" / "coco_annotations.json"))
    counts = []
    for image_id in coco.getImgIds():
        total = np.zeros((160, 160), int)
        anns = coco.loadAnns(coco.getAnnIds(image_id))
        counts.append(len(anns))
        for ann in anns:
            mask = coco.annToMask(ann).astype(bool)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert ann["area"] == mask.sum() > 0 and ann["iscrowd"] == 0 and ann["category_id"] == 1
            assert ann["bbox"] == [
                columns[0],
                rows[0],
                columns[-1] - columns[0] + 1,
                rows[-1] - rows[0] + 1,
            ]
            assert len(ann["segmentation"]) == 1
            total += mask
        assert total.max() == 1  # several butts of an image never overlap
    assert max(counts) > 1


def test_same_seed_same_bytes_for_any_number_of_workers(small_set, tmp_path):
    again = generate(
        tmp_path / "two",
        train=6,
        val=3,
        size=160,
        seed=4,
        max_instances=3,
        workers=2,
        progress=False,
    )
    assert tree(again) == tree(small_set)


def test_an_image_does_not_depend_on_how_many_are_made_but_on_seed_and_split(small_set, tmp_path):
    def image(root, split="train"):
        return (root / split / "images" / "00000000.jpg").read_bytes()

    options = dict(val=0, size=160, max_instances=3, workers=1, progress=False)
    fewer = generate(tmp_path / "fewer", train=1, seed=4, **options)
    other = generate(tmp_path / "other", train=1, seed=5, **options)
    assert not (fewer / "val").exists()
    assert image(fewer) == image(small_set) != image(other)
    assert image(small_set) != image(small_set, "val")


def test_a_folder_with_other_content_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="already holds thesis.tex.*choose another"):
        generate(tmp_path, train=1, val=0, size=96, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("existed", [True, False])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, existed):
    out, write = tmp_path / "set", Path.write_bytes
    if existed:
        out.mkdir()

    def write_bytes(path, data):
        if path.name == "00000002.jpg":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match="disk is full: about .* MB") as caught:
        generate(out, train=4, val=0, size=96, workers=1, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert out.exists() == existed and not list(out.glob("*"))


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose a folder you may write to.*file/set"):
        generate(tmp_path / "file" / "set", train=1, val=0, size=96, workers=1, progress=False)
    with pytest.raises(ValueError, match="is a file"):
        generate(tmp_path / "file", train=1, val=0, size=96, workers=1, progress=False)


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / generated.PARTIAL / "train").mkdir(parents=True)
    (tmp_path / generated.PARTIAL / "train" / "old").write_text("")
    generate(tmp_path, train=1, val=0, size=96, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    assert not (tmp_path / "train" / "old").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": -1}, "counts of 0 or more"),
        ({"train": 0, "val": 0}, "at least one"),
        ({"size": 40}, "at least 96"),
        ({"seed": -1}, "seed of 0"),
        ({"max_instances": 0}, "use 1 or more"),
        ({"workers": -2}, "workers=-2"),
        ({"max_instances": 400}, "lower max_instances"),
    ],
)
def test_senseless_arguments_are_refused_and_nothing_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate(
            tmp_path / "set",
            **{"train": 2, "val": 0, "size": 96, "workers": 1, "progress": False, **options},
        )
    assert not (tmp_path / "set").exists()


def test_a_dead_process_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    class Pool:
        def __init__(self, *args, **options):
            pass

        def map(self, *args, **options):
            raise BrokenProcessPool

        def shutdown(self, **options):
            pass

    monkeypatch.setattr(generated, "ProcessPoolExecutor", Pool)
    with pytest.raises(ValueError, match="died.*lack of memory.*nothing was kept"):
        generate(tmp_path / "set", train=4, val=0, size=96, workers=2, progress=False)
    assert not (tmp_path / "set").exists()


def test_command_line_and_contact_sheet(tmp_path):
    out, sheet = tmp_path / "set", tmp_path / "pictures" / "sheet.jpg"
    command = [sys.executable, str(ROOT / "scripts" / "make_cigarettes.py"), str(out)]
    options = [
        "--train",
        "5",
        "--val",
        "1",
        "--size",
        "96",
        "--workers",
        "1",
        "--contact_sheet",
        "5",
        str(sheet),
    ]
    done = subprocess.run(command + options, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(sheet)).shape == (2 * 144, 3 * 144, 3)
    again = subprocess.run(command + options, capture_output=True, text=True, cwd=tmp_path)
    assert (
        again.returncode == 2
        and again.stderr.count("\n") == 1
        and "already holds train, val" in again.stderr
    )
    with pytest.raises(ValueError, match=".jpg or .png"):
        contact_sheet(out, tmp_path / "sheet.txt", count=1)


def test_a_nearer_camera_sees_larger_butts_that_stay_inside():
    def longest(zoom):
        layouts = [image_layout(0, "train", i, size=128, zoom=zoom) for i in range(40)]
        outlines = [butt.outline for layout in layouts for butt in layout.butts]
        assert all(o.min() > 0 and o.max() < 128 for o in outlines)
        return np.median([np.ptp(o, axis=0).max() for o in outlines])

    assert longest(2) == pytest.approx(2 * longest(1), rel=0.1)
    assert longest(4) <= 0.75 * 128
    with pytest.raises(ValueError, match="zoom=5"):
        generate("unused", train=1, val=0, zoom=5)


def test_without_clutter_butts_lie_alone(monkeypatch):
    """The same butts on the same ground; what lies about is drawn by nobody."""
    drawn = []
    for kind in DISTRACTORS:
        monkeypatch.setitem(DISTRACTORS, kind, lambda *_, kind=kind: drawn.append(kind))
    usual = [render(0, "train", i, size=96) for i in range(4)]
    assert len(drawn) > 8
    drawn.clear()
    alone = [render(0, "train", i, size=96, clutter=0) for i in range(4)]
    assert drawn == []
    for one, two in zip(usual, alone):
        assert one.annotations == two.annotations and one.ground == two.ground
    for clutter in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="clutter="):
            generate("unused", train=1, val=0, clutter=clutter)
