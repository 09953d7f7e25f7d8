"""What a report refuses, and what it leaves out and names."""

import html
import json
import re
import shutil
from dataclasses import replace

import pytest

from data.resolve import dump_yaml, load_config
from data.yaml_text import read_yaml, write_yaml
from tests.yolact.study.made_runs import ENV, make_study, write_run
from tests.yolact.study.report.small_study import SKILLS, STUDY, place, read_csv, run_report
from yolact.engine.records import read_records, write_records
from yolact.study.report.data import collect


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
    longer = config.model_copy(
        update={"train": config.train.model_copy(update={"iterations": 2000})}
    )
    (folder / "config.yaml").write_text(dump_yaml(longer))
    change_records(folder, note={"step": 2000})


def with_plugin(folder):
    """All runs of the study name a plugin, whose source was another in one."""
    study = folder.parents[1]
    plan = study / "study.yaml"
    content = read_yaml(plan.read_text())
    content["settings"] = {**content.get("settings", {}), "loss.plugins": ["my.py"]}
    plan.write_text(write_yaml(content))
    for each in study.glob("*/seed*"):
        config = load_config(each / "config.yaml", check_names=False)
        loss = config.loss.model_copy(update={"plugins": ("my.py",)})
        (each / "config.yaml").write_text(dump_yaml(config.model_copy(update={"loss": loss})))
        change_env(each, plugins={"my.py": ("b" if each == folder else "a") * 16})


