"""What eval.py does, a function a mode: each asks the engine once, and says what came of it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from yolact.cli import say
from yolact.commands.eval.flags import as_trained, drawing, in_out, overrides
from yolact.commands.eval.found_flags import wanted

if TYPE_CHECKING:
    from yolact.engine.evaluate import EvalResult
    from yolact.engine.found import FoundFiles
    from yolact.engine.load import Opened
    from yolact.engine.predict import Predictor


def draw_image(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.predict import predict_image, read_upright

    source, name = in_out("--image", arguments.image, output_needed=False)
    output = Path(name or f"{Path(source).stem}_detections.png")
    with _files(arguments, predictor, Path(source).parent) as files:
        predict_image(predictor, source, output, files=files, **drawing(arguments))
    _say_found(files, f"the picture is {output}")
    if arguments.display_prototypes or arguments.display_lincomb:
        from yolact.engine.display import explain_image

        written = explain_image(
            predictor,
            read_upright(source),
            output,
            prototypes=arguments.display_prototypes,
            lincomb=3 * arguments.display_lincomb,
        )
        for path in written:
            say(path)


def draw_folder(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.predict import predict_folder

    source, output = in_out("--images", arguments.images, output_needed=True)
    assert output is not None, "in_out refuses that"
    with _files(arguments, predictor, Path(source), Path(output)) as files:
        options = {**drawing(arguments), "progress": not arguments.no_bar, "files": files}
        read = predict_folder(predictor, source, output, **options)
    _say_found(files, f"{len(read)} pictures in {output}")


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
    say(f"{len(written)} pictures in {arguments.display_folder}")


def draw_video(arguments: Namespace, predictor: Predictor) -> None:
    from yolact.engine.video import predict_video

    source, output = in_out("--video", arguments.video, output_needed=False)
    with _files(arguments, predictor, Path(source).parent) as files:
        frames = predict_video(
            predictor,
            source,
            output,
            batch_size=max(1, arguments.video_multiframe),
            show_fps=arguments.display_fps,
            progress=not arguments.no_bar,
            files=files,
            track=arguments.track,
            **drawing(arguments),
        )
    _say_found(files, f"{frames} frames{f' in {output}' if output else ''}")


def _files(
    arguments: Namespace, predictor: Predictor, source: Path, out: Path | None = None
) -> FoundFiles:
    from yolact.engine.found import FoundFiles

    chosen = wanted(arguments, arguments.score_threshold)
    chosen.refuse_clashes([source], out)
    return FoundFiles(chosen, predictor.cfg)


def _say_found(files: FoundFiles, where: str) -> None:
    for line in (f"{files.told()}; {where}", *files.places()):
        say(line)


def time_stages(arguments: Namespace, opened: Opened) -> None:
    from yolact.engine.benchmark import benchmark_images, keep_times

    result = benchmark_images(
        opened.predictor, count=max(0, arguments.max_images), progress=not arguments.no_bar
    )
    print(result.table())
    kept = keep_times(result, opened.weights) if as_trained(arguments) else None
    if kept is not None:
        say(f"times in {kept}")


def evaluate_model(arguments: Namespace, opened: Opened) -> None:
    from yolact.engine.evaluate import evaluate
    from yolact.engine.records import place_of

    predictor = opened.predictor
    if not predictor.cfg.data.val_truth:
        return detections_for_server(arguments, predictor)
    files = (
        (arguments.bbox_det_file, arguments.mask_det_file) if arguments.output_coco_json else None
    )
    records = place_of(opened.weights) if as_trained(arguments) else None
    result = evaluate(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        choice=predictor.choice,
        max_images=max(0, arguments.max_images),
        result_files=files,
        records_file=records,
        note={"step": opened.step, "weights": opened.weights.name},
        progress=not arguments.no_bar,
    )
    print_table(arguments, result, predictor.cfg.num_classes)
    if records is not None:
        say(f"per-image records in {records}")
    if files is not None:
        say(f"detections in {files[0]} and {files[1]}")


def detections_for_server(arguments: Namespace, predictor: Predictor) -> None:
    """Of a data set without ground truth: COCO results, whether or not --output_coco_json asks."""
    from yolact.engine.evaluate import write_detections

    files = arguments.bbox_det_file, arguments.mask_det_file
    images = write_detections(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        choice=predictor.choice,
        max_images=max(0, arguments.max_images),
        result_files=files,
        progress=not arguments.no_bar,
    )
    say(
        f"detections on {images} images in {files[0]} and {files[1]}; the data set has no ground "
        "truth, so there is no AP: its server takes a zip of either file"
    )


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
