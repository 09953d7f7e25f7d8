"""compare(): which of two runs, arms or results files is better."""

import json
from pathlib import Path

import pytest

from tests.yolact.study.made_runs import few_run
from yolact.study.compare import compare
from yolact.study.statistics import resample
from yolact.study.statistics.finished import load_arm

EVAL100 = Path(__file__).parents[2] / "reference" / "coco_eval100"
GT = EVAL100 / "instances_val2014_100.json"
RESULTS = EVAL100 / "instances_val2014_fakesegm100_results.json"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    real = resample.image_weights
    monkeypatch.setattr(resample, "image_weights", lambda ids, count: real(ids, min(count, 100)))


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    root = tmp_path_factory.mktemp("arms")
    for seed in range(3):
        few_run(root / "bce" / f"seed{seed}-0000000{seed}", seed)
        few_run(root / "dice" / f"seed{seed}-0000000{seed}", seed, skill=1.0, loss="dice")
    return root


def test_two_arms(arms):
    found = compare(arms / "bce", arms / "dice", margin=3)
    a, b = load_arm(arms / "bce"), load_arm(arms / "dice")
    gaps = [b[s].resampled.point["mask_ap"] - a[s].resampled.point["mask_ap"] for s in range(3)]
    assert found.by_seed == pytest.approx(gaps) and found.interval.difference > 5
    assert (found.baseline, found.arm, found.verdict) == ("bce", "dice", "better")
    assert found.sentence.startswith("dice is better than bce by") and not found.notes
    back = compare(str(arms / "dice"), str(arms / "bce"), metric="mask_ap50", margin=3)
    assert back.verdict == "worse" and back.metric == "mask_ap50" and back.margin == 3


def test_two_runs_of_different_seeds_are_told(arms):
    found = compare(arms / "bce/seed0-00000000", arms / "dice/seed1-00000001")
    assert found.verdict == "no verdict" and found.interval.low < found.interval.high
    assert "the runs are of different seeds" in found.sentence


def test_results_files_need_their_ground_truth(tmp_path):
    fewer = tmp_path / "fewer.json"
    results = json.loads(RESULTS.read_text())
    fewer.write_text(json.dumps([d for i, d in enumerate(results) if i % 7]))
    assert compare(RESULTS, fewer, GT).interval.difference == pytest.approx(-3.93, abs=0.005)
    with pytest.raises(ValueError, match="ground truth"):
        compare(RESULTS, fewer)