MIXTURES = {
    "data": (other_data, "validation set is 30 images"),
    "code": (
        lambda folder: change_env(folder, code="fedcba9876543210"),
        "code is 0123456789abcdef in 8 runs",
    ),
    "code, plugin": (
        with_plugin,
        f"plugin my.py is {'a' * 16} in 8 runs",
    ),
    "code, torch": (
        lambda folder: change_env(folder, versions={"torch": "2.9.0", "torchvision": "0.23.0"}),
        "torch is 2.8.0 in 8 runs",
    ),
    "code, resumed": (
        lambda folder: change_env(folder, resumed=[{**ENV, "code": "f" * 16}]),
        f"0123456789abcdef, then {'f' * 16} in 1",
    ),
    "evaluation": (
        lambda folder: change_records(folder, note={"eval": {"nms": "traditional"}}),
        "eval.nms is fast in 8 runs",
    ),
    "evaluation, masks": (
        lambda folder: change_records(folder, note={"eval": {"masks": "published"}}),
        "eval.masks is subpixel in 8 runs",
    ),
    "evaluation, detections": (
        lambda folder: change_records(folder, max_dets=50),
        "eval.max_dets is 100 in 8 runs",
    ),
    "length": (other_length, "iterations is 1000 in 8 runs"),
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_refuses_runs_that_are_not_comparable(study, kind, capsys):
    change, words = MIXTURES[kind]
    change(place(study, "dice", 1))
    assert run_report(study) == 2 and not (study / "report").exists()
    message = capsys.readouterr().err
    assert (
        message.count("\n") == 1
        and f"Different {kind.split(',')[0]}: " in message
        and words in message
        and "dice seed 1" in message
    )
    assert "--mixed" in message
    found = collect(study, mixed=True)
    assert list(found.mixed) == [kind.split(",")[0]]
    assert all(arm.comparison.exploratory for arm in found.arms if arm.comparison)


def test_a_report_of_a_mixture_says_so(study):
    MIXTURES["code"][0](place(study, "dice", 1))
    assert run_report(study, "--mixed") == 0
    assert "The runs are of different code" in (study / "report" / "report.html").read_text()
    assert all(
        "exploratory" in row["verdict"] for row in read_csv(study / "report" / "comparison.csv")[1:]
    )


def test_the_commit_and_the_place_of_the_data_may_differ(study):
    folder = place(study, "dice", 1)
    change_env(folder, commit="other", device="cuda:0 (another)")
    config = load_config(folder / "config.yaml", check_names=False)
    data = config.data.model_copy(update={"root": "/elsewhere"})
    (folder / "config.yaml").write_text(dump_yaml(config.model_copy(update={"data": data})))
    assert collect(study).mixed == {}


def test_a_seed_has_one_start(tmp_path):
    """Where every seed has its own, they differ over seeds, and not within one."""
    content = {**STUDY, "init_from": {"iterations": 5, "per_seed": True}}
    folder = make_study(tmp_path, content, SKILLS, images=5)
    assert collect(folder).mixed == {}
    config = load_config(place(folder, "dice", 1) / "config.yaml", check_names=False)
    start = re.sub(r"(seed1-)\w+", r"\g<1>00000000", config.train.init_from)
    train = config.train.model_copy(update={"init_from": start})
    (place(folder, "dice", 1) / "config.yaml").write_text(
        dump_yaml(config.model_copy(update={"train": train}))
    )
    found = collect(folder, mixed=True)
    assert list(found.mixed) == ["data"]
    assert "_init/seed1-00000000/weights/last.pth in 1 (dice seed 1)" in found.mixed["data"]
    (place(folder, "dice", 1) / "config.yaml").write_text(
        dump_yaml(config).replace("_init/seed1-", "_init/seed2-")
    )
    found = collect(folder)
    assert "train.init_from is _init/seed2/weights" in found.unfinished["dice"][1]


def test_records_that_are_older_than_a_setting_were_made_with_its_default(study):
    change_records(place(study, "dice", 1), note={"eval": {"masks": "subpixel"}})
    assert collect(study).mixed == {}


# ----------------------------------------------------------------------------- what is not finished


def test_runs_of_another_config_are_left_out_and_listed(study, capsys):
    folder = place(study, "dice", 1)
    config = load_config(folder / "config.yaml", check_names=False)
    (folder / "config.yaml").write_text(
        dump_yaml(
            config.model_copy(update={"loss": config.loss.model_copy(update={"mask": "mse"})})
        )
    )
    assert run_report(study) == 0
    why = "its config is another than the study's: loss.mask is mse instead of dice"
    assert f"left out: dice, seed 1: {why}" in capsys.readouterr().err
    assert why in html.unescape((study / "report" / "report.html").read_text())
    rows = {
        (row["arm"], row["seed"]): row["state"]
        for row in read_csv(study / "report" / "results.csv")
    }
    assert why in rows["dice", "1"] and rows["dice", "0"] == "finished"


def test_half_written_runs_are_reported_and_left_out(study, capsys):
    (place(study, "dice", 0) / "results" / "records.npz").unlink()
    broken = place(study, "dice", 1) / "results" / "records.npz"
    broken.write_bytes(broken.read_bytes()[:500])
    with (place(study, "bce", 2) / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "st')
    shutil.copytree(place(study, "bce", 0), study / "gone" / "seed0-12345678")
    assert run_report(study) == 0
    notes = capsys.readouterr().err
    assert (
        "left out: dice, seed 0: " in notes
        and "left out: dice, seed 1: " in notes
        and "gone/seed0-12345678: belongs to no arm" in notes
    )
    states = {
        (row["arm"], row["seed"]): row["state"]
        for row in read_csv(study / "report" / "results.csv")
    }
    assert (
        states["dice", "2"] == "finished" and "cut off" in states["dice", "1"] and len(states) == 9
    )
    page = (study / "report" / "report.html").read_text()
    assert (
        "2 of 9 planned runs are not finished" in page
        and "dice, seed 0:" in page
        and "gone/seed0-12345678" in page
    )


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: (folder / "study.yaml").unlink(), "has no study.yaml"),
        (
            lambda folder: [path.unlink() for path in folder.rglob("records.npz")],
            "no run is finished yet (9 are planned)",
        ),
        (lambda folder: shutil.rmtree(folder), "has no study.yaml"),
        (lambda folder: (folder / "study.yaml").write_text("arms: ["), "study.yaml"),
    ],
)
def test_one_message_for_bad_input(study, spoil, words, capsys):
    spoil(study)
    assert run_report(study) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and message.startswith("error: ")
