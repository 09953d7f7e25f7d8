"""Evaluate a model, or look at what it finds: python eval.py --trained_model=PATH
[--image=in.jpg:out.jpg | ...] [key=value ...]"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from yolact import cli, legacy_flags
from yolact.commands.eval import modes
from yolact.commands.eval.flags import check_flags, overrides, parser

__all__ = ["main", "overrides", "parser", "program"]


def main(arguments: Namespace) -> None:
    check_flags(arguments)
    arguments.resume = arguments.resume or arguments.run_coco_eval
    if arguments.trained_model is None and not (arguments.resume and arguments.config):
        raise ValueError(
            "--trained_model=PATH is needed: a .pth file, a run's folder, 'latest', or hub:NAME"
        )
    if arguments.resume:
        modes.evaluate_stored(arguments)
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
        modes.draw_image(arguments, opened.predictor)
    elif arguments.images:
        modes.draw_folder(arguments, opened.predictor)
    elif arguments.video:
        modes.draw_video(arguments, opened.predictor)
    elif arguments.display:
        modes.draw_data_set(arguments, opened.predictor)
    elif arguments.benchmark:
        modes.time_stages(arguments, opened)
    else:
        modes.evaluate_model(arguments, opened)


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
