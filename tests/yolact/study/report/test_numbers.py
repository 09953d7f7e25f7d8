"""The numbers of reports, on runs that were written by code: the records' own, and the survey's
beside them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.config import NOTES
from data.resolve import load_config
from tests.yolact.study.made_runs import ENV, make_study
from tests.yolact.study.report.small_study import (
    HYBRID,
    SKILLS,
    STUDY,
    place,
    read_csv,
    read_csv_text,
    run_report,
)
from yolact.engine.records import read_records
from yolact.study.report.cells import plain
from yolact.study.report.data import collect
from yolact.study.report.images.tab import ImagesTab
from yolact.study.report.page.content import data
from yolact.study.report.page.facts import facts_of, warnings
from yolact.study.report.published import ROWS, TABLE_ONE, published
from yolact.study.report.published_coco import published_models
from yolact.study.report.spread import spread_table
from yolact.study.report.tables import by_role, tables
from yolact.study.report.write import comparison_csv, results_csv
from yolact.study.statistics import compare_study, load_runs
from yolact.study.statistics.ap import metric_names, weighted_ap
from yolact.study.statistics.inference import VARIANCE_RULE
from yolact.study.statistics.quality import olrp

ROOT = Path(__file__).parents[4]


def texts(row):
    return [plain(cell) for cell in row.cells]


def test_every_number_is_that_of_the_records(study):
    assert run_report(study) == 0
    rows = read_csv(study / "report" / "results.csv")
    assert len(rows) == 9 and {row["state"] for row in rows} == {"finished"}
    for row in rows:
        records = read_records(study / row["folder"] / "results" / "records.npz")
        values = 100 * weighted_ap(records, "mask", np.ones((1, 30), int)).values[0]
        for name, value in zip(metric_names("mask"), values):
            assert (row[name] == "") == np.isnan(value) and (
                not row[name] or float(row[name]) == pytest.approx(value, abs=1e-6)
            )
        assert (
            row["code"] == ENV["code"]
            and row["iterations"] == "1000"
            and row["images_seen"] == "8000"
        )

    by_arm = {
        arm: {row["seed"]: float(row["mask_ap"]) for row in rows if row["arm"] == arm}
        for arm in SKILLS
    }
    gaps = {
        arm: np.array([by_arm[arm][s] - by_arm["bce"][s] for s in by_arm["bce"]]) for arm in SKILLS
    }
    verdicts = {record.arm: record for record in compare_study(load_runs(study))}
    for row in read_csv(study / "report" / "comparison.csv"):
        assert float(row["mask_ap"]) == pytest.approx(
            np.mean(list(by_arm[row["arm"]].values())), abs=1e-5
        )
        if row["arm"] != "bce":
            found = verdicts[row["arm"]]
            assert row["verdict"] == found.label and float(row["difference"]) == pytest.approx(
                gaps[row["arm"]].mean(), abs=1e-5
            )
            assert [float(row[k]) for k in ("low", "high")] == pytest.approx(
                [found.interval.low, found.interval.high], abs=1e-5
            )
            assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert verdicts["dice"].verdict == "worse"


def test_tables_hold_the_same_numbers(finished):
    made = {table.key: table for table in tables(collect(finished))}
    # one batch size: no table of these
    assert set(made) == {
        *("verdicts", "single", "hybrid", "thresholds", "others", "beside", "shared"),
    }
    arm = collect(finished).arms[1]
    row = next(row for row in made["single"].rows if texts(row)[0] == "dice")
    found = arm.estimates["mask_ap75"]
    assert texts(row)[made["single"].header.index("AP75")] == f"{found.mean:.2f} ± {found.half:.2f}"
    assert texts(row)[-1] == arm.comparison.label == "worse" and texts(row)[-3] == "3"
    assert [texts(row)[0] for row in made["single"].rows] == ["bce", "dice"]
    assert [texts(row)[:3] for row in made["hybrid"].rows] == [
        ["bce", "–", "1"],
        [HYBRID, "0.5", "1"],
    ]
    assert (
        len({len(row.cells) for row in made["thresholds"].rows} | {len(made["thresholds"].header)})
        == 1
    )


def test_masks_of_what_both_find(finished):
    """Mean IoU of the instances that bce and dice both find at a seed, counted anew."""
    report = collect(finished)
    by_seed = []
    for seed in (0, 1, 2):
        iou = []
        for arm in report.arms[:2]:
            mask = arm.runs[seed].records().found["mask"]
            there = mask.matched[0] >= 0
            iou.append(dict(zip(mask.matched[0, there], 100.0 * mask.iou[0, there])))
        both = iou[0].keys() & iou[1].keys()
        by_seed.append([len(both), *(np.mean([one[row] for row in both]) for one in iou)])
    instances, bce, dice = np.mean(by_seed, 0)
    row = next(table for table in tables(report) if table.key == "shared").rows[0]
    name, *figures, gap = texts(row)
    assert (name, figures[0]) == ("dice", f"{instances:.0f}") and dice < bce
    assert figures[1:] == [f"{bce:.2f}", f"{dice:.2f}"]
    assert gap.startswith(f"{dice - bce:+.2f} ± ")


@pytest.mark.parametrize(
    "loss, base, alpha, beta",
    [
        # a row of the survey
        ("0.5*mse + bce", "bce", "0.5", "1"),
        ("bce + 0.5*mse", "bce", "0.5", "1"),
        (HYBRID, "bce", "0.5", "1"),
        ("2*mse + huber", "bce", "2", "1"),
        ("survey_huber(outside='charge') + 2*mse", "bce", "2", "1"),
        ("3*huber + bce", "mse", "3", "1"),
        ("dice + 2*bce", "bce", "1", "2"),
        ("2*bce + dice", "bce", "1", "2"),  # the baseline's loss
        # the term of weight 1
        ("0.3*focal + dice", "bce", "0.3", "1"),
        ("dice + 0.3*focal", "bce", "0.3", "1"),
        ("0.3*focal + 0.7*dice", "bce + mse", "0.3", "0.7"),
        ("0.7*dice + 0.3*focal", "bce + mse", "0.3", "0.7"),
        ("0.5*mse + dice + bce", "bce", "1, 0.5", "1"),
        ("bce + dice + 0.5*mse", "bce", "1, 0.5", "1"),
    ],
)
def test_alpha_weights_what_is_added_in_whatever_order(loss, base, alpha, beta):
    def arm(text):
        config = load_config("yolact_plus_tiny_cigarettes", [f"loss.mask={text}"])
        return SimpleNamespace(config=config, published=published(config))

    reference, *added = by_role(arm(loss), arm(base))
    assert (", ".join(f"{term.coefficient:g}" for term in added), f"{reference.coefficient:g}") == (
        alpha,
        beta,
    )


def test_other_metrics_have_intervals_and_no_verdict(finished):
    report_ = collect(finished)
    table = next(table for table in tables(report_) if table.key == "others")
    assert (
        table.header == ["arm", "mask AP small", "mask AP medium", "mask AP large", "box AP"]
        and not table.worded
    )
    rows = {texts(row)[0]: row for row in table.rows}
    gap = next(arm for arm in report_.arms if arm.label == "dice").comparison.others["box_ap"]
    assert (
        texts(rows["dice"])[-1] == f"{gap.difference:+.2f} ± {gap.high - gap.difference:.2f}"
        and rows["bce"].kind == "baseline"
    )
    note = next(table for table in tables(report_) if table.key == "verdicts").notes[0]
    assert f"{100 * report_.base.runs[0].resampled.dropped:.1f} % of the classes drop out" in note


def test_a_collapsed_run_is_warned_of_in_every_form(tmp_path):
    found = collect(make_study(tmp_path / "runs", {**STUDY, "seeds": 4}, SKILLS, images=10))
    arms = {arm.label: arm for arm in found.arms}
    assert not any("collapsed" in warned.what for warned in warnings(found))
    point = arms["dice"].runs[2].resampled.point
    point["mask_ap"] -= 50
    aps = sorted(run.resampled.point["mask_ap"] for run in arms["dice"].runs.values())
    (said,) = [warned.what for warned in warnings(found) if "collapsed" in warned.what]
    assert said.startswith("dice may have collapsed at seed 2:")
    rows = {texts(row)[0]: texts(row)[1:] for row in spread_table(found).rows}
    median = (aps[1] + aps[2]) / 2
    assert rows["dice"][:3] == [f"{median:.2f}", f"{point['mask_ap']:.2f}", "2"]
    assert f"{said}." in spread_table(found).notes
    row = read_csv_text(comparison_csv(found))[1]
    assert (row["worst_seed"], row["collapsed_seeds"]) == ("2", "2")
    assert float(row["median"]) == pytest.approx(median, abs=1e-6)


def test_tables_page_and_facts_name_the_variance_rule(study):
    found = collect(study)
    notes = next(table for table in tables(found) if table.key == "verdicts").notes
    assert f"Variance rule: {VARIANCE_RULE}. The plain paired t, on" in notes[1]
    assert facts_of(found)["variance rule"] == VARIANCE_RULE
    embedded = data(found, ImagesTab(found, 0))["arms"][1:]
    assert [arm["rule"] for arm in embedded] == [VARIANCE_RULE] * 2
    t = [found.arms[i].comparison.paired_t for i in (1, 2)]
    assert [arm["paired_t"] for arm in embedded] == t and all(0 < p < 1 for p in t)


def test_sign_flips_from_six_seeds(study, tmp_path):
    assert (
        "sign-flip p"
        not in next(table for table in tables(collect(study)) if table.key == "verdicts").header
    )
    content = {**STUDY, "name": "six", "arms": ["bce", "dice"], "seeds": 6}
    found = collect(make_study(tmp_path / "runs", content, SKILLS, images=10))
    table = next(table for table in tables(found) if table.key == "verdicts")
    place_of = table.header.index("sign-flip p")
    assert [texts(row)[place_of] for row in table.rows] == [
        "",
        f"{found.arms[1].comparison.sign_flip:.4f}",
    ]
    assert len({len(row.cells) for row in table.rows} | {len(table.header)}) == 1
    assert (
        0.03 <= found.arms[1].comparison.sign_flip <= 1
        and read_csv_text(comparison_csv(found))[1]["sign_flip_p"]
    )


def test_what_stands_beside_ap_is_in_both_files(study):
    (place(study, "dice", 0) / "results" / "benchmark.json").write_text(
        json.dumps({"fps": 20.0, "p95_ms": {"total": 100}})
    )
    for seed in range(3):  # as report.py --boundary leaves it
        (place(study, "dice", seed) / "results" / "boundary.json").write_text(
            json.dumps({"boundary_ap": 10.0 + seed})
        )
    found = collect(study)
    runs = {(row["arm"], row["seed"]): row for row in read_csv_text(results_csv(found))}
    arms = {row["arm"]: row for row in read_csv_text(comparison_csv(found))}
    expected = olrp(found.arms[1].runs[2].records(), "mask")
    assert (
        float(runs["dice", "2"]["mask_olrp"]) == pytest.approx(100 * expected.olrp, abs=1e-5)
        and runs["dice", "2"]["box_olrp"]
    )
    mean = np.mean([float(runs["dice", str(seed)]["mask_calibration_error"]) for seed in range(3)])
    assert float(arms["dice"]["mask_calibration_error"]) == pytest.approx(mean, abs=1e-5)
    assert (
        arms["dice"]["mask_boundary_ap"] == "11.0"
        and not arms["bce"]["mask_boundary_ap"]
        and arms["dice"]["classes_dropped"] != ""
    )
    assert (runs["dice", "0"]["fps"], runs["dice", "1"]["fps"], arms["dice"]["fps"]) == (
        "20.0",
        "",
        "20.0",
    )
    beside = next(table for table in tables(found) if table.key == "beside")
    assert [texts(row)[beside.header.index("boundary AP")] for row in beside.rows] == [
        "–",
        "11.00",
        "–",
    ]


def test_an_unstable_baseline_is_marked(study):
    metrics = place(study, "bce", 1) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[3]["skipped"], lines[5]["overflows"] = 2, 7
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    overflown = place(study, "dice", 1) / "metrics.jsonl"
    overflown.write_text(
        overflown.read_text().replace('"skipped": 0', '"skipped": 0, "overflows": 3')
    )
    found = collect(study)
    for key in ("verdicts", "single", "hybrid", "thresholds"):
        rows = {
            texts(row)[0]: row
            for row in next(table for table in tables(found) if table.key == key).rows
        }
        assert texts(rows["bce"])[-1] == "baseline, unstable 1/3"
        # overflows of fp16's scale do not count
        assert "dice" not in rows or texts(rows["dice"])[-1] == "worse"
    assert [row["verdict"] for row in read_csv_text(comparison_csv(found))][
        0
    ] == "baseline, unstable 1/3"
    assert run_report(study) == 0
    assert (
        "bce, the baseline, is unstable: 1 of 3 runs"
        in (study / "report" / "report.html").read_text()
    )


def test_interval_of_one_seed_is_that_of_the_images(study):
    for arm in SKILLS:
        for seed in (1, 2):
            shutil.rmtree(place(study, arm, seed))
    found = collect(study)
    base = found.base
    assert base.estimates["mask_ap"].half == pytest.approx(
        1.96 * base.runs[0].resampled.draws["mask_ap"].std(ddof=1), rel=1e-3
    )
    assert {arm.comparison.verdict for arm in found.arms if arm.comparison} == {"no verdict"}
    assert run_report(study) == 0


@pytest.mark.parametrize("gone", [["dice"], ["bce"], ["bce", "dice"]])
def test_arms_without_a_finished_run(study, gone):
    for arm in gone:
        for seed in range(3):
            shutil.rmtree(place(study, arm, seed))
    assert run_report(study) == 0
    rows = {row["arm"]: row["verdict"] for row in read_csv(study / "report" / "comparison.csv")}
    assert rows["bce"] == "baseline" and rows["dice"] == (
        "failed" if "dice" in gone else "no verdict"
    )
    page = (study / "report" / "report.html").read_text()
    assert ("dice cannot be compared: bce, the baseline, has no finished run" in page) == (
        gone == ["bce"]
    )


def test_speed_is_a_result_of_networks_that_differ(study, tmp_path):
    """The mask loss takes no part in inference: between such arms FPS differs by noise."""
    single = next(table for table in tables(collect(study)) if table.key == "single")
    assert single.header[:2] == ["loss", "all"] and len(single.rows[0].cells) == len(single.header)
    wider = {"label": "wider", "loss.mask": "bce", "model.proto_channels": 48}
    content = {**STUDY, "name": "widths", "arms": ["bce", wider], "seeds": 2}
    folder = make_study(tmp_path / "runs", content, {"bce": 0, "wider": 0}, images=10)
    # images/s, and ms of the slow images
    for seed, (fps, slow) in enumerate(((20.0, 100.0), (30.0, 50.0))):
        (place(folder, "wider", seed) / "results" / "benchmark.json").write_text(
            json.dumps({"fps": fps, "p95_ms": {"total": slow}})
        )
    table = next(table for table in tables(collect(folder)) if table.key == "thresholds")
    assert table.header[:3] == ["arm", "FPS", "all"]
    rows = [row for row in table.rows if row.kind != "published"]
    assert [texts(row)[1] for row in rows] == ["–", "25.0 ± 10.0"]


def test_batch_sizes_at_equal_images(tmp_path):
    content = {
        **STUDY,
        "settings": {"loss.mask": "bce"},
        "arms": {"grid": {"train.batch_size": [2, 8, 16]}},
        "baseline": "batch_size=8",
        "equal": "images",
        "seeds": 1,
    }
    labels = [f"batch_size={size}" for size in (2, 8, 16)]
    found = collect(make_study(tmp_path, content, dict.fromkeys(labels, 0.0), images=10))
    table = next(table for table in tables(found) if table.key == "batch")
    assert [texts(row)[:5] for row in table.rows if row.kind != "published"] == [
        ["batch_size=2", "2", "0.001", "4000", "8000"],
        ["batch_size=8", "8", "0.001", "1000", "8000"],
        ["batch_size=16", "16", "0.001", "500", "8000"],
    ]
    assert [(texts(row)[0], texts(row)[5]) for row in table.rows if row.kind == "published"] == [
        ("published: BCE, batch 2, masks", "82.19"),
        ("published: BCE, batch 2, boxes", "75.91"),
        ("published: BCE, batch 8, masks", "83.65"),
        ("published: BCE, batch 8, boxes", "79.91"),
        ("published: BCE, batch 16, masks", "84.67"),
        ("published: BCE, batch 16, boxes", "77.27"),
    ]
    gaps = [texts(row)[-2] for row in table.rows if row.kind == "published"]
    assert gaps == ["-1.46", "", "", "", "+1.02", ""]  # boxes are not compared with masks
    assert [texts(row)[table.header.index("AP95")] for row in table.rows][1] == "1.18"


# ---------------------------------------------------------------------------------------- published


def printed_tables():
    """{title: [{column: text}]} of the tables below "The figures as printed" in survey.md, which
    were written from the paper and the README by themselves."""
    text = (ROOT / "docs" / "reference" / "survey.md").read_text()
    section = text.split("## The figures as printed")[1].split("\n## ")[0]
    found, title = {}, ""
    for part in section.split("**")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            header, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
            found[f"{title} (2)" if title in found else title] = [
                dict(zip(header, row)) for row in rows
            ]
        else:
            title = part
    return found


def row_of(printed):
    """The published row that a line of the printed tables is about."""
    names = {"hl": "huber", "log-cosh-dice": "log_cosh_dice"}
    text = printed.get("loss") or printed["losses"]
    one, *other = (names.get(p, p).replace(" ", "_") for p in text.lower().split(" + "))
    alpha = printed.get("alpha", "1")
    one = one.replace(",_delta_1", "").replace(",_delta_", "_delta")
    for name in (f"{one}_{other[0]}", f"{other[0]}_{one}") if other else (one,):
        name = (name if alpha == "1" else alpha + name).replace("_mse_bce", "_bce_mse")
        name = {"mse_bce": "bce_mse"}.get(name, name)
        if name in ROWS:
            return ROWS[name]
    raise AssertionError(text)


def test_published_figures_are_those_of_the_survey():
    """Every figure of every printed table, the paper's and the README's, stands in a report's row;
    a README row's AP is the mean over its thresholds."""
    tables, seen = printed_tables(), set()
    assert {title: len(rows) for title, rows in tables.items()} == {
        **{"Table I": 6, "Table II": 6, "Table III": 12, "README": 9},
        "README (2)": 9,
    }
    for line in tables.pop("Table I"):
        row = TABLE_ONE[int(line["batch"]), "box" if line[""] == "Detection" else "mask"]
        assert (row.ap, *(row.by_threshold[t] for t in (50, 75, 95))) == tuple(
            float(line[name]) for name in ("mAP", "AP50", "AP75", "AP95")
        )
    for title, lines in tables.items():
        for line in lines:
            row = row_of(line)
            seen.add(row.name)
            for column, text in line.items():
                threshold = column.removeprefix("AP")
                if column in ("all", "mAP"):
                    assert float(text) == row.ap
                elif column == "FPS":
                    assert float(text) == row.fps
                elif threshold.isdigit() and text != "83.25" or title == "README":
                    assert (
                        not threshold.isdigit() or float(text) == row.by_threshold[int(threshold)]
                    )
            if title == "README":
                assert abs(np.mean(list(row.by_threshold.values())) - row.ap) < 0.02
    assert seen == set(ROWS) and len(ROWS) == 20
    assert ROWS["0.5huber_bce"].by_threshold[95] == 0.05  # the README's 83.25 is a slip


