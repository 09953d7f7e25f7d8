"""Evaluate a model, or look at what it finds: python eval.py --trained_model=PATH
[--image=in.jpg:out.jpg | ...] [key=value ...]"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolact import cli, legacy_flags

if TYPE_CHECKING:
    from yolact.engine.evaluate import EvalResult
    from yolact.engine.load import Opened
    from yolact.engine.predict import Predictor

DESCRIPTION = """Box and mask AP of a model on its validation set, or pictures of what it finds.

AP table, COCO's numbers; time per stage:
  python eval.py --trained_model=runs/quickstart/1
  python eval.py --trained_model=yolact_base_54_800000.pth --benchmark
Pictures, also --images=in_folder:out_folder; videos, also --video=0 for camera 0, in a window:
  python eval.py --trained_model=WEIGHTS.pth --image=in.jpg:out.jpg
  python eval.py --trained_model=WEIGHTS.pth --video=in.mp4:out.mp4"""


def parser() -> cli.Parser:
    flags = cli.Parser(
        usage="%(prog)s --trained_model=PATH [--image | --images | --video | --display | "
        "--benchmark] [flags] [key=value ...]",
        description=DESCRIPTION,
    )
    flags.add_argument(
        "--trained_model",
        metavar="PATH",
        help="a .pth file, or a run's folder (its best.pth), or 'latest'",
    )
    flags.add_argument(
        "--config",
        help="name or file (default: that of the run, in the checkpoint, or of the official file "
        "name)",
    )
    flags.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    flags.switch("--cuda", default=None, help="--cuda=False runs on the CPU")
    flags.add_argument(
        "--precision",
        choices=("float32", "bf16", "fp16"),
        default="float32",
        help="autocast type of the forward pass",
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
    flags.add_argument("--bbox_det_file", type=Path, default=Path("results/bbox_detections.json"))
    flags.add_argument("--mask_det_file", type=Path, default=Path("results/mask_detections.json"))
    flags.switch("--no_bar", help="no progress bar")


def _detection(flags: cli.Parser) -> None:
    flags.add_argument(
        "--score_threshold",
        type=float,
        help="pictures show detections from this score on (default 0.15)",
    )
    flags.add_argument(
        "--top_k", type=int, help="pictures show at most this many detections (default 15)"
    )
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


def main(arguments: Namespace) -> None:
    check_flags(arguments)
    if arguments.trained_model is None and not (arguments.resume and arguments.config):
        raise ValueError("--trained_model=PATH is needed: a .pth file, a run's folder, or 'latest'")
    if arguments.resume:
        evaluate_stored(arguments)
        return
    from yolact.engine.load import open_model

    opened = open_model(
        arguments.trained_model,
        device=legacy_flags.device(arguments),
        precision=arguments.precision,
        config=arguments.config,
        overrides=overrides(arguments),
        use_ema=arguments.ema,
    )
    print(opened.report)
    if arguments.image:
        draw_image(arguments, opened.predictor)
    elif arguments.images:
        draw_folder(arguments, opened.predictor)
    elif arguments.video:
        draw_video(arguments, opened.predictor)
    elif arguments.display:
        draw_data_set(arguments, opened.predictor)
    elif arguments.benchmark:
        time_stages(arguments, opened)
    else:
        evaluate_model(arguments, opened)


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
    words, unless it exists as it is."""
    if len(given) > 2:
        raise ValueError(f"{flag} takes IN:OUT, or IN and OUT")
    source, output = given[0], given[1] if len(given) == 2 else None
    if output is None and ":" in source and not Path(source).exists():
        source, output = source.rsplit(":", 1)
    if output_needed and not output:
        raise ValueError(f"{flag}={given[0]}: say where the result goes, {flag}=IN:OUT")
    return source, output


def drawing(arguments: Namespace) -> dict[str, Any]:
    """Keywords of the predict functions."""
    return {
        "score_threshold": 0.15 if arguments.score_threshold is None else arguments.score_threshold,
        "top_k": 15 if arguments.top_k is None else arguments.top_k,
        "masks": arguments.display_masks and not arguments.detect,
        "boxes": arguments.display_bboxes,
        "labels": arguments.display_text,
        "scores": arguments.display_scores,
    }


