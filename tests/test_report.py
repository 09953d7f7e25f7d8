"""Reports of studies, on runs that were written by code: numbers, refusals, what is left out, and files that stand by themselves."""

import base64
import csv
import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.arms import expand, runs_of
from data.resolve import dump_yaml, load_config
from data.study import load_study
from scripts import report, report_archive, sweep_state
from scripts.report_data import collect
from scripts.report_gallery import view
from scripts.report_published import _ROWS, published
from scripts.report_tables import by_role, tables
from scripts.report_text import comparison_csv, escape_latex, latex, markdown, results_csv
from tests.engine import tiny
from tests.made_runs import ENV, make_study, write_detections, write_run
from yolact.engine.records import read_records, write_records
from yolact.study import compare_study, load_runs
from yolact.study.ap import metric_names, weighted_ap
from yolact.study.quality import olrp

ROOT = Path(__file__).parents[1]
HYBRID = "bce(outside='charge') + 0.5*mse(region='image', rescale=False)"
SKILLS = {"bce": 0.0, "dice": -1.0, HYBRID: 0.02}
STUDY = {"name": "small_study", "description": "Which loss? 5 % & <b>", "base": "yolact_plus_tiny_cigarettes", "arms": list(SKILLS),
         "baseline": "bce", "seeds": 3, "budget": 1000, "margin": 1.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study with every run finished, on discs and bars, and its records resampled once."""
    root = tmp_path_factory.mktemp("finished")
    tiny.write_dataset(root, train=1, val=5)
    data = {"data.name": "shapes", "data.root": str(root), "data.train_images": "train", "data.train_annotations": "train.json",
            "data.val_images": "val", "data.val_annotations": "val.json", "data.class_names": list(tiny.CLASSES)}
    folder = make_study(root / "runs", {**STUDY, "settings": data}, SKILLS, images=30)
    for number, run in enumerate(runs_of(load_study(folder), expand(load_study(folder)), root=root / "runs")):
        if run.seed < 2:
            write_detections(root / "runs" / run.folder, run.config, 0, number)
    collect(folder)
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy of the finished study that a test may change, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "runs" / finished.name))


def run_report(folder, *words):
    return report.cli.run(report.main, report.read_arguments([str(folder), *words]))


def read_csv(path):
    return read_csv_text(Path(path).read_text())


def read_csv_text(text):
    return list(csv.DictReader(io.StringIO(text)))


def place(folder, arm, seed):
    slug = next(a.slug for a in expand(load_study(folder)) if a.label == arm)
    return next((folder / slug).glob(f"seed{seed}-*"))


# ----------------------------------------------------------------------------------------------------------------- numbers

def test_every_number_is_that_of_the_records(study):
    assert run_report(study) == 0
    rows = read_csv(study / "report" / "results.csv")
    assert len(rows) == 9 and {row["state"] for row in rows} == {"finished"}
    for row in rows:
        records = read_records(Path(row["folder"]) / "results" / "records.npz")
        values = 100 * weighted_ap(records, "mask", np.ones((1, 30), int)).values[0]
        for name, value in zip(metric_names("mask"), values):
            assert (row[name] == "") == np.isnan(value) and (not row[name] or float(row[name]) == pytest.approx(value, abs=1e-6))
        assert row["code"] == ENV["code"] and row["iterations"] == "1000" and row["images_seen"] == "8000"

    by_arm = {arm: {row["seed"]: float(row["mask_ap"]) for row in rows if row["arm"] == arm} for arm in SKILLS}
    gaps = {arm: np.array([by_arm[arm][s] - by_arm["bce"][s] for s in by_arm["bce"]]) for arm in SKILLS}
    verdicts = {record.arm: record for record in compare_study(load_runs(study))}
    for row in read_csv(study / "report" / "comparison.csv"):
        assert float(row["mask_ap"]) == pytest.approx(np.mean(list(by_arm[row["arm"]].values())), abs=1e-5)
        if row["arm"] != "bce":
            found = verdicts[row["arm"]]
            assert row["verdict"] == found.label and float(row["difference"]) == pytest.approx(gaps[row["arm"]].mean(), abs=1e-5)
            assert [float(row[k]) for k in ("low", "high")] == pytest.approx([found.interval.low, found.interval.high], abs=1e-5)
            assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert verdicts["dice"].verdict == "worse"


def test_tables_hold_the_same_numbers(finished):
    made = {table.key: table for table in tables(collect(finished))}
    assert set(made) == {"verdicts", "single", "hybrid", "thresholds", "others", "beside"}  # one batch size: no Table I
    arm = collect(finished).arms[1]
    row = next(row for row in made["single"].rows if row.cells[0] == "dice")
    found = arm.estimates["mask_ap75"]
    assert row.cells[made["single"].header.index("AP75")] == f"{found.mean:.2f} ± {found.half:.2f}"
    assert row.cells[-1] == arm.comparison.label == "worse" and row.cells[-3] == "3"
    assert [row.cells[0] for row in made["single"].rows] == ["bce", "dice"]
    assert [row.cells[:3] for row in made["hybrid"].rows] == [["bce", "–", "1"], [HYBRID, "0.5", "1"]]
    assert len({len(row.cells) for row in made["thresholds"].rows} | {len(made["thresholds"].header)}) == 1


@pytest.mark.parametrize("loss, base, alpha, beta", [
    ("0.5*mse + bce", "bce", "0.5", "1"), ("bce + 0.5*mse", "bce", "0.5", "1"), (HYBRID, "bce", "0.5", "1"),  # a row of the survey
    ("2*mse + huber", "bce", "2", "1"), ("survey_huber(outside='charge') + 2*mse", "bce", "2", "1"), ("3*huber + bce", "mse", "3", "1"),
    ("dice + 2*bce", "bce", "1", "2"), ("2*bce + dice", "bce", "1", "2"),  # the baseline's loss
    ("0.3*focal + dice", "bce", "0.3", "1"), ("dice + 0.3*focal", "bce", "0.3", "1"),  # the term of weight 1
    ("0.3*focal + 0.7*dice", "bce + mse", "0.3", "0.7"), ("0.7*dice + 0.3*focal", "bce + mse", "0.3", "0.7"),
    ("0.5*mse + dice + bce", "bce", "1, 0.5", "1"), ("bce + dice + 0.5*mse", "bce", "1, 0.5", "1")])
def test_alpha_weights_what_is_added_in_whatever_order(loss, base, alpha, beta):
    def arm(text):
        config = load_config("yolact_plus_tiny_cigarettes", [f"loss.mask={text}"])
        return SimpleNamespace(config=config, published=published(config))
    reference, *added = by_role(arm(loss), arm(base))
    assert (", ".join(f"{term.coefficient:g}" for term in added), f"{reference.coefficient:g}") == (alpha, beta)


def test_other_metrics_have_intervals_and_no_verdict(finished):
    report_ = collect(finished)
    table = next(table for table in tables(report_) if table.key == "others")
    assert table.header == ["arm", "mask AP small", "mask AP medium", "mask AP large", "box AP"] and not table.worded
    rows = {row.cells[0]: row for row in table.rows}
    gap = next(arm for arm in report_.arms if arm.label == "dice").comparison.others["box_ap"]
    assert rows["dice"].cells[-1] == f"{gap.difference:+.2f} ± {gap.high - gap.difference:.2f}" and rows["bce"].kind == "baseline"
    assert not any(row.verdict for row in table.rows)
    note = next(table for table in tables(report_) if table.key == "verdicts").notes[0]
    assert f"{100 * report_.base.runs[0].run.resampled.dropped:.1f} % of the classes drop out" in note


def test_sign_flips_from_six_seeds(study, tmp_path):
    assert "sign-flip p" not in next(table for table in tables(collect(study)) if table.key == "verdicts").header
    content = {**STUDY, "name": "six", "arms": ["bce", "dice"], "seeds": 6}
    found = collect(make_study(tmp_path / "runs", content, SKILLS, images=10))
    table = next(table for table in tables(found) if table.key == "verdicts")
    place_of = table.header.index("sign-flip p")
    assert [row.cells[place_of] for row in table.rows] == ["", f"{found.arms[1].comparison.sign_flip:.4f}"]
    assert len({len(row.cells) for row in table.rows} | {len(table.header)}) == 1
    assert 0.03 <= found.arms[1].comparison.sign_flip <= 1 and read_csv_text(comparison_csv(found))[1]["sign_flip_p"]


def test_what_stands_beside_ap_is_in_both_files(study):
    (place(study, "dice", 0) / "results" / "benchmark.json").write_text(json.dumps({"fps": 20.0, "p95_ms": {"total": 100}}))
    for seed in range(3):  # as report.py --boundary leaves it
        (place(study, "dice", seed) / "results" / "boundary.json").write_text(json.dumps({"boundary_ap": 10.0 + seed}))
    found = collect(study)
    runs = {(row["arm"], row["seed"]): row for row in read_csv_text(results_csv(found))}
    arms = {row["arm"]: row for row in read_csv_text(comparison_csv(found))}
    expected = olrp(found.arms[1].runs[2].run.records(), "mask")
    assert float(runs["dice", "2"]["mask_olrp"]) == pytest.approx(100 * expected.olrp, abs=1e-5) and runs["dice", "2"]["box_olrp"]
    mean = np.mean([float(runs["dice", str(seed)]["mask_calibration_error"]) for seed in range(3)])
    assert float(arms["dice"]["mask_calibration_error"]) == pytest.approx(mean, abs=1e-5)
    assert arms["dice"]["mask_boundary_ap"] == "11.0" and not arms["bce"]["mask_boundary_ap"] and arms["dice"]["classes_dropped"] != ""
    assert (runs["dice", "0"]["fps"], runs["dice", "1"]["fps"], arms["dice"]["fps"]) == ("20.0", "", "20.0")
    beside = next(table for table in tables(found) if table.key == "beside")
    assert [row.cells[beside.header.index("boundary AP")] for row in beside.rows] == ["–", "11.00", "–"]


def test_an_unstable_baseline_is_marked(study):
    metrics = place(study, "bce", 1) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[3]["skipped"], lines[5]["overflows"] = 2, 7
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    overflown = place(study, "dice", 1) / "metrics.jsonl"
    overflown.write_text(overflown.read_text().replace('"skipped": 0', '"skipped": 0, "overflows": 3'))
    found = collect(study)
    for key in ("verdicts", "single", "hybrid", "thresholds"):
        rows = {row.cells[0]: row for row in next(table for table in tables(found) if table.key == key).rows}
        assert rows["bce"].cells[-1] == "baseline, unstable 1/3"
        assert "dice" not in rows or rows["dice"].cells[-1] == "worse"  # overflows of fp16's scale do not count
    assert [row["verdict"] for row in read_csv_text(comparison_csv(found))][0] == "baseline, unstable 1/3"
    assert run_report(study) == 0
    assert "bce, the baseline, is unstable: 1 of 3 runs" in (study / "report" / "report.html").read_text()


def test_runs_of_another_config_are_left_out_and_listed(study, capsys):
    folder = place(study, "dice", 1)
    config = load_config(folder / "config.yaml", check_names=False)
    (folder / "config.yaml").write_text(dump_yaml(config.model_copy(update={"loss": config.loss.model_copy(update={"mask": "mse"})})))
    assert run_report(study) == 0
    why = "its config is another than the study's: loss.mask is mse instead of dice"
    assert f"left out: dice, seed 1: {why}" in capsys.readouterr().err
    assert html.escape(why) in (study / "report" / "report.html").read_text()
    rows = {(row["arm"], row["seed"]): row["state"] for row in read_csv(study / "report" / "results.csv")}
    assert why in rows["dice", "1"] and rows["dice", "0"] == "finished"


def test_interval_of_one_seed_is_that_of_the_images(study):
    for arm in SKILLS:
        for seed in (1, 2):
            shutil.rmtree(place(study, arm, seed))
    found = collect(study)
    base = found.base
    assert base.estimates["mask_ap"].half == pytest.approx(1.96 * base.runs[0].run.resampled.draws["mask_ap"].std(ddof=1), rel=1e-3)
    assert {arm.comparison.verdict for arm in found.arms if arm.comparison} == {"no verdict"}
    assert run_report(study) == 0


@pytest.mark.parametrize("gone", [["dice"], ["bce"], ["bce", "dice"]])
def test_arms_without_a_finished_run(study, gone):
    for arm in gone:
        for seed in range(3):
            shutil.rmtree(place(study, arm, seed))
    assert run_report(study) == 0
    rows = {row["arm"]: row["verdict"] for row in read_csv(study / "report" / "comparison.csv")}
    assert rows["bce"] == "baseline" and rows["dice"] == ("failed" if "dice" in gone else "no verdict")
    page = (study / "report" / "report.html").read_text()
    assert ("dice cannot be compared: bce, the baseline, has no finished run" in page) == (gone == ["bce"])


def test_times_that_eval_left_are_in_the_tables(study):
    for seed, (fps, slow) in enumerate(((20.0, 100.0), (30.0, 50.0))):  # images/s, and ms of the slow images
        (place(study, "dice", seed) / "results" / "benchmark.json").write_text(json.dumps({"fps": fps, "p95_ms": {"total": slow}}))
    rows = next(table for table in tables(collect(study)) if table.key == "single").rows
    assert [row.cells[1] for row in rows] == ["–", "25.0 ± 10.0"]


def test_batch_sizes_at_equal_images(tmp_path):
    content = {**STUDY, "arms": {"grid": {"train.batch_size": [2, 8, 16]}}, "baseline": "batch_size=8", "equal": "images", "seeds": 1}
    labels = [f"batch_size={size}" for size in (2, 8, 16)]
    found = collect(make_study(tmp_path, content, dict.fromkeys(labels, 0.0), images=10))
    table = next(table for table in tables(found) if table.key == "batch")
    assert [row.cells[:5] for row in table.rows if not row.kind == "published"] == [
        ["batch_size=2", "2", "0.001", "4000", "8000"], ["batch_size=8", "8", "0.001", "1000", "8000"],
        ["batch_size=16", "16", "0.001", "500", "8000"]]
    assert [(row.cells[0], row.cells[5]) for row in table.rows if row.kind == "published"] == [
        ("published: BCE", "83.65"), ("published: BCE, batch 16", "84.67")]


# --------------------------------------------------------------------------------------------------------------- published

def test_published_figures_are_those_of_the_survey():
    """docs/survey.md was written from the survey by itself."""
    found = {}
    for line in (ROOT / "docs" / "survey.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and re.fullmatch(r"[\d.]+", cells[1]):
            found[cells[5].removeprefix("`survey/").removesuffix("`")] = cells[1:4]
    assert len(found) == 18 and set(found) == set(_ROWS)
    for name, (ap, ap50, ap90) in found.items():
        row = _ROWS[name]
        assert f"{row.ap:.2f}" == ap and (not ap50 or [f"{row.by_threshold[t]:.2f}" for t in (50, 90)] == [ap50, ap90])
        mean = np.mean(list(row.by_threshold.values())) if len(row.by_threshold) == 10 else row.ap
        assert abs(mean - row.ap) < 0.02, f"{name}: a mean over its thresholds, so one of them is mistyped"


@pytest.mark.parametrize("loss, name", [
    ("bce", "bce"), ("0.5*mse + bce", "0.5mse_bce"), (HYBRID, "0.5mse_bce"), ("huber(delta=0.3)", "huber"),
    ("survey_huber(delta=2)", "huber"),
    ("huber + bce", "huber_bce"), ("bce + 0.7*mse", None), ("bce(weight=ramp(0.1, 1))", None), ("lovasz", None)])
def test_which_published_row_stands_beside_a_loss(loss, name):
    config = load_config("yolact_plus_tiny_cigarettes", [f"loss.mask={loss}"])
    assert getattr(published(config), "name", None) == name
    assert published(load_config("yolact_plus_tiny_nuclei", [f"loss.mask={loss}"])) is None


def test_published_rows_are_marked(tmp_path):
    found = collect(make_study(tmp_path, {**STUDY, "seeds": 1}, SKILLS, images=10))
    table = next(table for table in tables(found) if table.key == "hybrid")
    row = next(row for row in table.rows if row.cells[0] == "published: 0.5MSE + BCE")
    assert row.kind == "published" and row.cells[1:3] == ["0.5", "1"] and row.cells[4] == "84.43"
    assert row.cells[-3:] == ["1", "+0.78", "one run, no interval"]
    assert row.remark == "computed: BCE + 0.5 MSE, the latter uncropped"


# --------------------------------------------------------------------------------------------------------------- mixtures

def change_env(folder, **values):
    path = folder / "env.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_records(folder, note=None, **values):
    path = folder / "results" / "records.npz"
    old = read_records(path)
    write_records(path, replace(old, note={**old.note, **(note or {})}, **values))


def other_data(folder):
    config = load_config(folder / "config.yaml", check_names=False)
    shutil.rmtree(folder)
    write_run(folder, config, 0.0, 0, images=30, set_seed=1)


def other_length(folder):
    config = load_config(folder / "config.yaml", check_names=False)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"iterations": 2000})})
    (folder / "config.yaml").write_text(dump_yaml(longer))
    change_records(folder, note={"step": 2000})


MIXTURES = {
    "data": (other_data, "validation set is 30 images"),
    "code": (lambda folder: change_env(folder, code="fedcba9876543210"), "code is 0123456789abcdef in 8 runs"),
    "code, torch": (lambda folder: change_env(folder, versions={"torch": "2.9.0", "torchvision": "0.23.0"}), "torch is 2.8.0 in 8 runs"),
    "code, resumed": (lambda folder: change_env(folder, resumed=[{**ENV, "code": "f" * 16}]), f"0123456789abcdef, then {'f' * 16} in 1"),
    "evaluation": (lambda folder: change_records(folder, note={"eval": {"nms": "traditional"}}), "eval.nms is fast in 8 runs"),
    "evaluation, detections": (lambda folder: change_records(folder, max_dets=50), "eval.max_dets is 100 in 8 runs"),
    "length": (other_length, "iterations is 1000 in 8 runs")}


@pytest.mark.parametrize("kind", MIXTURES)
def test_refuses_runs_that_are_not_comparable(study, kind, capsys):
    change, words = MIXTURES[kind]
    change(place(study, "dice", 1))
    assert run_report(study) == 2 and not (study / "report").exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"Different {kind.split(',')[0]}: " in message and words in message and "dice seed 1" in message
    assert "--mixed" in message
    found = collect(study, mixed=True)
    assert list(found.mixed) == [kind.split(",")[0]]
    assert all(arm.comparison.exploratory for arm in found.arms if arm.comparison)


def test_a_report_of_a_mixture_says_so(study):
    MIXTURES["code"][0](place(study, "dice", 1))
    assert run_report(study, "--mixed") == 0
    assert "The runs are of different code" in (study / "report" / "report.html").read_text()
    assert all("exploratory" in row["verdict"] for row in read_csv(study / "report" / "comparison.csv")[1:])


def test_the_commit_and_the_place_of_the_data_may_differ(study):
    folder = place(study, "dice", 1)
    change_env(folder, commit="other", device="cuda:0 (another)")
    config = load_config(folder / "config.yaml", check_names=False)
    data = config.data.model_copy(update={"root": "/elsewhere"})
    (folder / "config.yaml").write_text(dump_yaml(config.model_copy(update={"data": data})))
    assert collect(study).mixed == {}


# ----------------------------------------------------------------------------------------------------- what is not finished

def test_half_written_runs_are_reported_and_left_out(study, capsys):
    (place(study, "dice", 0) / "results" / "records.npz").unlink()
    broken = place(study, "dice", 1) / "results" / "records.npz"
    broken.write_bytes(broken.read_bytes()[:500])
    (place(study, "bce", 2) / "metrics.jsonl").open("a").write('{"kind": "train", "st')
    shutil.copytree(place(study, "bce", 0), study / "gone" / "seed0-12345678")
    assert run_report(study) == 0
    notes = capsys.readouterr().err
    assert "left out: dice, seed 0: " in notes and "left out: dice, seed 1: " in notes and "gone/seed0-12345678: belongs to no arm" in notes
    states = {(row["arm"], row["seed"]): row["state"] for row in read_csv(study / "report" / "results.csv")}
    assert states["dice", "2"] == "finished" and "cut off" in states["dice", "1"] and len(states) == 9
    page = (study / "report" / "report.html").read_text()
    assert "2 of 9 planned runs are not finished" in page and "dice, seed 0:" in page and "gone/seed0-12345678" in page


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "study.yaml").unlink(), "has no study.yaml"),
    (lambda folder: [path.unlink() for path in folder.rglob("records.npz")], "no run is finished yet (9 are planned)"),
    (lambda folder: shutil.rmtree(folder), "has no study.yaml"),
    (lambda folder: (folder / "study.yaml").write_text("arms: ["), "study.yaml")])
def test_one_message_for_bad_input(study, spoil, words, capsys):
    spoil(study)
    assert run_report(study) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and message.startswith("error: ")


# -------------------------------------------------------------------------------------------------------------------- files

def test_the_page_stands_by_itself(study):
    assert run_report(study) == 0
    out = study / "report"
    page = (out / "report.html").read_text()
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://|//cdn", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 6 and all(source.startswith("data:image/") for source in sources)
    names = ["forest.png", "seeds.png", "thresholds.png", "reliability.png", "curves.png", "gallery.jpg"]
    for source, name in zip(sources, names):
        content = base64.b64decode(source.partition("base64,")[2])
        assert content == (out / name).read_bytes() and cv2.imdecode(np.frombuffer(content, np.uint8), 1).std() > 10
    assert "5 % &amp; &lt;b&gt;" in page and "<b>" in page and 'verdict worse">' in page
    for tag in ("table", "figure", "div", "span", "ul", "li", "tr", "td", "p", "dl", "dd"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_without_images_the_page_says_so(study, capsys):
    for arm in SKILLS:
        (place(study, arm, 0) / "results" / "mask_detections.json").unlink()
        (place(study, arm, 1) / "results" / "mask_detections.json").unlink()
    assert run_report(study) == 0
    assert "no picture of predictions" in capsys.readouterr().err
    assert "no seed has results/mask_detections.json in every arm" in (study / "report" / "report.html").read_text()


def test_latex_is_escaped(finished):
    assert escape_latex("50 % & a_b #1 {x} $y ~ ^ \\ <>") == (r"50 \% \& a\_b \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} "
                                                               r"\textbackslash{} \textless{}\textgreater{}")
    text = latex(tables(collect(finished)))
    rows = [line for line in text.splitlines() if line.endswith((r" \\", r"\\ \midrule"))]
    columns = {line.count(" & ") for line in rows if line.startswith("dice")}
    assert len(rows) > 12 and len(columns) >= 2
    bare = re.sub(r"\\[&%#_{}$]|\\text\w+\{\}|\$[^$]*\$|\{\[\}|\{\]\}", "", "\n".join(line.removesuffix(r"\midrule") for line in rows))
    assert not set("_%#${}^~<>|'[]±–−α") & set(bare.replace(r"\color{gray}", "")), "escaped, or in maths"
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"bce(outside=\textquotesingle{}charge\textquotesingle{}) + 0.5*mse" in text


def test_markdown_is_escaped(finished):
    text = markdown(tables(collect(finished)))
    assert r"bce(outside='charge') + 0.5\*mse(region='image', rescale=False)" in text
    for block in text.split("## ")[1:]:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "as many cells in each row"


def test_the_view_holds_every_box():
    torch.manual_seed(0)
    for width, height, count in ((640, 480, 1), (100, 300, 5), (64, 64, 0), (512, 512, 40)):
        corners = torch.rand(count, 2, 2) * torch.tensor([width, height])
        boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
        window = view(boxes, width, height)
        assert 0 <= window.x and window.x + window.width <= width and 0 <= window.y and window.y + window.height <= height
        assert abs(window.width / window.height - width / height) < 0.1 * width / height
        if count:
            assert window.x <= boxes[:, 0].min() + 1 and window.x + window.width >= boxes[:, 2].max() - 1
            assert window.y <= boxes[:, 1].min() + 1 and window.y + window.height >= boxes[:, 3].max() - 1
    small = view(torch.tensor([[300.0, 200, 310, 210]]), 640, 480)
    assert (small.width, small.height) == (128, 96)


# ------------------------------------------------------------------------------------------------------------------- keeping

def test_kept_runs_give_the_same_report_and_count_as_done(study, monkeypatch):
    metrics = place(study, "dice", 1) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[3]["skipped"], lines[200]["skipped"] = 2, 1
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(study.parents[1])
    kept = Path("docs/studies/small_study")
    for module in ("scripts.sweep_state", "yolact.study.study_runs"):
        monkeypatch.setattr(f"{module}.ARCHIVE", kept.parent)
    assert run_report(study, "--keep", str(kept)) == 0
    assert not list(kept.rglob("*.pth")) and not list(kept.rglob("*_detections.json"))
    assert not any("somebody" in path.read_text() for path in kept.rglob("env.json"))
    assert len(list(kept.glob("runs/*/*/results/gallery.json"))) == 3  # of the first seed
    planned = runs_of(load_study(study), expand(load_study(study)), root="runs")
    shutil.rmtree(place(study, "dice", 2))
    assert len(collect(study).runs) == 9  # a study may grow in runs/ while its older runs are kept
    before = {row["arm"] + row["seed"]: row for row in read_csv(kept / "report" / "results.csv")}
    unstable = [row["verdict"] for row in read_csv(kept / "report" / "comparison.csv")]
    shutil.rmtree("runs")
    for run in planned:
        folder = sweep_state.folder_of(Path("runs"), run)
        assert folder.is_relative_to(kept) and sweep_state.is_done(folder, run.config)
        thin = sweep_state.read_metrics(folder)
        assert sum(line["kind"] == "train" for line in thin) <= report_archive.LINES and sum(line["kind"] != "train" for line in thin) == 3
        assert ["per_class" in line["segm"] for line in thin if line["kind"] != "train"] == [False, False, True]
    assert run_report(kept, "--out", "again") == 0
    for row in read_csv("again/results.csv"):
        assert {**row, "folder": ""} == {**before[row["arm"] + row["seed"]], "folder": ""}
    assert [row["verdict"] for row in read_csv("again/comparison.csv")] == unstable == ["baseline", "worse, unstable 1/3", unstable[2]]
    assert (Path("again") / "gallery.jpg").is_file()


def test_too_much_is_not_kept(study, capsys, monkeypatch):
    monkeypatch.setattr(report_archive, "LIMIT", 50_000)
    assert run_report(study, "--keep", "docs/studies/small_study") == 2
    assert "MB without their weights" in capsys.readouterr().err
    assert not [path for path in Path("docs").rglob("*") if path.is_file()]
    assert run_report(study, "--keep", "docs/studies/other") == 2 and "--keep=docs/studies/small_study" in capsys.readouterr().err


def test_thinning_keeps_means_and_skipped_steps():
    lines = [{"kind": "train", "step": step, "losses": {"mask": float(step)}, "loss": float(step), "skipped": step % 2, "lr": 0.1}
             for step in range(1, 1001)]
    thin = report_archive.thinned(lines)
    assert len(thin) == 143 and thin[0]["step"] == 7 and thin[0]["losses"] == {"mask": 4.0} and thin[-1]["step"] == 1000
    assert sum(line["skipped"] for line in thin) == 500
    assert report_archive.thinned([]) == []
