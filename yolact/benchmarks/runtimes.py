"""One timing of bench.py --against on another runtime: our network in ONNX Runtime or OpenVINO, or
torchvision's Mask R-CNN; run by bench.py in a process of its own."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from data.resolve import load_config
from data.schema import Config
from yolact.benchmarks import inputs
from yolact.benchmarks.timing import peak_memory_mb, time_calls


def program(argv: Sequence[str] | None = None) -> int:
    """Times one runtime; the result is one line of JSON on stdout."""
    parser = argparse.ArgumentParser()
    for name in ("runtime", "config", "seconds", "threads"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--set", nargs="*", default=[])
    args = parser.parse_args(argv)
    threads = int(args.threads)
    torch.set_num_threads(threads)
    cfg = load_config(args.config, [*args.set, "model.pretrained=none"])
    with tempfile.TemporaryDirectory() as folder:
        work = {"onnxruntime": _onnxruntime, "openvino": _openvino, "torchvision": _mask_rcnn}[
            args.runtime
        ](cfg, Path(folder), threads)
        times = time_calls(work, float(args.seconds))
    print(json.dumps({"times": times, "peak_mb": peak_memory_mb()}))
    return 0


def _exported(cfg: Config, folder: Path) -> str:
    """Our network with its weights, as `yolact export` writes it, without detection."""
    from yolact.build import build_model
    from yolact.export.graphs import Network
    from yolact.export.write import metadata, write_onnx

    path = folder / "network.onnx"
    graph = Network(build_model(cfg).eval(), cfg)
    write_onnx(path, graph, (1, cfg.model.max_size), metadata(cfg, "random"), half=False)
    return str(path)


def _onnxruntime(cfg: Config, folder: Path, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        _exported(cfg, folder), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: inputs.images(1, cfg.model.max_size)}
    return lambda: _scores(cfg, session.run(None, feed)[1])


def _openvino(cfg: Config, folder: Path, threads: int) -> Callable[[], object]:
    import openvino

    # left alone, it takes bf16 where the processor multiplies that
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(_exported(cfg, folder), "CPU", settings)
    pixels = inputs.images(1, cfg.model.max_size)
    return lambda: _scores(cfg, compiled([pixels])[1])


def _scores(cfg: Config, logits: np.ndarray) -> torch.Tensor:
    """Class scores, which count in our forward too."""
    values = torch.from_numpy(np.asarray(logits))
    return values.softmax(-1) if logits.shape[-1] > cfg.num_classes else values.sigmoid()


def _mask_rcnn(cfg: Config, folder: Path, threads: int) -> Callable[[], object]:
    """ResNet-50-FPN Mask R-CNN, random weights, on a picture of 640 x 480 at torchvision's own
    input size."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=1 + cfg.num_classes
    ).eval()
    picture = torch.from_numpy(inputs.images(1, 640)[0, :, :480]).sigmoid()

    def work() -> object:
        with torch.no_grad():
            return model([picture])

    return work
