"""Writes graphs and weights in the formats of other runtimes, whole or not at all."""

from __future__ import annotations

import importlib
import json
import os
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
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
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
                'pip install "yolact-loss-lab[export]"'
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
    path: Path, graph: Network | Detector, side: int, about: dict[str, str], *, half: bool
) -> None:
    """The graph by torch's dynamo exporter, for one image of side x side. half: weights are kept in
    half precision, and are cast to float32 before they are used."""
    import onnx

    for module in graph.modules():
        if isinstance(module, DeformConv2d) and module.backend == "torchvision":
            if not hasattr(torch.onnx, "ops"):
                raise ValueError(
                    f"--dcn deformconv needs torch 2.8, and this is {torch.__version__}: use "
                    "--dcn grid_sample"
                )
            module.backend = "onnx"
    images = torch.zeros(1, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            graph.eval(),
            (images,),
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
    path: Path, graph: Network | Detector, side: int, about: dict[str, str]
) -> None:
    """The graph by torch.export, with what it says of itself in metadata.json."""
    images = torch.zeros(1, 3, side, side)
    with torch.no_grad():
        program = torch.export.export(graph.eval(), (images,))
    files = {"metadata.json": json.dumps(about)}
    _write_whole(path, lambda partial: torch.export.save(program, partial, extra_files=files))


def write_safetensors(
    path: Path, state: dict[str, Tensor], about: dict[str, str], *, half: bool
) -> None:
    """The weights under the names of the official checkpoints, and a model card beside them."""
    from safetensors.torch import save_file

    tensors = {}
    for name, value in state.items():
        if half and value.dtype == torch.float32:
            _refuse_overflow(name, float(value.abs().max()) if value.numel() else 0.0)
            value = value.half()
        tensors[name] = value.detach().cpu().contiguous().clone()
    _write_whole(path, lambda partial: save_file(tensors, partial, metadata=about))
    write_whole(path.with_suffix(".md"), _card(path.name, about))


def _card(name: str, about: dict[str, str]) -> str:
    """What a reader of the weights must know, in Markdown."""
    config = json.loads(about["config"])
    lines = [
        f"# {name}",
        f"- model: YOLACT, config `{config['name']}`, backbone {config['model']['backbone']}",
        f"- trained on: {config['data']['name']}",
        f"- classes: {', '.join(json.loads(about['class_names']))}",
        f"- input: {about['input_size']} x {about['input_size']}",
        f"- weights: {about['weights']}",
        f"- written by yolact-loss-lab {about['yolact']}",
        f"\nUse it: `yolact predict {name} photo.jpg`",
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
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
