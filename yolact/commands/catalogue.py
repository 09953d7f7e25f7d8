"""List what a config can choose from: yolact list configs|datasets|losses|assigners"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from data.config import DATASETS, NOTES
from data.resolve import list_configs, list_datasets, load_config
from yolact import cli

KINDS = ("configs", "datasets", "losses", "assigners")


def show(kind: str) -> None:
    """Prints one list of KINDS."""
    {"configs": _configs, "datasets": _datasets, "losses": _losses, "assigners": _assigners}[kind]()


def describe(name: str) -> str:
    """A named config in one line: its note, or its model, data set and mask loss."""
    if name in NOTES:
        return NOTES[name]
    config = load_config(name, check_names=False)
    model = (
        f"{config.model.backbone}, {config.model.max_size} "
        f"px{', YOLACT++' if config.model.mask_iou_net else ''}"
    )
    return f"{model:32} {config.data.name:20} {config.loss.mask}"


def _configs() -> None:
    group = ""
    for name in sorted(list_configs(), key=lambda name: (name.rpartition("/")[0], name)):
        folder = name.rpartition("/")[0]
        if folder != group:
            print(f"\n{folder}/")
            group = folder
        print(f"{name:34} {describe(name)}")


def _datasets() -> None:
    for name in list_datasets():
        classes = DATASETS[name]["class_names"]
        print(
            f"{name:20} {len(classes):3} class{'es' if len(classes) > 1 else '  '}  "
            f"{DATASETS[name].get('root', '')}"
        )


def _losses() -> None:
    from layers.losses.box import BOX_LOSSES
    from layers.losses.classification import CLASS_LOSSES
    from layers.losses.registry import MASK_LOSSES, SOFT_LEGEND, LossInfo

    groups: dict[str, Iterable[Any]] = {
        "loss.mask, a sum of": MASK_LOSSES.records(),
        "loss.box, one of": BOX_LOSSES.records(),
        "loss.classification, one of": CLASS_LOSSES.records(),
    }
    width = max(len(info.signature) for losses in groups.values() for info in losses)
    for index, (title, losses) in enumerate(groups.items()):
        print(f"{title}:" if index == 0 else f"\n{title}:")
        for info in losses:
            soft = f"{info.softness:9} " if isinstance(info, LossInfo) else ""
            print(f"  {info.signature:{width}} {info.kind:8} {soft}{info.summary}")
        if index == 0:
            print("\n" + SOFT_LEGEND)


def _assigners() -> None:
    from layers.assign import ASSIGNERS

    width = max(len(info.signature) for info in ASSIGNERS.records())
    for info in ASSIGNERS.records():
        print(f"{info.signature:{width}} {info.summary}")


def main(arguments: Namespace) -> None:
    show(arguments.kind)


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = cli.Arguments(description=__doc__.split(":")[0] if __doc__ else None)
    parser.add_argument("kind", choices=KINDS, help="what to list")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return cli.run(main, parser.parse_args(argv))
