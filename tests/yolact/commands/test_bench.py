"""scripts/bench.py runs every section, on a small config with and on one without an original
counterpart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("norm", ["none", "group"])
def test_every_section_runs(norm, tmp_path):
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts" / "bench.py",
            "--config",
            "yolact_small",
            "--seconds",
            "0.01",
            "--turns",
            "1",
            "--json",
            out,
            "--set",
            *SMALL,
            f"model.norm={norm}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = {r["section"]: r for r in json.loads(out.read_text())["results"]}
    assert set(results) == {
        "forward",
        "detect",
        "criterion",
        "step",
        "train",
        "inference",
        "loader",
        "evaluate",
        "losses",
        "assign",
        "rank_sort",
        "statistics",
    }
    assert all(r["ms"] > 0 and r["peak_mb"] > 0 for r in results.values())
    assert set(results["assign"]["rows"]) >= {"max_iou", "atss(iou='gmaiou')", "brute force"}
    assert results["losses"]["relative"].keys() >= {"bce", "dice", "lovasz(kind='softmax')"}


def test_an_unknown_config_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", "--config", "yolact_bass"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "yolact_base" in done.stderr and len(done.stderr.strip().splitlines()) == 1
