"""scripts/bench.py runs every section, on a small config with and on one without an original
counterpart."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from data.cigarettes.generate import generate
from yolact.benchmarks import batches, pictures, runtimes, sections
from yolact.benchmarks.against import lacks
from yolact.benchmarks.flops import gflop
from yolact.commands import bench
from yolact.commands.bench import OWN, PAIRED, command_line, figures
from yolact.dcn import DeformConv2d
from yolact.model import Yolact

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
    monkeypatch.setattr(batches, "BATCHES", (1, 2))
    compiled = partial(torch.compile, backend="eager")  # the default takes minutes
    monkeypatch.setattr(torch, "compile", compiled)
    words = ["--worker", section, "--config", "yolact_small", "--seconds", "0.01"]
    result = sections.run_section(command_line([*words, "--set", *SMALL]))
    found = figures("yolact_small", section, [result], [])
    assert found["ms"] > 0 and found["peak_mb"] > 0
    if section == "forward":
        assert 0.01 < found["detail"]["GFLOP"] < 1
        assert 0 < found["detail"]["% of peak"] < 200 and found["detail"]["peak GFLOP/s"] > 0
    if section == "assign":
        assert set(found["rows"]) >= {"max_iou", "atss(iou='gmaiou')", "brute force"}
    if section == "loader":
        assert found["rows"].keys() == {"96 px", "photos"}
        assert all(
            row.keys() == pictures.SETTINGS.keys() and min(row.values()) > 0
            for row in found["rows"].values()
        )
    if section == "batches":
        assert found["rows"].keys() == {"batch 1", "batch 2"}
        for row in found["rows"].values():
            assert row["compile s"] > 0 < row["compiled ms"] and "graph ms" not in row
            assert ("pays from" in row) == (row["compiled ms"] < row["eager ms"])
    if section == "losses":
        assert found["relative"].keys() >= {"bce", "dice", "lovasz(kind='softmax')"}


@pytest.mark.parametrize(
    "section, precision, nhwc",
    [
        ("forward", "bf16", True),
        ("step", "bf16", True),
        ("train", "bf16", True),
        ("step", "float32", False),
    ],
)
def test_half_types_are_timed_in_the_layout_that_trains_and_predicts(
    section, precision, nhwc, monkeypatch
):
    monkeypatch.setattr(sections, "generate", lambda *a, **k: generate(*a, **{**k, "size": 128}))
    seen = []

    def look(module, inputs):
        if isinstance(module, Yolact):
            weights = next(w for w in module.parameters() if w.ndim == 4 and w.shape[1] > 3)
            seen.extend(
                x.is_contiguous(memory_format=torch.channels_last) for x in (inputs[0], weights)
            )

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    words = ["--worker", section, "--config", "yolact_small", "--seconds", "0.01"]
    try:
        sections.run_section(command_line([*words, "--precision", precision, "--set", *SMALL]))
    finally:
        hook.remove()
    assert seen[:2] == [nhwc, nhwc]


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


def test_what_is_not_installed_is_left_out_with_the_reason(monkeypatch, capsys):
    """Threads stand beside a ratio; turns go to what is there."""
    called = []

    def call(words):
        called.append(words[0])
        return {"times": [0.1 * len(words[0])], "peak_mb": 1.0, "threads": 2}

    monkeypatch.setattr(bench, "call", call)
    monkeypatch.setattr(bench, "lacks", lambda name: "gone" if name == "openvino" else "")
    args = command_line(["forward", "--against", "onnxruntime,openvino", "--turns", "2"])
    own, other = bench.measured("quickstart", "forward", args)
    assert called == ["yolact.commands.bench", "yolact.benchmarks.runtimes"] * 2
    assert "openvino left out (gone)" in capsys.readouterr().out and "ratio" not in own
    assert other["ratio"] == pytest.approx(21 / 26) and "onnxruntime, 2 threads" in bench.line(
        other
    )
    assert bench.measured("quickstart", "detect", args)[1:] == []
    assert {"other_ms", "other_peak_mb"} < other.keys() and other["against"] == "onnxruntime"
    args = command_line(["forward", "--against", "onnxruntime", "--precision", "bf16"])
    other = bench.measured("quickstart", "forward", args)[1]
    assert "onnxruntime in float32, 2 threads" in bench.line(other)


@pytest.mark.parametrize("words", [["nonsense"], ["a,b"], ["onnxruntime", "--device", "cuda"]])
def test_a_wrong_against_is_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line(["forward", "--against", *words])
    assert ended.value.code == 2 and "--against" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnxruntime", "torchvision"])
def test_a_runtime_is_timed(name, capsys):
    if lacks(name):
        pytest.skip(lacks(name))
    words = ["--runtime", name, "--config", "yolact_small", "--seconds", "0.01", "--threads", "1"]
    assert runtimes.program([*words, "--set", *SMALL]) == 0
    timed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert min(timed["times"]) > 0 and timed["peak_mb"] > 0


def test_operations_are_counted_as_two_for_each_product():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Flatten())
    assert gflop(network, 8) == pytest.approx(2 * 3 * 5 * 9 * 64 / 1e9)


@pytest.mark.parametrize("backend", ["grid_sample", "torchvision"])
def test_operations_of_deformable_convolutions_do_not_depend_on_who_computes_them(backend):
    network = DeformConv2d(3, 5, backend=backend)
    products = 27 * 3 * 9 + 5 * 3 * 9  # of offsets and masks, and of the convolution, at a place
    assert gflop(network, 8) == pytest.approx(2 * products * 64 / 1e9)
    assert network.backend == backend