@pytest.mark.parametrize(
    "loss, name",
    [
        ("bce", "bce"),
        ("0.5*mse + bce", "0.5mse_bce"),
        (HYBRID, "0.5mse_bce"),
        ("huber(delta=0.3)", "huber"),
        ("survey_huber(delta=1)", "huber"),
        ("survey_huber(delta=2)", "huber_delta2"),
        ("survey_huber(delta=3)", "huber_delta3"),
        ("log_cosh_bce", "log_cosh_bce"),
        ("huber + bce", "huber_bce"),
        ("bce + 0.7*mse", None),
        ("bce(weight=ramp(0.1, 1))", None),
        ("lovasz", None),
    ],
)
def test_which_published_row_stands_beside_a_loss(loss, name):
    config = load_config("yolact_plus_tiny_cigarettes", [f"loss.mask={loss}"])
    assert getattr(published(config), "name", None) == name
    for other in ("yolact_plus_tiny_nuclei", "quickstart"):
        assert published(load_config(other, [f"loss.mask={loss}"])) is None
    own = load_config("yolact_plus_tiny_cigarettes", ["data.name=cigars", f"loss.mask={loss}"])
    assert published(own) is None  # a name alone says nothing


def test_published_rows_are_marked(tmp_path):
    found = collect(make_study(tmp_path, {**STUDY, "seeds": 1}, SKILLS, images=10))
    table = next(table for table in tables(found) if table.key == "hybrid")
    row = next(row for row in table.rows if texts(row)[0] == "published: 0.5MSE + BCE")
    assert row.kind == "published" and texts(row)[1:4] == ["0.5", "1", "84.43"]
    assert texts(row)[-3:] == ["1", "+0.78", "one run, no interval"]
    assert row.remark == "computed: BCE + 0.5 MSE, the latter uncropped"


