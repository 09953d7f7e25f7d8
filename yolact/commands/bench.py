"""Time and peak memory of training, inference, loading and evaluation, as a table and as JSON.

    python scripts/bench.py                                        every section on yolact_base
    python scripts/bench.py forward step --config yolact_plus_base --device cuda
    python scripts/bench.py forward detect criterion step --against PATH
        the same work on a checkout of the original code
    python scripts/bench.py forward inference --against onnxruntime,openvino,torchvision
        our network in other runtimes, and Mask R-CNN of torchvision from pixels to masks

forward     model(image), one image, and the class scores; detail: GFLOP, and the share in % of
            what a convolution that suits the machine reaches (peak)
detect      NMS, masks and re-scoring to 640x480, from class scores
criterion   losses forward and backward, two images
step        forward, criterion, backward, optimiser, two images
batches     forward of 1, 8 and 16 images, as predicted with: eager, compiled, and on CUDA from a
            graph; rows: milliseconds, images a second and share of the peak of the fastest, what
            compiling takes, and the images after which it pays
train       a real training step, stage by stage
loader      images a second out of the training loader; rows: milliseconds of processor time of a
            training sample on one thread, by the size of the picture and where colours change
inference   a picture from file pixels to masks, by stage
evaluate    images a second through evaluation and COCOeval
losses      criterion with each mask loss, as a multiple of its time with bce
assign      anchor assignment of one image with 8 and with 100 objects by every assigner, and by
            brute force
statistics  mask AP of two runs on 2,000 resamples: 200 images of 1 class; with --seconds 1 or more
            also 5,000 of 80 (seconds)
rank_sort   Rank & Sort loss and its gradient, 200 positives among 20,000 logits; detail:
            milliseconds among 1.6 million

The first four run in a process of their own each, in turn with the original's where --against is
given, so that a drift of the machine's speed falls on both. The ratio column is ours / other, what
stands behind the row; others run in float32, whatever --precision says. The softmax of class logits
counts in forward on both sides. They use the same weights (drawn by name), pictures and targets.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from data.resolve import load_config
from yolact.benchmarks.against import RUNTIMES, lacks
from yolact.cli import Arguments, one_line, say

ROOT = Path(__file__).resolve().parents[2]
PAIRED = ("forward", "detect", "criterion", "step")
OWN = (
    "batches",
    "train",
    "inference",
    "loader",
    "evaluate",
    "losses",
    "assign",
    "rank_sort",
    "statistics",
)


def command_line(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The words of the command line, checked."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"any of {', '.join(PAIRED + OWN)}; default all",
    )
    parser.add_argument(
        "--config", default="yolact_base", help="config name or file, several separated by commas"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="config overrides"
    )
    parser.add_argument(
        "--against",
        metavar="WHAT",
        help="any of onnxruntime, openvino, torchvision, and a checkout of the original YOLACT "
        "code that runs on the installed torch, separated by commas",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu or cuda (the paired sections with --against run on cpu)",
    )
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = torch's choice")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="measuring time of each section and turn"
    )
    parser.add_argument("--turns", type=int, default=2, help="how often each paired section is run")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--worker", choices=PAIRED + OWN, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    unknown = set(args.sections) - set(PAIRED + OWN)
    if unknown:
        parser.error(
            f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(PAIRED + OWN)}"
        )
    args.runtimes, args.original = split_against(parser, args)
    return args


def split_against(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[list[str], str | None]:
    """The runtimes and the checkout that --against names."""
    named = [word for word in (args.against or "").split(",") if word]
    runtimes = [word for word in named if word in RUNTIMES]
    checkouts = [word for word in named if word not in RUNTIMES]
    if named and args.device != "cpu":
        parser.error("--against compares on the CPU")
    if len(checkouts) > 1 or any(not (Path(c) / "yolact.py").is_file() for c in checkouts):
        parser.error(
            f"--against takes {', '.join(RUNTIMES)} and one folder with the original's yolact.py; "
            f"got {', '.join(checkouts)}"
        )
    if checkouts and args.set:
        parser.error("--against PATH compares unchanged configs")
    return runtimes, checkouts[0] if checkouts else None


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    args = command_line(argv)
    if args.worker:
        from yolact.benchmarks.sections import run_section

        print(json.dumps(run_section(args)))
        return 0
    try:
        for config in args.config.split(","):
            load_config(config, args.set, check_names=False)
    except (ValueError, OSError) as error:
        say(f"error: {one_line(error)}", error=True)
        return 2
    return orchestrate(args)


def orchestrate(args) -> int:
    results = []
    print(
        f"{'config':<24}{'section':<12}{'ms':>10}{'other':>10}{'ratio':>7}{'MB':>8}"
        f"{'other':>10}   device: {device_label(args)}"
    )
    for config in args.config.split(","):
        # workers run in a folder of their own
        config = str(Path(config).resolve()) if Path(config).is_file() else config
        for section in args.sections or PAIRED + OWN:
            for row in measured(config, section, args):
                results.append(row)
                print(line(row), flush=True)
    if args.json:
        args.json.write_text(
            json.dumps(
                {"device": device_label(args), "precision": args.precision, "results": results},
                indent=1,
            )
            + "\n"
        )
    return 0


def measured(config: str, section: str, args: argparse.Namespace) -> list[dict]:
    """The figures of a section: a row for ours, with the original's, and a row for each runtime.
    All take turns."""
    original = args.original if section in PAIRED else None
    runtimes = [name for name in args.runtimes if RUNTIMES[name][1] == section]
    for name in runtimes:
        if lacks(name):
            print(f"  {name} left out ({lacks(name)})", flush=True)
    others: dict[str, list[dict]] = {name: [] for name in runtimes if not lacks(name)}
    ours, theirs = [], []
    for _ in range(args.turns if section in PAIRED or others else 1):
        ours.append(call(own_words(section, config, args)))
        same = ["--config", config, "--seconds", str(args.seconds)]
        same += ["--threads", str(args.threads or ours[-1]["threads"])]
        if original:
            where = ["--checkout", str(Path(original).resolve()), "--section", section]
            theirs.append(call(["yolact.benchmarks.original", *where, *same]))
        for name, runs in others.items():
            words = ["--runtime", name, *same, "--set", *args.set]
            runs.append(call(["yolact.benchmarks.runtimes", *words]))
    # ours alone runs at --precision
    plain = "" if args.precision == "float32" else " in float32"
    rows = [figures(config, section, ours, theirs)]
    if theirs:
        rows[0]["against"] = f"original{plain}"
    for name, runs in others.items():
        row = figures(config, section, ours, runs)
        rows.append({**row, "detail": {}, "rows": {}, "against": f"{name}{plain}"})
    return rows


def own_words(section: str, config: str, args: argparse.Namespace) -> list[str]:
    """A process that times a section of ours, as call() takes it."""
    words = ["yolact.commands.bench", "--worker", section, "--config", config]
    words += ["--device", args.device, "--precision", args.precision]
    words += ["--threads", str(args.threads), "--seconds", str(args.seconds)]
    return [*words, "--set", *args.set]


def call(arguments: list[str]) -> dict:
    """Run a module's program() in a fresh process and an empty folder; its last line's JSON."""
    module, *words = arguments
    start = f"import sys; sys.path[0] = {str(ROOT)!r}"
    code = f"{start}; from {module} import program; sys.exit(program())"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folder
        )
    if done.returncode:
        raise SystemExit(f"error: {' '.join(arguments[:5])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def figures(config: str, section: str, ours: list[dict], theirs: list[dict]) -> dict:
    result = {
        "config": config,
        "section": section,
        **{k: v for k, v in ours[-1].items() if k != "times"},
    }
    if "times" in ours[0]:
        result["ms"] = 1e3 * median(t for run in ours for t in run["times"])
    if theirs:
        result["other_ms"] = 1e3 * median(t for run in theirs for t in run["times"])
        result["ratio"] = result["ms"] / result["other_ms"]
        result["other_peak_mb"] = max(run["peak_mb"] for run in theirs)
    return result


def line(result: dict) -> str:
    cells = [f"{result['config']:<24}{result['section']:<12}"]
    for key, width, digits in (
        ("ms", 10, 1),
        ("other_ms", 10, 1),
        ("ratio", 7, 2),
        ("peak_mb", 8, 0),
        ("other_peak_mb", 10, 0),
    ):
        cells.append(f"{result[key]:>{width}.{digits}f}" if key in result else " " * width)
    if "relative" in result:
        return "".join(cells) + "".join(
            f"\n  {ratio:6.2f}x  {loss}" for loss, ratio in result["relative"].items()
        )
    detail = "   ".join(
        f"{name} {value:.{1 if value >= 10 else 2}f}"
        for name, value in result.get("detail", {}).items()
    )
    rows = [
        f"\n  {name:<36}" + "".join(f"{column} {value:10.2f}   " for column, value in row.items())
        for name, row in result.get("rows", {}).items()
    ]
    if "ratio" in result:
        detail = f"{result['against']}, {result['threads']} threads   {detail}"
    return "".join(cells) + ("   " + detail if detail else "") + "".join(rows)


def device_label(args) -> str:
    if args.device == "cpu":
        return f"CPU, {args.threads or 'default'} threads"
    import torch

    return torch.cuda.get_device_name(args.device)
