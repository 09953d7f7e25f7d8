"""Exported graphs: the same numbers as detection in torch, in the graph and in ONNX Runtime."""

import itertools
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.resolve import load_config
from data.transforms import normalize
from tests.yolact.engine.oracle import config, write_set
from yolact import dcn
from yolact.build import build_model
from yolact.carafe import Carafe, reassemble, reassemble_plainly
from yolact.checkpoint import save_checkpoint
from yolact.commands import export
from yolact.commands.export import program
from yolact.commands.predict import program as predict
from yolact.engine.train import train
from yolact.export.graphs import Detector, Network, exportable
from yolact.export.parity import repeated, same_detections
from yolact.export.write import metadata, write_card
from yolact.outputs import Detections
from yolact.postprocess import detect
from yolact.study.card import weights_quality
from yolact.testing import tiny

MEANS = itertools.count(100)
EXAMPLE = Path(__file__).parents[3] / "examples" / "onnx_predict.py"
TINY = (
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.max_size=64",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
    "model.mask_iou_net=false",
    "eval.max_dets=6",
    "eval.score_threshold=0",
)


def lively(cfg, seed=0):
    """A model whose deformable layers move, and whose masks are neither empty nor full."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, dcn.DeformConv2d):
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.05)
        if isinstance(module, Carafe):
            torch.nn.init.normal_(module.content_encoder.weight, std=0.2)
    torch.nn.init.normal_(model.prediction_layers[0].mask_layer.weight, std=0.1)
    return model


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4)])
def test_plain_deformable_layers_give_torchvisions_numbers(stride, groups):
    torch.manual_seed(0)
    layer = dcn.DeformConv2d(8, 6, stride=stride, groups=groups, backend="torchvision")
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.3)
    x = torch.randn(2, 8, 11, 9)
    with torch.no_grad():
        expected = layer(x)
        layer.backend = "plain"
        assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_plain_carafe_gives_the_same_numbers(size):
    torch.manual_seed(0)
    x, kernels = torch.randn(2, 6, *size), torch.randn(2, 100, *size)
    assert torch.allclose(reassemble_plainly(x, kernels), reassemble(x, kernels), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("eval.max_dets=300", "eval.top_k=3"),  # more places than candidates
        # room for an anchor's other class, below the threshold
        ("eval.score_threshold=0.55", "eval.iou_threshold=0.5", "eval.max_dets=400"),
        ("eval.crop=false", "loss.classification=focal"),
        ("eval.masks=published",),
        ("eval.masks=published", "eval.crop=false"),
        ("model.max_size=256", "model.mask_iou_net=true", "model.fpn_upsample=carafe"),
    ],
)
def test_the_graph_with_nms_finds_what_detection_finds(tmp_path, changes):
    cfg = load_config(
        "yolact_plus_tiny", [*TINY, "data.class_names=[red,green]", *changes], check_names=False
    )
    model, e = lively(cfg), cfg.eval
    side = cfg.model.max_size
    images = 255 * torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = Detector(model, cfg)(images)
        predictions = model(normalize(images, cfg.model.pixel_mean, cfg.model.pixel_std))
    expected = detect(
        predictions,
        [(side, side)] * 2,
        mask_iou_net=model.mask_iou_net,
        score_threshold=e.score_threshold,
        iou_threshold=e.iou_threshold,
        top_k=e.top_k,
        max_detections=e.max_dets,
        crop=e.crop,
        masks=e.masks,
    )
    boxes, scores, mask_scores, labels, coefficients, masks, count = outputs
    assert count.tolist() == [len(found) for found in expected]
    assert boxes.shape == (2, e.max_dets, 4) and masks.dtype == torch.uint8
    for i, found in enumerate(expected):
        n = len(found)
        assert torch.equal(labels[i, :n], found.labels)
        assert torch.allclose(scores[i, :n], found.scores, atol=1e-6)
        assert torch.allclose(mask_scores[i, :n], found.mask_scores, atol=1e-6)
        assert torch.allclose(boxes[i, :n], found.boxes, atol=1e-3)
        assert (masks[i, :n].bool() != found.masks).float().mean() < 1e-4
        assert not masks[i, n:].any() and not boxes[i, n:].any() and not scores[i, n:].any()
        assert (labels[i, n:] == -1).all() and not coefficients[i, n:].any()


def test_what_the_graph_does_not_hold_is_refused_by_name():
    cfg = load_config("yolact_plus_tiny", [*TINY, "eval.nms=traditional"], check_names=False)
    with pytest.raises(ValueError, match="eval.nms=traditional cannot be exported"):
        Detector(build_model(cfg), cfg)
    Network(build_model(cfg), cfg)
    with pytest.raises(ValueError, match="grid_sample, deformconv"):
        exportable(build_model(cfg), "mmcv")


def test_pairs_are_found_in_another_order():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    labels, scores = torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.7])
    one = Detections(boxes, labels, scores, scores, torch.zeros(3, 4, 4, dtype=torch.bool))
    order = torch.tensor([2, 1, 0])
    assert sorted(same_detections(one, one.select(order))) == [(0, 2), (1, 1), (2, 0)]
    moved = one.select(torch.tensor([0, 1]))
    moved.boxes = moved.boxes + 5
    assert same_detections(one, moved) == []


# ---------------------------------------------------------------- files


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """model.pth of a small YOLACT++ and the set that its config names."""
    squares = [[(16, 32, 80, 0)], [(8, 8, 64, 1), (160, 40, 48, 0)]]
    write_set(tmp_path, squares, image_ids=[0, 1], category_ids=[1, 2])
    # numbers of this test alone: nothing made while a graph is traced may be found in a cache
    cfg = config(tmp_path, *TINY, f"model.pixel_mean=[{next(MEANS)},116,103]")
    state = lively(cfg).state_dict()
    values = {"format": 1, "model": state, "config": cfg.model_dump()}
    save_checkpoint(tmp_path / "model.pth", values)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model.pth"


def figure(table, name):
    """The first number in a line of a parity table."""
    line = next(line for line in table.splitlines() if line.startswith(name))
    return float(next(w for w in line[24:].split() if w[0].isdigit()).strip(";,"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", [["--nms"], ["--dcn=deformconv"]])
def test_onnx_runtime_agrees_and_the_file_says_what_it_is(weights, capsys, words):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    assert program(["model.pth", "--out=m.onnx", *words]) == 0
    table = Path("m.onnx.parity.txt").read_text()
    assert table in capsys.readouterr().out and "2 images" in table
    assert "12 in torch, 12 here, 12 of them the same" in table
    for name in ("boxes", "scores", "mask scores"):
        assert figure(table, name) < 1e-3
    assert "mask AP" in table and "box AP" in table
    session = runtime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["red", "green"] and about["input_size"] == "64"
    assert "RGB" in about["input"]
    shapes = {output.name: output.shape for output in session.get_outputs()}
    if words == ["--nms"]:
        assert shapes["masks"] == [1, 6, 64, 64] and shapes["count"] == [1]
    else:
        import onnx

        operators = {node.op_type for node in onnx.load("m.onnx").graph.node}
        assert "DeformConv" in operators and "GridSample" not in operators
        assert shapes["prototypes"] == [1, 16, 16, 8]


@pytest.mark.filterwarnings("ignore")
def test_half_weights_take_half_the_place_and_the_example_runs_without_torch(weights, monkeypatch):
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    for name, words in (("whole", []), ("half", ["--half"])):
        assert program(["model.pth", "--nms", f"--out={name}.onnx", *words, "--images=1"]) == 0
    sizes = [Path(f"{name}.onnx").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    example = runpy.run_path(str(EXAMPLE))
    words = ["m", "whole.onnx", "images/1.png", "--out=o.png", "--json=o.json", "--score=0"]
    monkeypatch.setattr(sys, "argv", words)
    example["main"]()
    entries = json.loads(Path("o.json").read_text())
    words = ["model.pth", "images/1.png", "--json=ours.json", "--score=0", "--precision=float32"]
    assert predict(words) == 0
    ours = json.loads(Path("ours.json").read_text())
    assert len(entries) == len(ours) == 6
    for one, other in zip(entries, ours):
        x, y, w, h = other["bbox"]
        assert one["name"] == other["category_name"]
        assert one["score"] == pytest.approx(other["mask_score"], abs=1e-4)
        assert one["box"] == pytest.approx([x, y, x + w, y + h], abs=0.1)
    assert cv2.imread("o.png").shape == (256, 256, 3)
    source = EXAMPLE.read_text()
    assert "torch" not in source.replace("without torch", "") and source.count("\n") < 150


def test_safetensors_are_weights_that_every_program_reads(weights, capsys):
    pytest.importorskip("safetensors")
    words = ["model.pth", "--format=safetensors", "--out=m.safetensors"]
    assert program(words) == 0 and "red, green" in Path("m.safetensors.md").read_text()
    for name in ("model.pth", "m.safetensors"):
        assert predict([name, "images/0.png", f"--json={name}.json", "--device=cpu"]) == 0
    assert Path("model.pth.json").read_text() == Path("m.safetensors.json").read_text()
    whole = Path("m.safetensors").stat().st_size
    assert program([*words, "--half"]) == 0
    assert Path("m.safetensors").stat().st_size < 0.7 * whole
    assert predict(["m.safetensors", "images/0.png", "--json=half.json"]) == 0
    Path("m.safetensors").write_bytes(b"\x08" + bytes(20))
    assert predict(["m.safetensors", "images/0.png", "--json=half.json"]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_torch_export_agrees(weights, capsys):
    assert program(["model.pth", "--format=torch-export", "--nms", "--out=m.pt2"]) == 0
    table = Path("m.pt2.parity.txt").read_text()
    assert "12 in torch, 12 here, 12 of them the same" in table and figure(table, "boxes") < 1e-3


@pytest.mark.parametrize(
    "words, part",
    [
        (["--out=m.pth"], "ends in .onnx"),
        (["--out=m.onnx", "--format=openvino"], "ends in .xml"),
        (["--out=m.onnx", "--batch=0"], "at least 1"),
        (["--out=m.safetensors", "--format=safetensors", "--batch=2"], "--batch"),
        (["--out=m.safetensors", "--format=safetensors", "--nms"], "--nms"),
        (["--out=m.pt2", "--format=torch-export", "--half"], "--half"),
        (
            ["--out=m.pt2", "--format=torch-export", "--nms", "eval.nms=traditional"],
            "eval.nms=traditional",
        ),
        (["--out=m.pt2", "--format=torch-export", "model.dcn_layers=[0,0,0,0]"], "does not fit"),
        (["--out=m.onnx", "nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(weights, capsys, words, part):
    before = sorted(path.name for path in weights.parent.iterdir())
    try:
        code = program(["model.pth", *words])
    except SystemExit as error:  # argparse's
        code = error.code
    message = capsys.readouterr().err
    assert code == 2 and part in message and message.count("\n") == 1
    assert sorted(path.name for path in weights.parent.iterdir()) == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", [["--nms"], []])
def test_openvino_agrees_and_keeps_what_the_file_is(weights, capsys, words):
    for name in ("onnxscript", "openvino"):
        pytest.importorskip(name)
    assert program(["model.pth", "--format=openvino", "--out=m.xml", *words]) == 0
    table = Path("m.xml.parity.txt").read_text()
    assert "openvino" in table and "12 in torch, 12 here, 12 of them the same" in table
    for name in ("boxes", "scores", "mask scores"):
        assert figure(table, name) < 1e-3
    import openvino

    model = openvino.Core().read_model("m.xml")
    assert json.loads(model.get_rt_info(["yolact", "class_names"]).astype(str)) == ["red", "green"]
    whole = Path("m.bin").stat().st_size
    assert program(["model.pth", "--format=openvino", "--out=h.xml", "--half", *words]) == 0
    assert Path("h.bin").stat().st_size < 0.7 * whole


@pytest.mark.filterwarnings("ignore")
def test_several_images_at_a_time(weights):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert program(["model.pth", "--nms", "--batch=3", "--out=m.onnx"]) == 0
    assert "12 of them the same" in Path("m.onnx.parity.txt").read_text()
    session = runtime.InferenceSession("m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, 3, 64, 64]
    assert session.get_modelmeta().custom_metadata_map["batch"] == "3"


@pytest.mark.parametrize(
    "words, example",
    [(["--nms"], True), ([], False), (["--nms", "--batch=3"], False)],
)
def test_a_card_names_the_example_only_where_it_runs(words, example, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "run", lambda _, args: seen.append(args) or 0)
    program(["model.pth", "--out=m.onnx", *words])
    told = export._use(seen[0]).format(name="m.onnx")
    assert ("examples/onnx_predict.py m.onnx" in told) == example
    assert example or "InferenceSession('m.onnx').run(None, {'images': images})" in told


def test_files_of_one_name_keep_a_card_each(tmp_path):
    about = metadata(tiny.config(), "w.pth, step 4")
    for name in ("m.onnx", "m.xml", "m.safetensors"):
        write_card(tmp_path / name, about, "not known", "use it")
        assert (tmp_path / f"{name}.md").read_text().startswith(f"# {name}\n")


def test_images_of_a_batch_that_differ_are_told_by_the_output():
    shared, same, other = np.zeros((5, 4)), np.ones((3, 2)), np.arange(6.0).reshape(3, 2)
    outputs = ("anchors", "boxes", "scores")
    one = repeated(lambda images: [shared, same, same], outputs, 3)(torch.zeros(1, 3, 8, 8))
    assert [value.shape for value in one] == [(5, 4), (1, 2), (1, 2)]
    with pytest.raises(ValueError, match="'scores'.*export without --batch"):
        repeated(lambda images: [shared, same, other], outputs, 3)(torch.zeros(1, 3, 8, 8))


def test_a_card_says_what_the_weights_are_worth(tmp_path, monkeypatch):
    cfg = tiny.config(tiny.write_dataset(tmp_path / "data"), iterations=4, validate_every=2)
    run = train(cfg, device="cpu", run_dir=tmp_path / "run")
    last = [line for line in run.metrics if line["kind"] == "validation"][-1]
    phrase = weights_quality(run / "weights/last.pth", 4)
    assert phrase.startswith(f"mask AP {100 * last['segm']['ap']:.2f} (")
    assert "95 % over 3 images" in phrase and phrase.endswith("at step 4")
    earlier = weights_quality(run / "weights/best.pth", 2)
    assert "(" not in earlier and earlier.endswith("at step 2")
    assert "no AP of step 3" in weights_quality(run / "weights/last.pth", 3)
    assert "no run" in weights_quality(tmp_path / "m.pth", 4)
    assert "do not say of which" in weights_quality(run / "weights/last.pth", None)
    pytest.importorskip("safetensors")
    assert (
        program([str(run.path), "--format=safetensors", f"--out={tmp_path / 'm.safetensors'}"]) == 0
    )
    card = (tmp_path / "m.safetensors.md").read_text()
    assert "mask AP" in card and "4 steps of 4 images" in card and "disc, bar" in card


def test_a_missing_package_is_named(weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert program(["model.pth", "--out=m.onnx"]) == 2
    message = capsys.readouterr().err
    assert "package onnx" in message and "yolact-loss-lab[export]" in message


def test_weights_too_large_for_half_precision_are_refused(weights, capsys):
    pytest.importorskip("safetensors")
    content = torch.load("model.pth", weights_only=True)
    content["model"]["proto_net.0.weight"][0, 0] = 1e6
    save_checkpoint(weights, content)
    words = ["model.pth", "--format=safetensors", "--out=m.safetensors", "--half"]
    assert program(words) == 2 and "proto_net.0.weight" in capsys.readouterr().err
    assert not Path("m.safetensors").exists()
