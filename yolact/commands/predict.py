"""Find instances in pictures, folders of pictures and videos.

    yolact predict RUN INPUT... [--out DIR] [--json FILE] [--masks DIR] [--crops DIR] [--csv FILE]

RUN is a run's folder, a .pth file, or 'latest'. Without a flag that says what to write, pictures
are drawn into predictions/. A video is a file, or the address of a stream (rtsp://, http://). Each
of its frames counts as a picture; with --out, the video is drawn too. key=value changes the config,
as eval.score_threshold=0.01 does. --track numbers what is in a video, and keeps the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.images import IMAGE_SUFFIXES
from yolact.cli import DEVICE_HELP, SETTING, Arguments, run, say
from yolact.commands.eval.found_flags import add_found_flags, check_track, wanted

if TYPE_CHECKING:
    from yolact.engine.found import FoundFiles
    from yolact.engine.predict import Predictor

OUT = Path("predictions")
OVERLAP = 0.2  # share of a tile
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".wmv")


def _predict(args: argparse.Namespace) -> None:
    overrides = [word for word in args.inputs if SETTING.match(word)]
    inputs = [word for word in args.inputs if word not in overrides]
    if not inputs:
        raise ValueError("name a picture, a folder of pictures, or a video behind RUN")
    chosen = wanted(args, args.score)
    out = args.out or (OUT if chosen.nothing else None)
    _refuse_one_name(inputs)
    _refuse_idle(args, inputs)
    check_track(args, video=any(map(_is_video, inputs)))
    chosen.refuse_clashes(map(_folder_of, inputs), out)

    from yolact.engine.found import FoundFiles
    from yolact.engine.load import open_model
    from yolact.engine.precision import AUTO

    opened = open_model(
        args.run,
        device=args.device,
        precision=args.precision,
        config=args.config,
        overrides=overrides,
        otherwise=AUTO,
    )
    predictor = opened.predictor
    if args.tile:
        from yolact.engine.tiles import TiledPredictor

        overlap = OVERLAP if args.overlap is None else args.overlap
        predictor = TiledPredictor(predictor, args.tile, overlap)
    with FoundFiles(chosen, predictor.cfg) as files:
        say(opened.report)
        for word in inputs:
            _predict_one(
                predictor,
                word,
                out,
                files,
                batch_size=args.batch_size,
                progress=not args.no_bar,
                skip=args.skip or 0,
                track=args.track,
            )
    say(files.told(pictures=out is not None))
    for line in [*([f"pictures in {out}"] if out else []), *files.places()]:
        say(line)


def _predict_one(
    predictor: Predictor,
    word: str,
    out: Path | None,
    files: FoundFiles,
    *,
    batch_size: int | None,
    progress: bool,
    skip: int,
    track: bool,
) -> None:
    from yolact.engine.predict import predict_folder, predict_image
    from yolact.engine.video import VIDEO_CODECS, predict_video

    path = Path(word)
    options: dict[str, Any] = {
        "score_threshold": files.wanted.score,
        "top_k": files.wanted.top_k,
        "files": files,
    }
    if _is_video(word):
        suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_CODECS else ".mp4"
        target = None if out is None else out / f"{path.stem}{suffix}"
        options |= {"batch_size": batch_size or predictor.at_once, "draw": out is not None}
        options |= {"skip": skip, "track": track}
        predict_video(predictor, word, target, progress=progress, **options)
    elif path.is_dir():
        options["batch_size"] = batch_size
        predict_folder(predictor, path, out, progress=progress, **options)
    else:
        predict_image(predictor, path, None if out is None else out / path.name, **options)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of pictures, 1 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of frames, 0 or more")
    return int(text)


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give the side of a tile in pixels, such as 1024"
        )
    return int(text)


def _is_video(word: str) -> bool:
    return "://" in word or Path(word).suffix.lower() in VIDEO_SUFFIXES


def _folder_of(word: str) -> Path:
    return Path(word) if Path(word).is_dir() else Path(word).parent


def _refuse_idle(args: argparse.Namespace, inputs: Sequence[str]) -> None:
    """ValueError for a flag that would change nothing."""
    if args.overlap is not None and args.tile is None:
        raise ValueError("--overlap is of tiles: give --tile PIXELS too")
    if args.batch_size is not None and args.tile is not None:
        raise ValueError("--batch_size does not go with --tile, where the device sets it: leave it")
    if args.skip is not None and not any(map(_is_video, inputs)):
        raise ValueError("--skip is of videos: none is named, so leave it out")


def _refuse_one_name(inputs: Sequence[str]) -> None:
    """ValueError for an input that is not there, and for two whose results have one name."""
    taken: dict[str, Path] = {}
    for word in inputs:
        path = Path(word)
        if "://" in word:
            continue
        if not path.exists():
            raise ValueError(f"{path} does not exist: check the path")
        pictures = [path]
        if path.is_dir():
            pictures = [one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES]
        for picture in pictures:
            other = taken.setdefault(picture.name, picture)
            if other is not picture:
                raise ValueError(
                    f"{other} and {picture} have one name, and so would their results: predict "
                    "them in two runs"
                )


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder, .pth file, 'latest', or hub:NAME")
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="picture, folder of pictures, video or stream"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="draw pictures and videos into this folder"
    )
    add_found_flags(parser)
    parser.add_argument("--config", help="name or file, where neither run nor weights say it")
    parser.add_argument("--device", help=DEVICE_HELP)
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16", "auto"),
        help="of the forward pass (default: eval.precision of the config, or auto); auto takes "
        "what is faster on the device, float32 is as published",
    )
    parser.add_argument(
        "--batch_size",
        type=_positive,
        metavar="N",
        help="pictures or frames in one forward pass (default: 8 on a GPU, else 1)",
    )
    parser.add_argument(
        "--tile",
        type=_pixels,
        metavar="PIXELS",
        help="look at tiles of this side, and join what they see of one object",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        help=f"with --tile: share of a tile that the next one sees too (default {OVERLAP:g})",
    )
    parser.add_argument(
        "--skip",
        type=_count,
        metavar="N",
        help="frames of a video that are left out behind each one looked at (default 0)",
    )
    parser.add_argument("--no_bar", action="store_true", help="no progress bar")
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_predict, parser.parse_intermixed_args(argv))
