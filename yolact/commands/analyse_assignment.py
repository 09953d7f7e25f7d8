"""Look at anchor assignment on a data set: how much of their boxes masks fill, and what a measure
that sees them changes.

    python scripts/analyse_assignment.py assigners/atss_gmaiou_550 nuclei      configs, run folders
        or data sets
    python scripts/analyse_assignment.py runs/NAME/1 --weights runs/NAME/1/weights/best.pth
    python scripts/analyse_assignment.py cigarettes_standin --picture 17 --assigners max_iou
    "atss(iou='gmaiou')"

Writes, into --out:
  ratio.png               mask-over-box ratio of the ground truths of every source
  NAME_overlaps.png       IoU against mask-aware IoU, and its two forms against each other
  NAME_anchors.png        positives and negatives against the mask-over-box ratio of the anchor, for
                          anchors of similar IoU; with --weights their losses too
  NAME_positives_ID.png   with --picture: the positive anchors of each assigner on one image, side
                          by side

and prints the positives of every assigner, and what masks at prototype size would change. key=value
changes a config.
"""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from data.config import DATASETS
from data.resolve import list_configs, load_config
from data.schema import Config
from layers.names import did_you_mean
from yolact import cli
from yolact.commands.losses import Arguments

ASSIGNERS = ("max_iou", "atss", "atss(iou='maiou')", "atss(iou='gmaiou')")
FALLBACK = "yolact_base"  # whose anchors and input size a data set alone is seen with


def _read(argv: Sequence[str] | None) -> Namespace:
    flags = Arguments(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flags.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="config names or files, run folders, data sets; and key=value",
    )
    flags.add_argument(
        "--weights",
        type=Path,
        help="checkpoint of the (one) config, for losses against the anchor's ratio",
    )
    flags.add_argument(
        "--picture", metavar="ID", help="image id for the picture of positives, or 'first'"
    )
    flags.add_argument(
        "--assigners",
        nargs="+",
        default=list(ASSIGNERS),
        metavar="EXPRESSION",
        help="compared in table and picture",
    )
    flags.add_argument("--split", choices=("train", "val"), default="train")
    flags.add_argument(
        "--images",
        type=int,
        default=300,
        help="images that are read, drawn from the split; 0 = all",
    )
    flags.add_argument(
        "--annotated",
        type=int,
        default=5000,
        help="images whose annotations enter the ratios; 0 = all",
    )
    flags.add_argument(
        "--out", type=Path, default=Path("results/assignment"), help="folder of the figures"
    )
    flags.add_argument("--traceback", action="store_true", help="show where an error came from")
    return flags.parse_intermixed_args(argv)


def _main(arguments: Namespace) -> None:
    sources = [word for word in arguments.sources if "=" not in word]
    changes = [word for word in arguments.sources if "=" in word]
    if not sources:
        raise ValueError(
            "name at least one config, run folder or data set, such as yolact_small_nuclei or "
            "nuclei"
        )
    if arguments.weights and len(sources) > 1:
        raise ValueError(f"--weights belongs to one config, but {len(sources)} sources are given")
    if min(arguments.images, arguments.annotated) < 0:
        raise ValueError("--images and --annotated are numbers of images; 0 = all")
    configs = {name: source_config(name, changes) for name in sources}
    from layers.assign import build_assigner

    for text in arguments.assigners:  # a mistake in one shows before anything is read
        build_assigner(text)
    from yolact.analysis.assignment.report import AssignmentReport

    report = AssignmentReport(arguments)
    for name, cfg in configs.items():
        report.add(_label(name), cfg)
    print("\n".join(["", *map(str, report.finish())]))


def source_config(source: str, changes: list[str]) -> Config:
    """The config of a name, file or run folder; of a data set, yolact_base on it. ConfigError for a
    wrong one."""
    if source in DATASETS and source not in list_configs():
        return load_config(FALLBACK, [f"dataset={source}", *changes])
    if source not in list_configs() and not Path(source).exists():
        known = [*list_configs(), *DATASETS]
        raise ValueError(
            f"{source!r} is no config, file, run folder or data set{did_you_mean(source, known)}"
        )
    return load_config(source, changes)


def _label(source: str) -> str:
    """A name for legends and files: a file's own, of a folder the last two parts, as in NAME_1 for
    a run."""
    path = Path(source)
    return path.stem if path.suffix in (".yaml", ".yml") else "_".join(path.parts[-2:])


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(_main, _read(argv))
