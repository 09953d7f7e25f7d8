"""Rows of others in a study: a results file is evaluated as runs are, printed figures stand with
their source, and what is wrong is one line before anything is trained."""

import json
import shutil

import pytest

from data.resolve import ConfigError
from tests.yolact.study.made_runs import make_study
from tests.yolact.study.report.small_study import (
    STUDY,
    evaluated,
    place,
    read_csv,
    run_report,
    shapes,
)
from yolact.study import load
from yolact.study.folder.layout import records_of_external
from yolact.study.plan import dump_study, read_study
from yolact.study.report.cells import plain
from yolact.study.report.data import collect
from yolact.study.report.tables import tables
from yolact.testing import tiny

PRINTED = {"figures": {"mask_ap": 34.1, "mask_ap50": 53.3}, "source": "Somebody et al., Table 2"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of bce and dice on eight pictures, records and detections of one evaluation."""
    root = tmp_path_factory.mktemp("external")
    tiny.write_dataset(root, train=1, val=8)
    content = {**STUDY, "arms": ["bce", "dice"], "settings": shapes(root), "seeds": 1}
    folder = make_study(root / "runs", content, {"bce": 0, "dice": -1}, images=8, pictures=True)
    truth = json.loads((root / "val.json").read_text())
    for run in folder.glob("*/seed*"):
        evaluated(run, truth)
    results = place(folder, "bce", 0) / "results" / "mask_detections.json"
    shutil.copy(results, root / "theirs.json")
    content["external"] = {"Mask R-CNN": str(root / "theirs.json"), "SOLO": PRINTED}
    (folder / "study.yaml").write_text(dump_study(read_study(content)))
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path / "runs" / made.name)


def row_of(report, label):
    table = next(table for table in tables(report) if table.key == "external")
    cells = next(row.cells for row in table.rows if plain(row.cells[0]) == label)
    return dict(zip(table.header, map(plain, cells)))


def test_a_results_file_has_the_figures_of_the_run_that_wrote_it(study):
    report = collect(study)
    own = next(arm for arm in report.arms if arm.label == "bce").runs[0].resampled.point
    theirs = report.external[0].estimates
    masks = [name for name in own if name.startswith("mask_")]
    assert own["mask_ap"] > 1 and {n: theirs[n].mean for n in masks} == pytest.approx(
        {n: own[n] for n in masks}, nan_ok=True
    )
    row = row_of(report, "Mask R-CNN")
    assert row["mask AP"].startswith(f"{own['mask_ap']:.2f} ±") and row["source"] == "theirs.json"
    assert {arm.label for arm in report.arms} == {"bce", "dice"}  # no arm, so no verdict


def test_printed_figures_stand_with_their_source(study):
    row = row_of(collect(study), "SOLO")
    assert (row["mask AP"], row["mask AP50"], row["mask AP75"]) == ("34.10", "53.30", "–")
    assert row["source"] == "Somebody et al., Table 2, as printed"


def test_every_file_of_the_report_has_the_rows(study):
    assert run_report(study) == 0
    out = study / "report"
    lines = {row["arm"]: row for row in read_csv(out / "results.csv")}
    assert lines["SOLO"]["mask_ap50"] == "53.3" and lines["Mask R-CNN"]["state"] == "external"
    for file in ("tables.md", "tables.tex", "report.html"):
        text = (out / file).read_text()
        assert "Mask R-CNN" in text and "Somebody et al., Table 2" in text


def test_kept_rows_need_no_file(study, made):
    kept = study.parents[1] / "studies" / made.name
    assert run_report(study, "--keep", str(kept)) == 0
    before = row_of(collect(study), "Mask R-CNN")
    file = made.parents[1] / "theirs.json"
    moved = file.rename(file.with_name("away.json"))
    try:
        assert row_of(collect(kept), "Mask R-CNN") == before
        shutil.rmtree(kept / "_external")
        assert "not evaluated" in row_of(collect(kept), "Mask R-CNN")["source"]
    finally:
        moved.rename(file)


def test_a_changed_file_is_evaluated_again(study, made, tmp_path):
    first = row_of(collect(study), "Mask R-CNN")
    found = json.loads((made.parents[1] / "theirs.json").read_text())
    (tmp_path / "fewer.json").write_text(json.dumps(found[: len(found) // 2]))
    text = (study / "study.yaml").read_text().replace("theirs.json", "fewer.json")
    text = text.replace(str(made.parents[1]) + "/fewer", str(tmp_path) + "/fewer")
    (study / "study.yaml").write_text(text)
    assert row_of(collect(study), "Mask R-CNN")["mask AP"] != first["mask AP"]


@pytest.mark.parametrize(
    "row, words",
    [
        ("absent.json", "absent.json"),
        ({"figures": {"mask_ap": 34.1}}, "source"),
        ({"figures": {"mask_ap": 341}, "source": "x"}, "0 to 100"),
        ({"figures": {"AP": 34.1}, "source": "x"}, "mask_ap50"),
        ({"results": "a.json", "figures": {"mask_ap": 1}, "source": "x"}, "one of the two"),
        ({"file": "a.json"}, "file"),
        ("words.json", "not a list"),
        ("boxes.json", "segmentation"),
        ("elsewhere.json", "image_id 99"),
    ],
)
def test_what_is_wrong_is_one_line_at_planning(made, tmp_path, monkeypatch, row, words):
    monkeypatch.chdir(tmp_path)
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1.0}
    (tmp_path / "words.json").write_text('{"results": []}')
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    mask = {"segmentation": {"size": [1, 1], "counts": "0"}}
    (tmp_path / "elsewhere.json").write_text(json.dumps([{**box, **mask, "image_id": 99}]))
    content = {**STUDY, "arms": ["bce", "dice"], "settings": shapes(made.parents[1])}
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps({**content, "external": {"theirs": row}}))
    with pytest.raises(ConfigError, match=words) as found:
        load(file).check()
    assert "\n" not in str(found.value) and "external" in str(found.value)


def test_a_file_whose_records_are_kept_may_be_gone(study, made):
    collect(study)  # makes the records
    file = made.parents[1] / "theirs.json"
    moved = file.rename(file.with_name("away.json"))
    try:
        load(study, runs_root=study.parent).check()
        shutil.rmtree(study / "_external")
        with pytest.raises(ConfigError, match="theirs.json"):
            load(study, runs_root=study.parent).check()
    finally:
        moved.rename(file)


def test_records_that_are_cut_off_are_made_again(study):
    before = row_of(collect(study), "Mask R-CNN")
    records = records_of_external(study, "Mask R-CNN")
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    assert row_of(collect(study), "Mask R-CNN") == before and before["mask AP"] != "–"


def test_a_row_is_no_arm(made, tmp_path):
    content = {**STUDY, "settings": shapes(made.parents[1]), "external": {"bce": PRINTED}}
    (tmp_path / "plan.yaml").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="'bce' is an arm"):
        load(tmp_path / "plan.yaml").check()
