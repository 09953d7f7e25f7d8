"""Write a model for another runtime, and compare it with torch.

    yolact export RUN --format onnx --nms --out model.onnx

onnx          by torch's dynamo exporter, opset 20; runs in ONNX Runtime without torch
openvino      an .xml file with a .bin beside it, for Intel's runtime
torch-export  a .pt2 file of torch.export
safetensors   the weights alone, with config and class names, which RUN of every program may be

RUN is a run's folder, weights, or 'latest'. Without --nms, the graph ends at the network's output.
Beside the file, FILE.parity.txt keeps how closely it agrees: on the validation images, or on noise
where they are not there. key=value behind RUN changes the config, as eval.max_dets=20 does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolact.cli import SETTING, Arguments, run, say

if TYPE_CHECKING:
    from yolact.engine.load import Opened

FORMATS = ("onnx", "openvino", "torch-export", "safetensors")
USE = {
    "onnx": "onnxruntime.InferenceSession({name!r}).run(None, {{'images': images}})",
    "openvino": "openvino.Core().compile_model({name!r}, 'CPU')",
    "torch-export": "torch.export.load({name!r}).module()",
    "safetensors": "yolact predict {name} photo.jpg",
}
WITH_NMS = "python examples/onnx_predict.py {name} photo.jpg"  # of one image at a time


def _export(args: argparse.Namespace) -> None:
    from yolact.engine.load import open_model
    from yolact.export.write import (
        SUFFIXES,
        metadata,
        need_packages,
        write_card,
        write_safetensors,
    )
    from yolact.study.card import weights_quality

    suffix = SUFFIXES[args.format]
    if args.out.suffix != suffix or args.out.is_dir():
        raise ValueError(f"{args.out}: name a file that ends in {suffix}, as --format asks for")
    wrong = [word for word in args.overrides if not SETTING.match(word)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is neither a flag nor key=value")
    _refuse_flags(args)
    need_packages(args.format)
    opened = open_model(args.run, device="cpu", config=args.config, overrides=args.overrides)
    say(opened.report)
    about = metadata(opened.predictor.cfg, f"{opened.weights}, step {opened.step}")
    if args.format == "safetensors":
        state = opened.predictor.model.state_dict()
        write_safetensors(args.out, state, about, half=args.half)
        say(f"{len(state)} tensors in {args.out}")
    else:
        _export_graph(args, opened, about)
    write_card(
        args.out,
        about,
        weights_quality(opened.weights, opened.step),
        _use(args).format(name=args.out.name),
    )
    files = [args.out, *([args.out.with_suffix(".bin")] if args.format == "openvino" else [])]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    say(f"{args.out} takes {megabytes:.1f} MB")


def _use(args: argparse.Namespace) -> str:
    """The command of the card, with {name} for the file's."""
    whole = args.format == "onnx" and args.nms and args.batch == 1
    return WITH_NMS if whole else USE[args.format]


def _refuse_flags(args: argparse.Namespace) -> None:
    """ValueError for flags that a format has no place for."""
    if args.format == "safetensors" and args.batch > 1:
        raise ValueError("--batch: safetensors holds weights, and no graph: leave it out")
    if args.format == "safetensors" and (args.nms or args.dcn):
        flag = "--nms" if args.nms else "--dcn"
        raise ValueError(f"{flag}: safetensors holds weights, and no graph: leave it out")
    if args.format == "torch-export" and args.half:
        raise ValueError(
            "--half: torch-export keeps weights as they are computed with: leave it out, or use "
            "--format onnx"
        )


def _export_graph(args: argparse.Namespace, opened: Opened, about: dict[str, str]) -> None:
    from yolact.dcn import DeformConv2d
    from yolact.export import parity
    from yolact.export.graphs import Detector, Network
    from yolact.export.write import write_onnx, write_openvino, write_torch_export
    from yolact.files import write_whole

    predictor = opened.predictor
    deformable = any(isinstance(module, DeformConv2d) for module in predictor.model.modules())
    if args.dcn == "deformconv" and not deformable:
        raise ValueError("--dcn deformconv: this model has no deformable layers: leave it out")
    kind = Detector if args.nms else Network
    graph = kind(predictor.model, predictor.cfg, args.dcn or "grid_sample")
    images = args.batch, predictor.cfg.model.max_size
    about["batch"] = str(args.batch)
    if args.format == "onnx":
        write_onnx(args.out, graph, images, about, half=args.half)
        theirs, runtime = parity.onnx_run(args.out)
    elif args.format == "openvino":
        write_openvino(args.out, graph, images, about, half=args.half)
        theirs, runtime = parity.openvino_run(args.out)
    else:
        write_torch_export(args.out, graph, images, about)
        theirs, runtime = parity.torch_run(args.out)
    if args.batch > 1:
        theirs = parity.repeated(theirs, graph.outputs, args.batch)
    table = parity.check(predictor, graph, theirs, runtime, images=args.images).table()
    say(f"outputs: {', '.join(graph.outputs)}")
    print(table)
    write_whole(args.out.with_name(f"{args.out.name}.parity.txt"), table + "\n")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder, weights, 'latest', or hub:NAME")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--nms", action="store_true", help="the graph holds Fast NMS and masks, padded to max_dets"
    )
    parser.add_argument(
        "--half", action="store_true", help="weights in half precision, computed in float32"
    )
    parser.add_argument(
        "--dcn",
        choices=("grid_sample", "deformconv"),
        help="deformable layers by operators that every runtime has (default), or by DeformConv",
    )
    parser.add_argument(
        "--batch", type=_count, default=1, help="images at a time, a fixed number (default 1)"
    )
    parser.add_argument(
        "--images", type=_count, default=20, help="validation images to compare on (default 20)"
    )
    parser.add_argument("--config", help="name or file, where neither run nor weights say it")
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_export, parser.parse_intermixed_args(argv))
