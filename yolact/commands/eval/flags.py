"""What eval.py can be told: its flags, and what they mean together."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from yolact import cli, legacy_flags
from yolact.commands.eval.found_flags import FILES, SCORE, TOP_K, add_found_flags, check_track
from yolact.run_files import BOX_DETECTIONS, MASK_DETECTIONS

DESCRIPTION = """Box and mask AP of a model on its validation set, or pictures of what it finds.

AP table, COCO's numbers; time per stage:
  python eval.py --trained_model=runs/quickstart/1
  python eval.py --trained_model=yolact_base_54_800000.pth --benchmark
Pictures, also --images=in_folder:out_folder; videos, also --video=0 for camera 0, in a window:
  python eval.py --trained_model=WEIGHTS.pth --image=in.jpg:out.jpg
  python eval.py --trained_model=WEIGHTS.pth --video=in.mp4:out.mp4
Beside the pictures, what is found as data: --json FILE, --masks DIR, --crops DIR, --csv FILE."""


def parser() -> cli.Parser:
    flags = cli.Parser(
        usage="%(prog)s --trained_model=PATH [--image | --images | --video | --display | "
        "--benchmark] [flags] [key=value ...]",
        description=DESCRIPTION,
    )
    flags.add_argument(
        "--trained_model",
        metavar="PATH",
        help="a .pth file, a run's folder (its best.pth), 'latest', or hub:NAME, official weights",
    )
    flags.add_argument(
        "--config",
        help="name or file (default: that of the run, in the checkpoint, or of the official file "
        "name)",
    )
    flags.add_argument("--device", help=cli.DEVICE_HELP)
    flags.switch("--cuda", default=None, help="--cuda=False runs on the CPU")
    flags.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16", "auto"),
        help="of the forward pass (default: eval.precision of the config, or float32); auto takes "
        "what is faster on the device",
    )
    flags.switch(
        "--ema", default=None, help="averaged weights (default: where the checkpoint has them)"
    )
    _what(flags)
    _detection(flags)
    legacy_flags.add(flags, legacy_flags.EVAL)
    return flags


def _what(flags: cli.Parser) -> None:
    flags.add_argument(
        "--image",
        nargs="+",
        metavar="IN[:OUT]",
        help="draw one picture, also as two words: --image IN OUT",
    )
    flags.add_argument(
        "--images", nargs="+", metavar="IN:OUT", help="draw every picture of a folder into another"
    )
    flags.add_argument(
        "--video",
        nargs="+",
        metavar="IN[:OUT]",
        help="draw a video or a camera's number, in a window without OUT",
    )
    flags.switch(
        "--display",
        help="validation images beside their ground truth, as pictures in --display_folder",
    )
    flags.add_argument("--display_folder", type=Path, default=Path("results/display"))
    flags.switch("--benchmark", help="time of every stage")
    flags.add_argument(
        "--max_images", type=int, default=0, help="validation images used; 0 or -1 = all"
    )
    flags.switch(
        "--per_class", default=None, help="AP of every class (default: where there are several)"
    )
    flags.switch(
        "--output_coco_json", help="write detections as COCO results, to the two files below"
    )
    flags.switch(
        "--resume",
        help="AP of detections that --output_coco_json wrote; with --config, needs no weights",
    )
    flags.add_argument("--bbox_det_file", type=Path, default=Path(BOX_DETECTIONS))
    flags.add_argument("--mask_det_file", type=Path, default=Path(MASK_DETECTIONS))
    flags.switch("--no_bar", help="no progress bar")


def _detection(flags: cli.Parser) -> None:
    add_found_flags(flags, "--score_threshold")
    for part in ("masks", "bboxes", "text", "scores"):
        flags.switch(
            f"--display_{part}",
            default=True,
            help=f"--display_{part}=False leaves them out of pictures",
        )
    flags.switch("--detect", help="same as --display_masks=False: boxes only in pictures")
    flags.switch(
        "--display_prototypes", help="with --image or --display: also a picture of the K prototypes"
    )
    flags.switch(
        "--display_lincomb",
        help="with --image or --display: also how the best three masks are assembled",
    )
    flags.switch("--display_fps", help="write frames/s into a video")
    flags.add_argument("--video_multiframe", type=int, default=1, help="frames in one forward pass")
    flags.switch("--shuffle", help="with --display: a random order of images")
    flags.add_argument("--seed", type=int, help="of --shuffle")


def check_flags(arguments: Namespace) -> None:
    """Notes on flags that have a replacement, ValueError for those that cannot be honoured."""
    legacy_flags.explain(arguments, legacy_flags.EVAL)
    modes = [
        name
        for name in ("image", "images", "video", "display", "benchmark")
        if getattr(arguments, name)
    ]
    if len(modes) > 1:
        raise ValueError(f"--{' and --'.join(modes)}: one at a time")
    pictures = modes and modes != ["benchmark"]
    for name in ("score_threshold", "top_k"):
        if getattr(arguments, name) is not None and not pictures:
            cli.note(
                f"--{name} chooses what pictures show; for the detections behind AP and timing set "
                f"eval.{name}="
            )
    for name in (*FILES, "classes"):
        if getattr(arguments, name) and not {"image", "images", "video"} & set(modes):
            raise ValueError(f"--{name} needs --image, --images or --video")
    check_track(arguments, video=modes == ["video"])
    for name in ("display_prototypes", "display_lincomb"):
        if getattr(arguments, name) and modes not in (["image"], ["display"]):
            raise ValueError(f"--{name} needs --image=IN:OUT or --display")
    if arguments.detect and not pictures:
        raise ValueError(
            "--detect: AP and timing always include masks; the box table is printed beside the "
            "mask table"
        )


def overrides(arguments: Namespace) -> list[str]:
    return legacy_flags.settings(arguments, legacy_flags.EVAL) + arguments.overrides


def in_out(flag: str, given: list[str], *, output_needed: bool) -> tuple[str, str | None]:
    """IN and OUT of `IN:OUT` or of two words. A path that holds a colon can only be given as two
    words, unless it exists as it is; the colons of a URL's scheme and port are its own."""
    if len(given) > 2:
        raise ValueError(f"{flag} takes IN:OUT, or IN and OUT")
    source, output = given[0], given[1] if len(given) == 2 else None
    if output is None and ":" in source and not Path(source).exists():
        before, _, after = source.rpartition(":")
        scheme = after.startswith("//")
        port = re.fullmatch(r"\w+://[^/]*", before) is not None
        if not scheme and not port:
            source, output = before, after
    if output_needed and not output:
        raise ValueError(f"{flag}={given[0]}: say where the result goes, {flag}=IN:OUT")
    return source, output


def drawing(arguments: Namespace) -> dict[str, Any]:
    """Keywords of the predict functions."""
    return {
        "score_threshold": SCORE
        if arguments.score_threshold is None
        else arguments.score_threshold,
        "top_k": TOP_K if arguments.top_k is None else arguments.top_k,
        "masks": arguments.display_masks and not arguments.detect,
        "boxes": arguments.display_bboxes,
        "labels": arguments.display_text,
        "scores": arguments.display_scores,
    }


def as_trained(arguments: Namespace) -> bool:
    """Whether a run is evaluated as it was trained to be: its records and times are kept then."""
    changed = (arguments.config, arguments.max_images > 0, overrides(arguments))
    return not any(changed) and arguments.ema is None and arguments.precision is None
