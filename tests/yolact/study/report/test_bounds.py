"""What masks can reach, beside AP against IoU: found where the annotations are, kept where they are
not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.resolve import load_config
from tests.data.sets import annotation
from tests.yolact.study.report.small_study import place, run_report
from yolact.bound import Rule, mask_bound
from yolact.engine.records import read_records
from yolact.study.report.bounds import bounds_of
from yolact.study.report.data import collect
from yolact.study.report.figures import thresholds
from yolact.study.report.svg import png

CAPTION = "Thin dashes: what masks that are learnt exactly reach"


@pytest.fixture
def annotated(study, tmp_path):
    """The study with annotations of the images that its runs were scored on: a square each, whose
    sides lie inside the cells of the map."""
    run = place(study, "bce", 0)
    ids = read_records(run / "results" / "records.npz").image_ids
    ring = [17, 17, 47, 17, 47, 47, 17, 47]
    images = [{"id": i, "file_name": f"{i}.png", "width": 512, "height": 512} for i in ids]
    squares = [
        annotation(n, image=i, segmentation=[ring], bbox=[17, 17, 30, 30], area=900)
        for n, i in enumerate(ids)
    ]
    classes = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]
    content = {"images": images, "annotations": squares, "categories": classes}
    (tmp_path / "val.json").write_text(json.dumps(content))
    old = load_config(run / "config.yaml", check_names=False).data.root
    for config in study.rglob("config.yaml"):
        config.write_text(config.read_text().replace(old, str(tmp_path)))
    return study


def test_the_bound_is_found_drawn_and_kept(annotated, tmp_path, capsys):
    report = collect(annotated)
    ((rule, found),) = report.bounds.items()
    config = report.base.config
    assert rule == Rule.of(config)
    assert found == mask_bound(tmp_path / "val.json", config).to_dict() and found["AP"] < 1
    assert png(thresholds(report)) != png(thresholds(collect_without(annotated)))
    assert "no bound" in capsys.readouterr().err
    kept = Path("studies") / annotated.name
    assert run_report(annotated, "--keep", str(kept)) == 0
    (tmp_path / "val.json").unlink()
    assert run_report(kept, "--out", "again") == 0
    assert "no bound" not in capsys.readouterr().err
    page = (Path("again") / "report.html").read_text()
    assert f"{CAPTION}, every object found ({rule.words}: AP {100 * found['AP']:.1f})" in page


def collect_without(study):
    """The report where neither the annotations nor a kept bound is there."""
    annotations = study.parents[1] / "val.json"
    text = annotations.read_text()
    annotations.unlink()
    (study / "bounds.json").unlink()
    report = collect(study)
    annotations.write_text(text)
    assert report.bounds == {}
    return report


def test_a_bound_of_other_ground_truth_is_not_shown(annotated, tmp_path, capsys):
    assert collect(annotated).bounds
    kept = annotated / "bounds.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "truth": "other"}))
    content = json.loads((tmp_path / "val.json").read_text())
    gone = content["images"].pop()
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert run_report(annotated) == 0
    told = f"lacks 1 images that the runs were scored on, such as {gone['id']!r}"
    assert told in capsys.readouterr().err
    assert CAPTION not in (annotated / "report" / "report.html").read_text()


def test_arms_of_other_masks_have_bounds_of_their_own(annotated):
    report = collect(annotated)
    usual = report.base.config
    coarser = usual.model_copy(
        update={"eval": usual.eval.model_copy(update={"masks": "published"})}
    )
    both = bounds_of(annotated, [usual, coarser], report.runs[0][2])
    assert both.keys() == {Rule.of(usual), Rule.of(coarser)}
    assert both[Rule.of(coarser)]["mean_iou"] != both[Rule.of(usual)]["mean_iou"]
    assert len(json.loads((annotated / "bounds.json").read_text())["bounds"]) == 2
    assert collect(annotated).bounds == {Rule.of(usual): both[Rule.of(usual)]}
    mixed = [replace(arm, config=coarser) if arm is not report.base else arm for arm in report.arms]
    coarser_too = thresholds(replace(report, arms=mixed, bounds=both))
    assert png(coarser_too) != png(thresholds(report))