def test_published_models_of_coco_go_by_data_set():
    """Rows as the papers print them; those of presets are what their notes say."""
    assert published_models("nuclei") == published_models("cigarettes") == []
    rows = {(row.preset, row.split): row for row in published_models("coco2017") if row.preset}
    assert len(published_models("coco2017")) == len(rows) + 5
    plus = rows["yolact_plus_base", "test-dev"]
    assert plus.values["mask_ap"] == 34.6 and plus.values["mask_ap_large"] == 55.1
    assert rows["yolact_base", "minival"].box_ap == 32.5
    for (preset, _), row in rows.items():
        config = load_config(preset)
        assert {"R-50-FPN": "resnet50", "R-101-FPN": "resnet101", "D-53-FPN": "darknet53"}[
            row.backbone
        ] == config.model.backbone
        if preset.startswith(("assigners/", "mayolact", "gmayolact")):
            assert f"AP: {row.values['mask_ap']}" in NOTES[preset].replace(
                "AP 38.7", "AP: 38.7"
            ).replace("AP on COCO test-dev", "AP")


def test_published_models_stand_below_the_arms_of_coco(tmp_path):
    content = {**STUDY, "base": "yolact_base", "seeds": 1}
    found = collect(make_study(tmp_path, content, SKILLS, images=10))
    table = next(table for table in tables(found) if table.key == "coco")
    assert [texts(row)[0] for row in table.rows[:3]] == list(SKILLS)
    assert {len(row.cells) for row in table.rows} == {len(table.header)}
    row = next(row for row in table.rows if "YOLACT-550++, R-50-FPN" in texts(row)[0])
    assert texts(row)[1:] == [
        "33.5",
        "34.1",
        "53.3",
        "36.2",
        "11.7",
        "36.1",
        "53.6",
        "–",
        "test-dev",
    ]
    assert {row.kind for row in table.rows[3:]} == {"beside"}
