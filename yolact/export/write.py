"""Writes graphs and weights in the formats of other runtimes, whole or not at all."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.schema import Config
from yolact import __version__
from yolact.dcn import DeformConv2d
from yolact.export.graphs import Detector, Network
from yolact.files import write_whole, writing

OPSET = 20  # GridSample is 'linear' from 20 on, DeformConv comes with 19
SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
    "safetensors": ".safetensors",
}
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch-export": (),
    "safetensors": ("safetensors",),
}
LARGEST_HALF = 65504.0
INPUT = (
    "images: float32 RGB, 0..255, resized to the input size bilinearly with half-pixel centres, "
    "without antialias and without keeping the ratio of sides; normalised inside"
)


def need_packages(kind: str) -> None:
    """ValueError where a format's packages are not installed."""
    for name in PACKAGES[kind]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"--format {kind} needs the package {name} ({error}): "
                f'pip install "yolact-loss-lab[{"openvino" if name == "openvino" else "export"}]"'
            ) from error


def metadata(cfg: Config, weights: str) -> dict[str, str]:
    """What a file says of itself; lists and objects as JSON."""
    return {
        "class_names": json.dumps(list(cfg.data.class_names)),
        "label_map": json.dumps(cfg.data.label_map),
        "input_size": str(cfg.model.max_size),
        "input": INPUT,
        "eval": cfg.eval.model_dump_json(),
        "config": cfg.model_dump_json(),
        "weights": weights,
        "yolact": __version__,
    }


def write_onnx(
    path: Path,
    graph: Network | Detector,
    images: tuple[int, int],
    about: dict[str, str],
    *,
    half: bool,
) -> None:
    """The graph by torch's dynamo exporter, for images = (batch, side): so many of side x side at a
    time. half: weights are kept in half precision, and are cast to float32 before they are used."""
    import onnx

    for module in graph.modules():
        if isinstance(module, DeformConv2d) and module.backend == "torchvision":
            if not hasattr(torch.onnx, "ops"):
                raise ValueError(
                    f"--dcn deformconv needs torch 2.8, and this is {torch.__version__}: use "
                    "--dcn grid_sample"
                )
            module.backend = "onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            graph.eval(),
            (_blank(images),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert program is not None, "torch.onnx.export with dynamo returns a program"
    model = program.model_proto
    if half:
        _halve(model)
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    _write_whole(path, lambda partial: onnx.save(model, str(partial)))


def _blank(images: tuple[int, int]) -> Tensor:
    batch, side = images
    return torch.zeros(batch, 3, side, side)


def write_openvino(
    path: Path,
    graph: Network | Detector,
    images: tuple[int, int],
    about: dict[str, str],
    *,
    half: bool,
) -> None:
    """The graph as OpenVINO's intermediate representation: path (.xml) and the weights in a .bin of
    the same name beside it. By way of ONNX, in a folder that is removed. images, half: as of
    write_onnx()."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        way = Path(folder) / "graph.onnx"
        write_onnx(way, graph, images, about, half=False)
        model = openvino.convert_model(way)
        for key, value in about.items():
            model.set_rt_info(value, ["yolact", key])
        made = Path(folder) / "graph.xml"
        openvino.save_model(model, made, compress_to_fp16=half)
        weights = made.with_suffix(".bin").read_bytes()
        _write_whole(path.with_suffix(".bin"), lambda partial: partial.write_bytes(weights))
        text = made.read_text(encoding="utf-8")
        _write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _halve(model: Any) -> None:
    """Replaces the float32 weights of an ONNX model by half ones with a cast behind each."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        values = numpy_helper.to_array(weight)
        _refuse_overflow(weight.name, float(np.abs(values).max(initial=0)))
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def write_torch_export(
    path: Path, graph: Network | Detector, images: tuple[int, int], about: dict[str, str]
) -> None:
    """The graph by torch.export, with what it says of itself in metadata.json. images: as of
    write_onnx()."""
    with torch.no_grad():
        program = torch.export.export(graph.eval(), (_blank(images),))
    files = {"metadata.json": json.dumps(about)}
    _write_whole(path, lambda partial: torch.export.save(program, partial, extra_files=files))


def write_safetensors(
    path: Path, state: dict[str, Tensor], about: dict[str, str], *, half: bool
) -> None:
    """The weights under the names of the official checkpoints."""
    from safetensors.torch import save_file

    tensors = {}
    for name, value in state.items():
        if half and value.dtype == torch.float32:
            _refuse_overflow(name, float(value.abs().max()) if value.numel() else 0.0)
            value = value.half()
        tensors[name] = value.detach().cpu().contiguous().clone()
    _write_whole(path, lambda partial: save_file(tensors, partial, metadata=about))


def write_card(path: Path, about: dict[str, str], quality: str, command: str) -> None:
    """A model card beside an exported file, FILE.md: the model, its data and classes, its quality
    as one phrase, and the command that uses the file."""
    write_whole(path.with_name(f"{path.name}.md"), _card(path.name, about, quality, command))


def _card(name: str, about: dict[str, str], quality: str, command: str) -> str:
    config = json.loads(about["config"])
    lines = [
        f"# {name}",
        f"- model: YOLACT, config `{config['name']}`, backbone {config['model']['backbone']}",
        f"- trained on: {config['data']['name']}",
        f"- classes: {', '.join(json.loads(about['class_names']))}",
        f"- input: {about['input_size']} x {about['input_size']}",
        f"- weights: {about['weights']}",
        f"- quality: {quality}",
        f"- losses: box {config['loss']['box']}, class {config['loss']['classification']}, mask "
        f"{config['loss']['mask']}",
        f"- training: {config['train']['iterations']} steps of {config['train']['batch_size']} "
        f"images, seed {config['train']['seed']}",
        f"- written by yolact-loss-lab {about['yolact']}",
        f"\nUse it: `{command}`",
    ]
    return "\n".join(lines) + "\n"


def _refuse_overflow(name: str, largest: float) -> None:
    if largest > LARGEST_HALF:
        raise ValueError(
            f"--half: {name} holds {largest:g}, and half precision ends at {LARGEST_HALF:g}: "
            "export without --half"
        )


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    # with the suffix at the end, which torch.export asks for
    partial = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            partial.chmod(0o644 & ~_umask())  # some libraries write private files
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
