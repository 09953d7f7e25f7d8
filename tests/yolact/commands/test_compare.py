"""scripts/compare.py: runs, arms, studies and results files from the command line."""

import json
import shutil
from pathlib import Path

import pytest

from tests.yolact.study.made_runs import FEW, few_run
from yolact.commands import compare
from yolact.study.statistics import resample

EVAL100 = Path(__file__).parents[2] / "reference" / "coco_eval100"
GT = EVAL100 / "instances_val2014_100.json"
RESULTS = EVAL100 / "instances_val2014_fakesegm100_results.json"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """As many as a test needs."""
    real = resample.image_weights
    monkeypatch.setattr(resample, "image_weights", lambda ids, count: real(ids, min(count, 100)))


def run(*words):
    return compare.program([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        few_run(root / "few" / "bce" / f"seed{seed}-0000000{seed}", seed)
        few_run(root / "few" / "dice" / f"seed{seed}-0000000{seed}", seed, skill=1.0, loss="dice")
    (root / "few" / "study.yaml").write_text(FEW)
    return root


def test_results_files(tmp_path, capsys):
    fewer = tmp_path / "fewer.json"
    fewer.write_text(
        json.dumps([d for i, d in enumerate(json.loads(RESULTS.read_text())) if i % 7])
    )
    assert run(RESULTS, fewer, "--gt", GT) == 0
    out = capsys.readouterr().out
    assert "mask_ap in AP points on 100 images" in out and "no verdict below 3 seeds" in out
    line = next(line for line in out.splitlines() if line.startswith("fewer.json"))
    assert "-3.93" in line and line.endswith("no verdict") and "oLRP" in out and "31.95" in out
    assert "of the classes drop out of a resample" in out


def test_arms_and_studies_reach_a_verdict(folder, capsys):
    assert run(folder / "few" / "bce", folder / "few" / "dice") == 0
    out = capsys.readouterr().out
    assert "dice is better than bce by" in out and "mask_ap75" in out and "mean mask IoU" in out
    assert (
        run(folder / "few" / "dice", folder / "few" / "bce", "--metric=mask_ap50", "--margin", "3")
        == 0
    )
    assert "bce is worse than dice by" in capsys.readouterr().out
    assert run(folder / "few") == 0
    captured = capsys.readouterr()
    assert (
        "mse has no finished run to compare" in captured.out
        and "mse, seed 0: not begun" in captured.err
    )


def test_a_study_of_different_code_or_length_is_refused(folder, tmp_path, capsys):
    study = Path(shutil.copytree(folder / "few", tmp_path / "few"))
    place = study / "dice" / "seed1-00000001"
    few_run(place, 1, skill=1.0, loss="dice", code="other")
    assert run(study) == 2
    error = capsys.readouterr().err
    assert (
        "Different code: code is c0de in 5 runs" in error
        and "--mixed" in error
        and error.count("\n") == 1
    )
    assert run(study, "--mixed") == 0
    captured = capsys.readouterr()
    assert (
        "different code" in captured.err and "exploratory: runs of different code" in captured.out
    )
    few_run(place, 1, skill=1.0, loss="dice", iterations=100, step=100)
    assert (
        run(study) == 2
        and "Different length: iterations is 50 in 5 runs" in capsys.readouterr().err
    )


def test_a_baseline_without_runs_is_named_and_so_is_a_single_arm(folder, tmp_path, capsys):
    study = Path(shutil.copytree(folder / "few", tmp_path / "few"))
    shutil.rmtree(study / "bce")
    assert run(study) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: bce, the baseline, has no finished run (seed 0, 1, 2: not begun)")
        and error.count("\n") == 1
    )
    (study / "study.yaml").write_text(
        FEW.replace("[bce, dice, mse]", "[dice]").replace("baseline: bce", "baseline: dice")
    )
    assert run(study) == 2
    error = capsys.readouterr().err
    assert "the study has one arm, dice" in error and error.count("\n") == 1


def test_two_runs(folder, capsys):
    assert run(folder / "few/bce/seed0-00000000", folder / "few/dice/seed1-00000001") == 0
    captured = capsys.readouterr()
    assert (
        "different seeds: seed0-00000000 0, seed1-00000001 1" in captured.err
        and "no verdict" in captured.out
    )
    records = [folder / f"few/{arm}/seed2-00000002/results/records.npz" for arm in ("bce", "dice")]
    assert (
        run(*records) == 0 and "bce/seed2-00000002/results/records.npz" in capsys.readouterr().out
    )


def test_boundary_ap_needs_its_package(folder, capsys, monkeypatch):
    monkeypatch.setattr("yolact.study.statistics.boundary.available", lambda: False)
    assert run(RESULTS, folder / "few/bce/seed0-00000000", "--gt", GT) == 2
    capsys.readouterr()
    assert run(folder / "few" / "bce", folder / "few" / "dice", "--boundary") == 0
    assert "faster-coco-eval is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name two or more"),
        (["{few}/bce"], "name two or more"),
        (["{few}/bce", "{few}/bce"], "named twice"),
        (["{few}/bce", "{few}/nothing"], "nothing does not exist"),
        (["{few}", "{few}/bce"], "whole study"),
        (["{few}", "--margin=1"], "fixes its metric and margin"),
        (["{few}/bce", "{few}/dice", "--margin=0"], "margin=0"),
        (["{few}/bce", "{few}/dice", "--metric=mask_a"], "mask_a"),
        ([str(RESULTS), "{few}/dice"], "--gt"),
        (["{few}/bce", "{few}/dice", "train.lr=1"], "no config to change"),
        (["{few}/bce", "{few}/dice/seed0-00000000/config.yaml"], "no records file"),
        ([str(RESULTS), "{few}/bce/seed0-00000000", f"--gt={GT}"], "different images"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, words, message):
    assert run(*(word.replace("{few}", str(folder / "few")) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_results_of_other_ground_truth(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps([{**d, "image_id": d["image_id"] + 1} for d in json.loads(RESULTS.read_text())])
    )
    assert run(RESULTS, other, "--gt", GT) == 2
    assert "other.json: detection 0 has image_id" in capsys.readouterr().err
    other.write_text("{}")
    assert run(RESULTS, other, "--gt", GT) == 2 and "not a list" in capsys.readouterr().err
    other.write_text('[{"image_id": 1')
    assert run(RESULTS, other, "--gt", GT) == 2 and "cut off" in capsys.readouterr().err
    other.write_text('[{"image_id": 42, "category_id": 1, "score": 1.0}]')
    assert (
        run(RESULTS, other, "--gt", GT) == 2
        and "neither a bbox each nor a segmentation" in capsys.readouterr().err
    )