def draw_image(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.predict import predict_image, read_upright

    source, name = in_out("--image", arguments.image, output_needed=False)
    output = Path(name or f"{Path(source).stem}_detections.png")
    found = predict_image(predictor, source, output, **drawing(arguments))
    print(f"{len(found)} detections; the picture is {output}")
    if arguments.display_prototypes or arguments.display_lincomb:
        from yolact.engine.display import explain_image

        written = explain_image(
            predictor,
            read_upright(source),
            output,
            prototypes=arguments.display_prototypes,
            lincomb=3 * arguments.display_lincomb,
        )
        print("\n".join(map(str, written)))


def draw_folder(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.predict import predict_folder

    source, output = in_out("--images", arguments.images, output_needed=True)
    assert output is not None, "in_out refuses that"
    written = predict_folder(
        predictor, source, output, progress=not arguments.no_bar, **drawing(arguments)
    )
    print(f"{len(written)} pictures in {output}")


def draw_data_set(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.display import display_dataset

    written = display_dataset(
        predictor,
        arguments.display_folder,
        max_images=max(0, arguments.max_images),
        shuffle=arguments.shuffle,
        seed=arguments.seed,
        prototypes=arguments.display_prototypes,
        lincomb=3 * arguments.display_lincomb,
        progress=not arguments.no_bar,
        **drawing(arguments),
    )
    print(f"{len(written)} pictures in {arguments.display_folder}")


def draw_video(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.predict import predict_video

    source, output = in_out("--video", arguments.video, output_needed=False)
    frames = predict_video(
        predictor,
        source,
        output,
        batch_size=max(1, arguments.video_multiframe),
        show_fps=arguments.display_fps,
        progress=not arguments.no_bar,
        **drawing(arguments),
    )
    print(f"{frames} frames{f' in {output}' if output else ''}")


def as_trained(arguments: Namespace) -> bool:
    """Whether a run is evaluated as it was trained to be: its records and times are kept then."""
    changed = (arguments.config, arguments.max_images > 0, overrides(arguments))
    return not any(changed) and arguments.ema is None


def time_stages(arguments: Namespace, opened: Opened) -> None:
    from yolact.engine.benchmark import benchmark_images, keep_times

    result = benchmark_images(
        opened.predictor, count=max(0, arguments.max_images), progress=not arguments.no_bar
    )
    print(result.table())
    kept = keep_times(result, opened.weights) if as_trained(arguments) else None
    if kept is not None:
        print(f"times in {kept}")


def evaluate_model(arguments: Namespace, opened: Opened) -> None:
    from yolact.engine.evaluate import evaluate
    from yolact.engine.records import place_of

    files = (
        (arguments.bbox_det_file, arguments.mask_det_file) if arguments.output_coco_json else None
    )
    predictor = opened.predictor
    records = place_of(opened.weights) if as_trained(arguments) else None
    result = evaluate(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        precision=arguments.precision,
        max_images=max(0, arguments.max_images),
        result_files=files,
        records_file=records,
        note={"step": opened.step, "weights": opened.weights.name},
        progress=not arguments.no_bar,
    )
    print_table(arguments, result, predictor.cfg.num_classes)
    if records is not None:
        print(f"per-image records in {records}")
    if files is not None:
        print(f"detections in {files[0]} and {files[1]}")


def evaluate_stored(arguments: Namespace) -> None:
    from yolact.checkpoint import read_checkpoint
    from yolact.engine.evaluate import evaluate_files
    from yolact.engine.load import find_config, find_weights, inference_config

    if arguments.config:
        config = inference_config(arguments.config, overrides(arguments))
    else:
        weights = find_weights(arguments.trained_model)
        config = find_config(weights, read_checkpoint(weights), overrides=overrides(arguments))
    result = evaluate_files(
        config,
        arguments.bbox_det_file,
        arguments.mask_det_file,
        max_images=max(0, arguments.max_images),
    )
    print_table(arguments, result, config.num_classes)


def print_table(arguments: Namespace, result: EvalResult, classes: int) -> None:
    several = classes > 1
    print(result.table(per_class=several if arguments.per_class is None else arguments.per_class))


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
