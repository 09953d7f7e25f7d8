"""The files of a report, which stand by themselves, and runs that are kept."""

import base64
import errno
import hashlib
import html
import json
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.yolact.study.report.small_study import SKILLS, place, read_csv, run_report
from yolact.study.arms import arms_of, runs_of
from yolact.study.folder.kept import names_in
from yolact.study.folder.progress import folder_of, is_done
from yolact.study.folder.reading import read_metrics
from yolact.study.plan import load_study
from yolact.study.report import archive as report_archive
from yolact.study.report.data import collect
from yolact.study.report.gallery import view
from yolact.study.report.tables import tables
from yolact.study.report.write import escape_latex, latex, markdown
from yolact.study.statistics.finished import load_run


def test_the_page_stands_by_itself(study):
    assert run_report(study) == 0
    out = study / "report"
    page = (out / "report.html").read_text()
    asking = page.replace('"http://www.w3.org/2000/svg"', "")  # a name, no place
    assert not re.search(r"<link|<iframe|@import|https?:|//cdn|url\((?!#)", asking)
    (source,) = re.findall(r'src="([^"]*)"', page)
    assert base64.b64decode(source.partition("base64,")[2]) == (out / "gallery.jpg").read_bytes()
    names = ["forest", "seeds", "errors", "ap_by_iou", "precision_recall", "by_size"]
    names += ["reliability", "curves"]
    assert re.findall(r'<figure id="(\w+)">', page) == ["forest", "seeds", "gallery", *names[2:]]
    for name in (*(f"{name}.png" for name in names), "gallery.jpg"):
        content = np.frombuffer((out / name).read_bytes(), np.uint8)
        assert cv2.imdecode(content, 1).std() > 10
    assert page.count("<svg role") == len(names) and len(set(ids(page))) == len(ids(page))
    assert "5 % &amp; &lt;b&gt;" in page and 'verdict worse">' in page
    for tag in ("table", "figure", "div", "span", "ul", "li", "tr", "td", "p", "dl", "dd", "svg"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def ids(page):
    return re.findall(r'\bid="([^"]*)"', page)


def test_the_policy_lets_one_script_run(study):
    """Its hash is of the script as it stands in the page."""
    assert run_report(study) == 0
    page = (study / "report" / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    policy = html.unescape(policy)
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy and "http" not in policy and "connect" not in policy


def test_without_images_the_page_says_so(study, capsys):
    for arm in SKILLS:
        (place(study, arm, 0) / "results" / "mask_detections.json").unlink()
        (place(study, arm, 1) / "results" / "mask_detections.json").unlink()
    assert run_report(study) == 0
    assert "no picture of predictions" in capsys.readouterr().err
    assert (
        "no seed has results/mask_detections.json in every arm"
        in (study / "report" / "report.html").read_text()
    )


def test_latex_is_escaped(finished):
    assert escape_latex("50 % & a_b #1 {x} $y ~ ^ \\ <>") == (
        r"50 \% \& a\_b \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} \textless{}\textgreater{}"
    )
    text = latex(tables(collect(finished)))
    rows = [line for line in text.splitlines() if line.endswith((r" \\", r"\\ \midrule"))]
    columns = {line.count(" & ") for line in rows if line.startswith("dice")}
    assert len(rows) > 12 and len(columns) >= 2
    bare = re.sub(
        r"\\[&%#_{}$]|\\text\w+\{\}|\$[^$]*\$|\{\[\}|\{\]\}",
        "",
        "\n".join(line.removesuffix(r"\midrule") for line in rows),
    )
    assert not set("_%#${}^~<>|'[]±–−α") & set(bare.replace(r"\color{gray}", "")), (
        "escaped, or in maths"
    )
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"bce(outside=\textquotesingle{}charge\textquotesingle{}) + 0.5*mse" in text


def test_markdown_is_escaped(finished):
    text = markdown(tables(collect(finished)))
    assert r"bce(outside='charge') + 0.5\*mse(region='image', rescale=False)" in text
    for block in text.split("## ")[1:]:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, (
            "as many cells in each row"
        )


def test_the_view_holds_every_box():
    torch.manual_seed(0)
    for width, height, count in ((640, 480, 1), (100, 300, 5), (64, 64, 0), (512, 512, 40)):
        corners = torch.rand(count, 2, 2) * torch.tensor([width, height])
        boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
        window = view(boxes, width, height)
        assert (
            0 <= window.x
            and window.x + window.width <= width
            and 0 <= window.y
            and window.y + window.height <= height
        )
        assert abs(window.width / window.height - width / height) < 0.1 * width / height
        if count:
            assert (
                window.x <= boxes[:, 0].min() + 1
                and window.x + window.width >= boxes[:, 2].max() - 1
            )
            assert (
                window.y <= boxes[:, 1].min() + 1
                and window.y + window.height >= boxes[:, 3].max() - 1
            )
    small = view(torch.tensor([[300.0, 200, 310, 210]]), 640, 480)
    assert (small.width, small.height) == (128, 96)


# ------------------------------------------------------------------------------------------ keeping


def without_large_objects(place, **options):
    run = load_run(place, **options)
    run.resampled.point["mask_ap_large"] = float("nan")
    return run


def test_kept_runs_give_the_same_report_and_count_as_done(study, monkeypatch):
    metrics = place(study, "dice", 1) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[3]["skipped"], lines[200]["skipped"] = 2, 1
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(study.parents[1])
    kept = Path("studies/small_study")
    assert run_report(study, "--keep", str(kept)) == 0
    files = {name: text for arm in kept.glob("runs/*") for name, text in read_archive(arm)}
    assert len(list(kept.glob("runs/*"))) == 3 and len(files) == 9 * 4 + 3
    assert not any(name.endswith((".pth", "_detections.json")) for name in files)
    assert not any(b"somebody" in text for name, text in files.items() if name.endswith("env.json"))
    # of the first seed
    assert sum(name.endswith("results/gallery.json") for name in files) == 3
    planned = runs_of(load_study(study), arms_of(load_study(study)), root="runs")
    shutil.rmtree(place(study, "dice", 2))
    with monkeypatch.context() as patch:  # a set without large objects has no AP of them
        patch.setattr("yolact.study.statistics.study_runs.load_run", without_large_objects)
        # a study may grow in runs/ while its older runs are kept
        assert len(collect(study).runs) == 9
    before = {row["arm"] + row["seed"]: row for row in read_csv(kept / "report" / "results.csv")}
    unstable = [row["verdict"] for row in read_csv(kept / "report" / "comparison.csv")]
    shutil.rmtree("runs")
    for run in planned:
        folder = folder_of(Path("runs"), run)
        assert folder.is_relative_to(Path("runs") / ".kept") and is_done(folder, run.config)
        thin = read_metrics(folder)
        assert (
            sum(line["kind"] == "train" for line in thin) <= report_archive.LINES
            and sum(line["kind"] != "train" for line in thin) == 3
        )
        assert ["per_class" in line["segm"] for line in thin if line["kind"] != "train"] == [
            False,
            False,
            True,
        ]
    assert run_report(kept, "--out", "again") == 0
    for row in read_csv("again/results.csv"):
        assert {**row, "folder": ""} == {**before[row["arm"] + row["seed"]], "folder": ""}
    assert (
        [row["verdict"] for row in read_csv("again/comparison.csv")]
        == unstable
        == ["baseline", "worse, unstable 1/3", unstable[2]]
    )
    assert (Path("again") / "gallery.jpg").is_file()


def read_archive(path):
    """(file, its bytes) of an archive of kept runs."""
    with zipfile.ZipFile(path) as content:
        return [(f"{path.stem}/{name}", content.read(name)) for name in content.namelist()]


def test_seeds_are_appended_to_what_is_kept_whole_or_not_at_all(study, monkeypatch):
    kept, last = Path("studies/small_study"), {arm: place(study, arm, 2) for arm in SKILLS}
    for arm, folder in last.items():
        shutil.move(folder, Path(f"aside-{list(SKILLS).index(arm)}"))
    report_archive.keep(collect(study), kept)
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert len(before) == 1 + 3 and report_archive.keep(collect(study), kept) == []
    for arm, folder in last.items():
        shutil.move(Path(f"aside-{list(SKILLS).index(arm)}"), folder)
    with monkeypatch.context() as patch:
        written = []
        patch.setattr(report_archive, "_recompress", lambda *_: written.append(1) or full(written))
        with pytest.raises(OSError, match="No space left"):
            report_archive.keep(collect(study), kept)
    assert before == {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    new = report_archive.keep(collect(study), kept)
    assert sorted(path.name for path in new) == sorted(folder.name for folder in last.values())
    for path, old in before.items():
        if path.suffix == ".zip":
            entries = path.read_bytes()
            assert entries.startswith(old[: old.index(b"PK\1\2")]), "older runs keep their bytes"
            assert len(names_in(path)) == 3


def full(written):
    if len(written) == 2:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_broken_archive_is_named(study):
    (study / "runs").mkdir()
    (study / "runs" / "bce.zip").write_text("no zip")
    with pytest.raises(ValueError, match="runs/bce.zip is no archive of kept runs"):
        collect(study)


def test_boundary_ap_stays_with_the_runs(study, capsys, monkeypatch):
    monkeypatch.chdir(study.parents[1])
    monkeypatch.setattr("yolact.study.statistics.boundary.available", lambda: False)
    assert (
        run_report(study, "--boundary") == 0
        and "faster-coco-eval is not installed" in capsys.readouterr().err
    )
    monkeypatch.setattr("yolact.study.statistics.boundary.available", lambda: True)
    monkeypatch.setattr(
        "yolact.study.report.data.boundary_of_run", lambda run: {"boundary_ap": 40.0 + run.seed}
    )
    kept = Path("studies/small_study")
    assert run_report(study, "--boundary", "--keep", str(kept)) == 0
    shutil.rmtree("runs")
    assert run_report(kept, "--out", "again") == 0
    found = {
        (row["arm"], row["seed"]): row["mask_boundary_ap"] for row in read_csv("again/results.csv")
    }
    # seed 2 has no mask results
    assert (found["dice", "0"], found["dice", "1"], found["dice", "2"]) == ("40.0", "41.0", "")


def test_too_much_is_not_kept(study, capsys, monkeypatch):
    monkeypatch.setattr(report_archive, "LIMIT", 50_000)
    assert run_report(study, "--keep", "studies/small_study") == 2
    assert "MB without their weights" in capsys.readouterr().err
    assert not [path for path in Path("studies").rglob("*") if path.is_file()]
    assert (
        run_report(study, "--keep", "studies/other") == 2
        and "--keep=studies/small_study" in capsys.readouterr().err
    )


def test_thinning_keeps_means_and_skipped_steps():
    lines = [
        {
            "kind": "train",
            "step": step,
            "losses": {"mask": float(step)},
            "loss": float(step),
            "skipped": step % 2,
            "lr": 0.1,
        }
        for step in range(1, 1001)
    ]
    thin = report_archive.thinned(lines)
    assert (
        len(thin) == 143
        and thin[0]["step"] == 7
        and thin[0]["losses"] == {"mask": 4.0}
        and thin[-1]["step"] == 1000
    )
    assert sum(line["skipped"] for line in thin) == 500
    assert report_archive.thinned([]) == []
