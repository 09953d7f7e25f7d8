"""AP of weighted images equals pycocotools on a set that holds the copies, and the weights are
those of the set."""

import json
from pathlib import Path

import numpy as np
import pytest

from yolact.engine.metrics import coco_metrics
from yolact.engine.records import SHAPES, records_of_results, write_records
from yolact.study.statistics.ap import MOST_COPIES, metric_names, weighted_ap
from yolact.study.statistics.resample import cached_resample, image_weights, resample
from yolact.testing.synthetic import synthetic_records

EVAL100 = Path(__file__).parents[3] / "reference" / "coco_eval100"
GT = json.loads((EVAL100 / "instances_val2014_100.json").read_text())


def distinct(shape):
    """The fake detections, with scores that all differ."""
    found = json.loads(
        (EVAL100 / f"instances_val2014_fake{SHAPES[shape]}100_results.json").read_text()
    )
    scores = (1 + np.random.default_rng(5).permutation(len(found))) / (1 + len(found))
    return [{**d, "score": float(score)} for d, score in zip(found, scores)]


def copied(detections, weights):
    """Ground truth and detections in which image i is there weights[id] times."""
    images, annotations, results = [], [], []
    for image in sorted(GT["images"], key=lambda image: image["id"]):
        for _ in range(weights[image["id"]]):
            new = len(images) + 1
            images.append({**image, "id": new})
            annotations += [
                {**a, "image_id": new} for a in GT["annotations"] if a["image_id"] == image["id"]
            ]
            results += [{**d, "image_id": new} for d in detections if d["image_id"] == image["id"]]
    return {
        **GT,
        "images": images,
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
    }, results


def pycocotools(gt, detections, shape):
    m = coco_metrics(gt, detections, SHAPES[shape])
    return [m.ap, *m.per_threshold.values(), m.ap_small, m.ap_medium, m.ap_large]


@pytest.mark.parametrize("shape", ["mask", "box"])
def test_weights_are_copies(shape):
    detections = distinct(shape)
    records = records_of_results(GT, detections)
    drawn = image_weights(records.image_ids, 2)
    found = weighted_ap(
        records, shape, np.vstack([np.ones((1, 100), int), drawn, 3 * drawn[:1]])
    ).values
    for weights, values in zip((None, *drawn), found):
        expected = pycocotools(
            *(
                (GT, detections)
                if weights is None
                else copied(detections, dict(zip(records.image_ids, weights.tolist())))
            ),
            shape,
        )
        assert values == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert found[3] == pytest.approx(found[1], abs=1e-9)  # every image three times


@pytest.mark.parametrize("shape", ["mask", "box"])
def test_ties_as_they_stand_are_pycocotools_too(shape):
    detections = json.loads(
        (EVAL100 / f"instances_val2014_fake{SHAPES[shape]}100_results.json").read_text()
    )
    found = resample(
        records_of_results(GT, [{**d, "score": round(d["score"], 1)} for d in detections]), 3
    )
    expected = pycocotools(GT, [{**d, "score": round(d["score"], 1)} for d in detections], shape)
    assert list(found.point) == metric_names(shape) and list(found.point.values()) == pytest.approx(
        100 * np.array(expected), abs=1e-7
    )


@pytest.mark.parametrize("shape", ["mask", "box"])
@pytest.mark.parametrize("digits", [0, 1])
def test_ties_rank_as_pycocotools_ranks_those_of_copies(shape, digits):
    """Scores of one or two values: nearly all are ties, within images and between them."""
    detections = json.loads(
        (EVAL100 / f"instances_val2014_fake{SHAPES[shape]}100_results.json").read_text()
    )
    detections = [{**d, "score": round(d["score"], digits)} for d in detections]
    records = records_of_results(GT, detections)
    drawn = image_weights(records.image_ids, 3)
    apart = []
    for weights, values in zip(drawn, weighted_ap(records, shape, drawn).values):
        there = dict(zip(records.image_ids, weights.tolist()))
        expected = pycocotools(*copied(detections, there), shape)
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)
        together = weighted_ap(records, shape, weights[None] * (MOST_COPIES + 1)).values[0]
        apart.append(np.nanmax(abs(together - values)))
    assert max(apart) > 1e-6, "the order of ties tells"


