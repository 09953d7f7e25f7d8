"""scripts/bench.py runs every section, on a small config with and on one without an original
counterpart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.cigarettes.generate import generate
from yolact.benchmarks import pictures, sections
from yolact.commands.bench import OWN, PAIRED, command_line, figures

ROOT = Path(__file__).parents[3]
SMALL = [
    "model.max_size=128",
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=4",
    "train.batch_size=2",
    "train.num_workers=0",
    "model.pretrained=none",
]


@pytest.mark.parametrize("section", PAIRED + OWN)
def test_every_section_runs(section, monkeypatch):
    """In this process: the program starts one for each section, to know its peak of memory. On
    small pictures, which are drawn sooner."""
    monkeypatch.setattr(sections, "generate", lambda *a, **k: generate(*a, **{**k, "size": 128}))
    monkeypatch.setattr(pictures, "SIZES", {"96 px": (96, None), "photos": (96, (300, 200))})
    words = ["--worker", section, "--config", "yolact_small", "--seconds", "0.01"]
    result = sections.run_section(command_line([*words, "--set", *SMALL]))
    found = figures("yolact_small", section, [result], [])
    assert found["ms"] > 0 and found["peak_mb"] > 0
    if section == "assign":
        assert set(found["rows"]) >= {"max_iou", "atss(iou='gmaiou')", "brute force"}
    if section == "loader":
        assert found["rows"].keys() == {"96 px", "photos"}
        assert all(
            row.keys() == pictures.SETTINGS.keys() and min(row.values()) > 0
            for row in found["rows"].values()
        )
    if section == "losses":
        assert found["relative"].keys() >= {"bce", "dice", "lovasz(kind='softmax')"}


def test_sections_side_by_side(tmp_path):
    """Of a network that has an original."""
    out = tmp_path / "bench.json"
    fast = ["--config", "yolact_small", "--seconds", "0.01", "--turns", "1", "--json", out]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", "detect", "step", *fast]
        + ["--set", *SMALL, "model.norm=none"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = {r["section"]: r for r in json.loads(out.read_text())["results"]}
    assert set(results) == {"detect", "step"}
    assert all(r["ms"] > 0 and r["peak_mb"] > 0 for r in results.values())


def test_an_unknown_config_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", "--config", "yolact_bass"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "yolact_base" in done.stderr and len(done.stderr.strip().splitlines()) == 1
