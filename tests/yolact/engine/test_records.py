"""Records of an evaluation: what they hold, their file, who writes them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from tests.yolact.engine.oracle import Oracle, config, write_set
from yolact import cli
from yolact.commands import eval as eval_program
from yolact.engine.evaluate import evaluate
from yolact.engine.records import read_records, records_of_results, write_records
from yolact.engine.train import train
from yolact.testing import tiny

EVAL100 = Path(__file__).parents[2] / "reference" / "coco_eval100"
FILE = "records.npz"
TRUTH = EVAL100 / "instances_val2014_100.json"
SQUARES = [[(16, 32, 80, 0), (120, 100, 100, 1)], [(8, 8, 64, 1)], [], [(100, 100, 120, 0)]]


def results(kind="segm"):
    return json.loads((EVAL100 / f"instances_val2014_fake{kind}100_results.json").read_text())


def equal(a, b):
    for part in ("truth", *a.found):
        left, right = ((r.truth if part == "truth" else r.found[part]) for r in (a, b))
        for name, value in vars(left).items():
            assert (
                value.dtype == getattr(right, name).dtype and (value == getattr(right, name)).all()
            ), (part, name)
    for name in ("image_ids", "category_ids", "class_names", "max_dets", "note"):
        assert getattr(a, name) == getattr(b, name)
    return a.truth_digest == b.truth_digest


def test_what_they_hold_by_hand():
    """Two instances of 40 x 40; one found well, one found at IoU .5 (half the box), one detection
    beside both."""
    gt = {
        "images": [
            {"id": "a", "height": 100, "width": 200},
            {"id": 7, "height": 100, "width": 200},
        ],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": "a", "category_id": 3, "bbox": [0, 0, 40, 40], "iscrowd": 0},
            {"id": 2, "image_id": "a", "category_id": 3, "bbox": [100, 0, 40, 40], "iscrowd": 0},
        ],
    }
    found = [
        {"image_id": "a", "category_id": 3, "score": 0.7, "bbox": [100, 0, 20, 40]},
        {"image_id": "a", "category_id": 3, "score": 0.9, "bbox": [0, 0, 40, 40]},
        {"image_id": "a", "category_id": 3, "score": 0.8, "bbox": [0, 30, 10, 10]},
    ]
    records = records_of_results(gt, found)
    box = records.found["box"]
    assert (
        list(records.found) == ["box"]
        and records.image_ids == (7, "a")
        and box.image.tolist() == [1, 1, 1]
    )
    assert box.score.tolist() == [0.9, 0.8, 0.7] and box.area.tolist() == [1600, 100, 800]
    assert box.right[0].sum(0).tolist() == [10, 0, 1] and not box.ignored[0].any()
    assert box.iou[0].tolist() == pytest.approx(
        [1, 0, 0.5]
    ) and box.best_iou.tolist() == pytest.approx([1, 1 / 16, 0.5])
    assert box.matched.T.tolist() == [[0] * 10, [-1] * 10, [1] + [-1] * 9]
    assert box.any_match.tolist() == [0, 0, 1] and box.any_iou.tolist() == box.best_iou.tolist()
    assert box.own_match.tolist() == [0, 0, 1] and box.other_match.tolist() == [-1] * 3
    assert box.box.tolist() == [[0, 0, 40, 40], [0, 30, 10, 10], [100, 0, 20, 40]]
    # 40^2 is medium, 800 and 100 pixels are small
    assert box.ignored[1].tolist() == [[True, False, True]] + [[True, False, False]] * 9
    assert records.truth.ignored.tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]


def test_the_best_overlap_is_with_no_crowd():
    """One instance, a crowd beside it. Of the detections one is right, one lies in the crowd, and
    one has 400 of 4800 pixels in common with the instance and 800 of its own 3600 with the
    crowd."""
    gt = {
        "images": [{"id": 1, "height": 100, "width": 200}],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [100, 0, 80, 40], "iscrowd": 1},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 40], "iscrowd": 0},
        ],
    }
    rows = ((0.9, [0, 0, 40, 40]), (0.8, [110, 0, 20, 20]), (0.7, [30, 0, 90, 40]))
    found = [{"image_id": 1, "category_id": 3, "score": score, "bbox": box} for score, box in rows]
    box = records_of_results(gt, found).found["box"]
    assert box.best_iou.tolist() == pytest.approx([1, 0, 1 / 12])
    assert box.ignored[0, 0].tolist() == [False, True, False]
    assert box.right[0, 0].tolist() == [True, False, False]
    # the crowd stands first in Truth, and the second detection is matched to it alone
    assert box.matched[0].tolist() == [1, 0, -1]
    assert box.any_match.tolist() == [1, -1, 1] and box.any_iou.tolist() == box.best_iou.tolist()


def test_the_best_overlap_of_any_class():
    """A detection of class 4 lies on an instance of class 3, as masks and as boxes."""
    gt = {
        "images": [{"id": 1, "height": 60, "width": 60}],
        "categories": [{"id": 3, "name": "x"}, {"id": 4, "name": "y"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [0, 0, 40, 40],
                "segmentation": [[0, 0, 40, 0, 40, 40, 0, 40]],
                "iscrowd": 0,
            }
        ],
    }
    counts = rle.encode(np.asfortranarray(np.pad(np.ones((40, 20), np.uint8), ((0, 20), (0, 40)))))
    found = [
        {
            "image_id": 1,
            "category_id": 4,
            "score": 0.5,
            "bbox": [0, 0, 20, 40],
            "segmentation": {"size": [60, 60], "counts": counts["counts"].decode()},
        }
    ]
    for shape in records_of_results(gt, found).found.values():
        assert shape.any_iou.tolist() == [0.5] and shape.any_match.tolist() == [0]
        assert shape.other_iou.tolist() == [0.5] and shape.other_match.tolist() == [0]
        assert shape.own_match.tolist() == [-1]
        assert shape.best_iou.tolist() == [0] and shape.matched[:, 0].tolist() == [-1] * 10
        assert shape.box.tolist() == [[0, 0, 20, 40]]


def test_older_files_are_read_without_what_they_lack(tmp_path):
    """As kept studies have them."""
    write_records(tmp_path / FILE, records_of_results(TRUTH, results()))
    with np.load(tmp_path / FILE) as file:
        new = ("matched", "any_iou", "any_match", "box", "own_match", "other_iou", "other_match")
        old = {name: file[name] for name in file if not name.endswith(new)}
    np.savez(tmp_path / "old.npz", **old)
    found = read_records(tmp_path / "old.npz").found["mask"]
    assert [getattr(found, name) for name in new] == [None] * 7 and len(found.score) == 734
    write_records(tmp_path / "again.npz", read_records(tmp_path / "old.npz"))
    assert read_records(tmp_path / "again.npz").found["mask"].matched is None


@pytest.mark.parametrize("kind, shape", [("segm", "mask"), ("bbox", "box")])
def test_a_file_holds_all_and_is_small(tmp_path, kind, shape):
    records = records_of_results(TRUTH, results(kind), note={"step": 5})
    assert (
        list(records.found) == [shape]
        and len(records.truth.image) == 839
        and records.truth.ignored[0].sum() == 9
    )
    write_records(tmp_path / FILE, records)
    assert (
        equal(records, read_records(tmp_path / FILE)) and (tmp_path / FILE).stat().st_size < 44_000
    )
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    fewer = json.loads(TRUTH.read_text())
    fewer["annotations"].pop()
    assert records_of_results(fewer, results(kind)).truth_digest != records.truth_digest


def test_nothing_found_and_nothing_to_find(tmp_path):
    gt = json.loads(TRUTH.read_text())
    for truth, found in (
        (gt, []),
        ({**gt, "annotations": []}, results()),
        ({**gt, "annotations": []}, []),
    ):
        records = records_of_results(truth, found)
        write_records(tmp_path / FILE, records)
        assert equal(records, read_records(tmp_path / FILE))
        assert (
            records.found["mask"].right.shape == (4, 10, len(found))
            and not records.found["mask"].right.any()
        )


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / FILE
    with pytest.raises(ValueError, match="records.npz does not exist"):
        read_records(path)
    write_records(path, records_of_results(TRUTH, results()))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"{}"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="records.npz is no records file of this version, or cut off"
        ):
            read_records(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="no records file"):
        read_records(path)


def test_a_full_disk_is_named_and_the_old_file_kept(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / FILE).write_text("old")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*records.npz \(No space left"):
        write_records(tmp_path / FILE, records_of_results(TRUTH, results()))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(FILE, "old")]


def test_an_evaluation_writes_what_its_results_say(tmp_path):
    path = write_set(tmp_path, SQUARES, image_ids=["d", 4, "a", 2], category_ids=["x", 9])
    evaluate(
        Oracle(),
        config(tmp_path),
        device="cpu",
        progress=False,
        results_dir=tmp_path,
        records_file=tmp_path / "new" / FILE,
        note={"step": 3},
    )
    records = read_records(tmp_path / "new" / FILE)
    assert (
        records.image_ids == (2, 4, "a", "d")
        and records.note["step"] == 3
        and records.note["eval"]["nms"] == "fast"
    )
    for shape, name in (("mask", "mask"), ("box", "bbox")):
        again = records_of_results(
            path, json.loads((tmp_path / f"{name}_detections.json").read_text())
        )
        assert (
            again.found[shape].right == records.found[shape].right
        ).all() and again.truth_digest == records.truth_digest


def test_a_run_keeps_the_records_of_its_last_weights(tmp_path, capsys):
    data = tiny.write_dataset(tmp_path / "data")
    run = train(
        tiny.config(data, iterations=4, validate_every=2, ema_decay=0.5),
        device="cpu",
        runs_root=tmp_path / "runs",
    )
    place = run / "results" / FILE
    trained = read_records(place)
    assert (
        trained.note["step"] == 4
        and trained.note["weights"] == "last.pth"
        and set(trained.found) == {"mask", "box"}
    )
    place.unlink()

    def evaluated(*words):
        assert (
            cli.run(
                eval_program.main, eval_program.parser().parse(["--device=cpu", "--no_bar", *words])
            )
            == 0
        )
        return sorted(path.name for path in (run / "results").glob("*.npz"))

    last = f"--trained_model={run}/weights/last.pth"
    assert evaluated(last, "eval.nms=traditional") == evaluated(last, "--max_images=1") == []
    assert evaluated(last) == [FILE] and "per-image records in" in capsys.readouterr().out
    assert read_records(place).note == trained.note and equal(read_records(place), trained)
    assert evaluated(f"--trained_model={run}") == [FILE, "records_best.npz"]
    assert (
        equal(read_records(place), trained)
        and read_records(run / "results" / "records_best.npz").note["weights"] == "best.pth"
    )
