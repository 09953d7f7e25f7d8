"""Evaluate a model, or look at what it finds: python eval.py --trained_model=PATH
[--image=in.jpg:out.jpg | ...] [key=value ...]"""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.resolve import list_configs, load_config
from data.schema import Config
from yolact import cli
from yolact.files import write_whole

DESCRIPTION = """Box and mask AP of a model on its validation set, or pictures of what it finds.

  python eval.py --trained_model=runs/quickstart/1                                AP table, COCO's numbers
  python eval.py --trained_model=WEIGHTS.pth --image=in.jpg:out.jpg               also --images=in_folder:out_folder
  python eval.py --trained_model=WEIGHTS.pth --video=in.mp4:out.mp4               or --video=0 for camera 0, in a window
  python eval.py --trained_model=yolact_base_54_800000.pth --benchmark            time per stage"""

REPLACED = {  # YOLACT's flag -> what does its work here
    "ap_data_file": "--ap_data_file: detections are kept as COCO JSON, see --output_coco_json",
    "no_sort": "--no_sort: images are always taken in the order of the annotation file; --shuffle "
    "with --display changes it",
    "emulate_playback": "--emulate_playback: a saved video keeps the frame rate of its source",
}
REFUSED = {
    "output_web_json": "--output_web_json: there is no web viewer; --display writes pictures "
    "beside their ground truth",
    "web_det_path": "--web_det_path: there is no web viewer; --display writes pictures beside "
    "their ground truth",
    "mask_proto_debug": "--mask_proto_debug: use --display_prototypes and --display_lincomb",
}


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
    flags.add_argument(
        "--dataset", help="an entry of DATASETS in data/config.py instead of the config's"
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
    for name, text in {**REPLACED, **REFUSED}.items():
        if name.endswith(("_file", "_path")):
            flags.add_argument(f"--{name}", help="replaced: " + text.split(": ", 1)[1])
        else:
            flags.switch(f"--{name}", help="replaced: " + text.split(": ", 1)[1])
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
    flags.switch("--fast_nms", default=None, help="--fast_nms=False is eval.nms=traditional")
    flags.switch("--cross_class_nms", help="same as eval.nms=cross_class")
    flags.switch("--no_crop", help="same as eval.crop=false")
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
    changes = overrides(arguments)
    if arguments.resume and arguments.config:
        return evaluate_stored(arguments, inference_config(arguments.config, changes))
    if arguments.resume:
        return evaluate_stored(
            arguments, find_config(None, *open_weights(arguments.trained_model), changes)
        )
    predictor, weights, step = load_predictor(arguments, changes)
    progress = not arguments.no_bar
    if arguments.image:
        draw_image(arguments, predictor)
    elif arguments.images:
        from yolact.engine.predict import predict_folder

        source, output = in_out("--images", arguments.images, output_needed=True)
        written = predict_folder(predictor, source, output, progress=progress, **drawing(arguments))
        print(f"{len(written)} pictures in {output}")
    elif arguments.video:
        draw_video(arguments, predictor, progress)
    elif arguments.display:
        from yolact.engine.display import display_dataset

        written = display_dataset(
            predictor,
            arguments.display_folder,
            max_images=max(0, arguments.max_images),
            shuffle=arguments.shuffle,
            seed=arguments.seed,
            prototypes=arguments.display_prototypes,
            lincomb=3 * arguments.display_lincomb,
            progress=progress,
            **drawing(arguments),
        )
        print(f"{len(written)} pictures in {arguments.display_folder}")
    elif arguments.benchmark:
        time_stages(arguments, predictor, progress, records_place(arguments, weights, step)[0])
    else:
        evaluate_model(arguments, predictor, progress, *records_place(arguments, weights, step))


def check_flags(arguments: Namespace) -> None:
    """Notes on flags that have a replacement, ValueError for those that cannot be honoured."""
    given = [name for name in {**REPLACED, **REFUSED} if getattr(arguments, name)]
    for name in given:
        if name in REFUSED:
            raise ValueError(REFUSED[name])
        cli.note(REPLACED[name])
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
    changes = []
    if arguments.dataset:
        changes.append(f"dataset={arguments.dataset}")
    if arguments.fast_nms is not None:
        changes.append(f"eval.nms={'fast' if arguments.fast_nms else 'traditional'}")
    if arguments.cross_class_nms:
        changes.append("eval.nms=cross_class")
    if arguments.no_crop:
        changes.append("eval.crop=false")
    return changes + arguments.overrides


def find_weights(trained_model: str | None) -> Path:
    """The .pth file that --trained_model means: itself, a run folder's best.pth (or last.pth), or
    the newest run's for 'latest'."""
    if trained_model is None:
        raise ValueError("--trained_model=PATH is needed: a .pth file, a run's folder, or 'latest'")
    path = Path(trained_model)
    if trained_model in ("latest", "interrupt") and not path.exists():
        runs = [
            found.parent.parent
            for name in ("best", "last")
            for found in Path("runs").glob(f"*/*/weights/{name}.pth")
        ]
        if not runs:
            raise ValueError(
                f"--trained_model={trained_model}: there is no run with weights in runs/"
            )
        path = max(runs, key=lambda run: (run / "weights").stat().st_mtime)
    if path.is_dir():
        found = [
            path / folder / name
            for folder in ("weights", "")
            for name in ("best.pth", "last.pth", "interrupt.pth")
        ]
        path = next((file for file in found if file.is_file()), path)
        if path.is_dir():
            raise ValueError(
                f"--trained_model: {path} holds no weights/best.pth or weights/last.pth"
            )
    if not path.is_file():
        raise ValueError(
            f"--trained_model: {path} does not exist: give a .pth file, such as "
            "runs/NAME/1/weights/best.pth"
        )
    return path


def open_weights(trained_model: str | None) -> tuple[Path, dict]:
    """The .pth file that --trained_model means, and what it holds."""
    from yolact.checkpoint import read_checkpoint

    weights = find_weights(trained_model)
    return weights, read_checkpoint(weights)


def inference_config(source, changes: list[str]) -> Config:
    """A config without a look at its loss: nothing here needs one, and its plugins are code, which
    a checkpoint may name too."""
    return load_config(source, changes, check_names=False)


def find_config(given: str | None, weights: Path, checkpoint: dict, changes: list[str]) -> Config:
    """The config of a model: as given, of its run, in its checkpoint, or by the official file name.
    ValueError where there is none."""
    if given is not None:
        return inference_config(given, changes)
    beside = weights.resolve().parent.parent / "config.yaml"
    if beside.is_file() and weights.resolve().parent.name == "weights":
        return inference_config(beside, changes)
    if isinstance(checkpoint.get("config"), dict):
        return inference_config(checkpoint["config"], changes)
    official = re.fullmatch(r"(.+?)_\d+_\d+(_interrupt)?", weights.stem)
    name = official[1] if official else weights.stem
    if name not in list_configs():
        raise ValueError(
            f"{weights} does not say which config it belongs to: add --config=NAME (python "
            "train.py --list configs)"
        )
    print(f"config {name}, by the file name")
    return inference_config(name, changes)


def load_predictor(arguments: Namespace, changes: list[str]):
    """(Predictor, the .pth file, the training step it is of or None)."""
    from yolact.build import build_model
    from yolact.checkpoint import load_weights
    from yolact.engine.distributed import pick_device
    from yolact.engine.predict import Predictor

    weights, checkpoint = open_weights(arguments.trained_model)
    config = find_config(arguments.config, weights, checkpoint, changes)
    model = build_model(config)
    ema = arguments.ema
    if ema is None:  # validation during training looked at these too
        ema = isinstance(checkpoint.get("ema"), dict)
    report = load_weights(model, checkpoint, use_ema=ema, name=weights)
    print(f"{weights}: {report}{', averaged weights' if ema else ''}")
    device = arguments.device or {None: None, True: "cuda", False: "cpu"}[arguments.cuda]
    return (
        Predictor(model, config, pick_device(device), arguments.precision),
        weights,
        checkpoint.get("step"),
    )


def records_place(
    arguments: Namespace, weights: Path, step: int | None
) -> tuple[Path | None, dict]:
    """(where per-image records go, what they say about themselves). last.pth's are those that runs
    are compared by: records.npz.

    They are kept where a run is evaluated as it was trained to be: not with changed settings or a
    part of the images.
    """
    results = weights.resolve().parent.parent / "results"
    changed = [
        arguments.config,
        arguments.max_images > 0,
        overrides(arguments),
        arguments.ema is not None,
    ]
    if weights.resolve().parent.name != "weights" or not results.is_dir() or any(changed):
        return None, {}
    if not os.access(results, os.W_OK):
        cli.note(f"{results} cannot be written, so per-image records are not kept")
        return None, {}
    name = "records.npz" if weights.name == "last.pth" else f"records_{weights.stem}.npz"
    return results / name, {"step": step, "weights": weights.name}


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


def drawing(arguments: Namespace) -> dict:
    """Keywords of the predict functions."""
    return {
        "score_threshold": 0.15 if arguments.score_threshold is None else arguments.score_threshold,
        "top_k": 15 if arguments.top_k is None else arguments.top_k,
        "masks": arguments.display_masks and not arguments.detect,
        "boxes": arguments.display_bboxes,
        "labels": arguments.display_text,
        "scores": arguments.display_scores,
    }


def draw_image(arguments: Namespace, predictor) -> None:
    from yolact.engine.predict import predict_image, read_upright

    source, output = in_out("--image", arguments.image, output_needed=False)
    output = Path(output or f"{Path(source).stem}_detections.png")
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


def draw_video(arguments: Namespace, predictor, progress: bool) -> None:
    from yolact.engine.predict import predict_video

    source, output = in_out("--video", arguments.video, output_needed=False)
    frames = predict_video(
        predictor,
        source,
        output,
        batch_size=max(1, arguments.video_multiframe),
        show_fps=arguments.display_fps,
        progress=progress,
        **drawing(arguments),
    )
    print(f"{frames} frames{f' in {output}' if output else ''}")


def time_stages(arguments: Namespace, predictor, progress: bool, records_file: Path | None) -> None:
    """--benchmark: the validation images, where they are there. Of a run's last weights, the times
    are kept beside its records, for reports: results/benchmark.json."""
    from data.loader import build_dataset
    from yolact.engine.benchmark import benchmark

    images, count = None, arguments.max_images if arguments.max_images > 0 else 100
    try:
        dataset = build_dataset(predictor.cfg, "val", mask_sizes=[], needs_full_masks=False)
        images = [dataset.load_image(i) for i in range(min(count, len(dataset), 50))]
    except (ValueError, OSError) as error:
        cli.note(f"timing on noise, not on validation images: {cli.one_line(error)}")
    result = benchmark(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        precision=arguments.precision,
        images=images or None,
        iterations=count,
        progress=progress,
    )
    print(result.table())
    if records_file is not None and records_file.name == "records.npz":
        path = records_file.with_name("benchmark.json")
        write_whole(path, json.dumps(result.to_dict(), indent=2) + "\n")
        print(f"times in {path}")


def evaluate_model(
    arguments: Namespace, predictor, progress: bool, records_file: Path | None, note: dict
) -> None:
    from yolact.engine.evaluate import evaluate

    files = (
        (arguments.bbox_det_file, arguments.mask_det_file) if arguments.output_coco_json else None
    )
    result = evaluate(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        precision=arguments.precision,
        max_images=max(0, arguments.max_images),
        result_files=files,
        records_file=records_file,
        note=note,
        progress=progress,
    )
    print_table(arguments, result, predictor.cfg)
    if records_file is not None:
        print(f"per-image records in {records_file}")
    if files is not None:
        print(f"detections in {files[0]} and {files[1]}")


def evaluate_stored(arguments: Namespace, config: Config) -> None:
    from yolact.engine.evaluate import evaluate_files

    result = evaluate_files(
        config,
        arguments.bbox_det_file,
        arguments.mask_det_file,
        max_images=max(0, arguments.max_images),
    )
    print_table(arguments, result, config)


def print_table(arguments: Namespace, result, config: Config) -> None:
    several = config.num_classes > 1 if arguments.per_class is None else arguments.per_class
    print(result.table(per_class=several))


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