def test_recall_that_meets_a_sampling_point_exactly():
    """pycocotools compares recall k / n with 0.01 * i as rounded numbers; a hundred instances meet
    every one of them."""
    side, gap = 8, 10
    image = {"id": 1, "height": 200, "width": 200}
    boxes = [[gap * (i % 10), gap * (i // 10), side, side] for i in range(100)]
    gt = {
        "images": [image],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    detections = [
        {"image_id": 1, "category_id": 1, "score": 1 - i / 300, "bbox": box}
        for i, box in enumerate(boxes[:93])
    ]
    detections += [
        {"image_id": 1, "category_id": 1, "score": 1 - (i + 0.5) / 300, "bbox": [150, 150, 9, 9]}
        for i in range(0, 90, 3)
    ]
    records = records_of_results(gt, detections[:100])
    expected = coco_metrics(gt, detections[:100], "bbox").ap
    found = weighted_ap(records, "box", [[1], [7], [0]]).values[:, 0]
    assert found[:2] == pytest.approx([expected, expected], abs=1e-12) and np.isnan(found[2])


def test_classes_without_ground_truth_in_a_resample_drop_out():
    records = records_of_results(GT, distinct("mask"))
    weights = np.zeros((1, 100), int)
    chosen = records.truth.image[0]
    weights[0, chosen] = 2
    found = weighted_ap(records, "mask", weights)
    inside = records.truth.image == chosen
    classes = len(set(records.truth.label[inside & ~records.truth.ignored[0]]))
    there = len(set(records.truth.label[~records.truth.ignored[0]]))
    assert found.dropped == pytest.approx(1 - classes / there)


def test_weights_of_another_set_are_refused():
    with pytest.raises(ValueError, match=r"shape \(B, 30\)"):
        weighted_ap(synthetic_records(30), "mask", np.ones((2, 31)))


def test_heavy_weights_are_exact():
    """Counts beyond 2^24 still add up: all images a million times is all images once."""
    records = synthetic_records(40, classes=2)
    found = weighted_ap(records, "mask", np.array([[1] * 40, [10**6] * 40])).values
    assert found[1] == pytest.approx(found[0], abs=1e-12)


def test_one_set_has_one_set_of_weights():
    ids = (3, 1, "b", "a", 20)
    weights = image_weights(ids, 400)
    assert (weights == image_weights(ids, 400)).all() and (weights.sum(1) == 5).all()
    order = [4, 0, 2, 1, 3]
    assert weights.mean(0) == pytest.approx(1, abs=0.2)  # the last image as often as the first
    # a property of the image, not of its place
    assert (image_weights([ids[i] for i in order], 400) == weights[:, order]).all()
    assert (image_weights((3, 1, "b", "a", 21), 400) != weights).any()
    assert np.cov(weights.T)[0, 0] == pytest.approx(0.8, abs=0.15) and np.cov(weights.T)[
        0, 1
    ] == pytest.approx(-0.2, abs=0.1)


def test_resampled_metrics_are_cached_until_the_records_change(tmp_path, monkeypatch):
    path = tmp_path / "records.npz"
    write_records(path, synthetic_records(30))
    _, first = cached_resample(path, 50)
    calls = []
    monkeypatch.setattr(
        "yolact.study.statistics.resample.resample",
        lambda records, count: calls.append(count) or resample(records, count),
    )
    _, again = cached_resample(path, 50)
    assert not calls and again.point == first.point and again.dropped == first.dropped
    assert (
        all((again.draws[name] == first.draws[name]).all() for name in first.draws)
        and len(first.draws["mask_ap"]) == 50
    )
    (tmp_path / "records.resampled.npz").write_bytes(b"half")
    assert cached_resample(path, 50)[1].point == first.point and calls == [50]
    write_records(path, synthetic_records(30, run_seed=1))
    assert cached_resample(path, 50)[1].point != first.point and calls == [50, 50]
    assert cached_resample(path, 60)[1].draws["mask_ap"].shape == (60,)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path, monkeypatch):
    path = tmp_path / "records.npz"
    write_records(path, synthetic_records(20))

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("yolact.study.statistics.resample.write_npz", refuse)
    assert cached_resample(path, 20)[1].draws["mask_ap"].shape == (20,)
