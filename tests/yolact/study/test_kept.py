"""The studies that come along: their plans resolve to the runs that are kept, and all count as
done."""

import csv
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from yolact.commands import sweep
from yolact.study.arms import arms_of, config_differences, identity, runs_of
from yolact.study.compare import compare
from yolact.study.folder.kept import BESIDE, archive_of, kept_arms, kept_runs, kept_study, names_in
from yolact.study.folder.layout import seed_of
from yolact.study.folder.progress import folder_of, is_done
from yolact.study.folder.reading import read_config
from yolact.study.plan import load_study

ROOT = Path(__file__).parents[3]
STATUS = {
    "assigners_nuclei": "12 done",
    "assigners_small": "12 done",
    "quick_study": "25 done",
    "same_loss": "12 done",
}


@pytest.mark.parametrize("name", STATUS)
def test_kept_runs_are_found_and_done_wherever_one_works(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = ROOT / "configs" / "sweeps" / f"{name}.yaml"
    assert sweep.program([str(plan), "--status"]) == 0
    text = capsys.readouterr().out
    status, *notes = text.splitlines()[-2:] if "\nnote: " in text else text.splitlines()[-1:]
    assert status == STATUS[name]
    for note in notes:  # it grows with today's code, or one line says why not
        done = status.partition(" ")[0]
        assert re.match(
            rf"note: {done} finished runs \(.*\) were trained with .+ instead of ", note
        )
        assert re.search(r"to add seeds, use that \(commit [0-9a-f]{10}\)", note)
    with (ROOT / "studies" / name / "report" / "results.csv").open(encoding="utf-8") as file:
        reported = [row["mask_ap"] for row in csv.DictReader(file) if row["mask_ap"]]
    shown = re.findall(r"\d+\.\d\d(?=\s)", text)
    assert sorted(shown) == sorted(f"{float(ap):.2f}" for ap in reported), (
        "the report's own figures"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@pytest.mark.parametrize("name", STATUS)
def test_kept_runs_trained_what_the_plan_resolves(name, tmp_path, monkeypatch):
    """The hash in a folder's name changes where the schema grows, so configs are compared."""
    monkeypatch.chdir(tmp_path)
    folder = ROOT / "studies" / name
    study = load_study(folder)
    arms = {arm.slug: arm for arm in arms_of(study)}
    assert set(kept_arms(folder)) == set(arms)
    for slug, arm in arms.items():
        planned = {run.seed: run.config for run in runs_of(study, [arm])}
        runs = kept_runs(folder, slug)
        assert {seed_of(run) for run in runs} <= set(planned) and len(runs) >= 2
        for run in runs:
            found, wanted = (identity(one) for one in (read_config(run), planned[seed_of(run)]))
            # where the data lie is no part of what is trained
            assert set(config_differences(found, wanted)) <= {"data.root"}


def test_a_study_in_the_working_directory_hides_the_one_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_study("same_loss") == BESIDE / "studies" / "same_loss"
    shutil.copytree(ROOT / "studies" / "same_loss", "studies/same_loss")
    assert kept_study("same_loss") == Path("studies") / "same_loss"
    assert kept_study("none_such") == Path("studies") / "none_such"


def test_a_changed_archive_is_unpacked_again_and_the_old_layout_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Path(shutil.copytree(ROOT / "studies" / "same_loss", "studies/same_loss"))
    study = load_study(made)
    run = runs_of(study, arms_of(study))[0]
    archive = archive_of(made, run.arm.slug)
    place = folder_of(Path("runs"), run)
    assert is_done(place, run.config) and place.is_relative_to("runs/.kept")
    assert {entry.name for entry in archive.parent.iterdir()} == {
        f"{arm}.zip" for arm in kept_arms(made)
    }
    (place / "metrics.jsonl").write_text("")
    assert not is_done(folder_of(Path("runs"), run), run.config)
    shutil.rmtree(place)
    place = folder_of(Path("runs"), run)
    assert is_done(place, run.config), "what was deleted is unpacked again"

    name = place.name
    before = archive.stat()
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(f"{name}/note.txt", "more")
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert (kept_runs(made, run.arm.slug, name)[0] / "note.txt").read_text() == "more"

    plain = made / "runs" / run.arm.slug
    shutil.copytree(place.parent, plain)
    archive.unlink()
    assert names_in(archive) == [] and folder_of(Path("runs"), run) == plain / name


def test_archives_of_two_arms_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = ROOT / "studies" / "same_loss" / "runs"
    found = compare(runs / "survey_huber-delta=1.zip", runs / "survey_huber-delta=2.zip")
    assert len(found.by_seed) == 4 and round(found.interval.difference, 2) == -0.70
