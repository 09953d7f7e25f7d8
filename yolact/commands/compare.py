"""Which is better, and is that certain? python scripts/compare.py A B [C ...]

  python scripts/compare.py runs/bce/1 runs/dice/1                      two runs (one seed each: an
      interval, no verdict)
  python scripts/compare.py runs/study/bce runs/study/dice              two arms, folders that hold
      the runs of several seeds
  python scripts/compare.py runs/study                                  a whole study, as its
      study.yaml says
  python scripts/compare.py a.json b.json --gt instances_val2017.json   two COCO results files

  --html FILE                also the page of reports: tables, figures, and the images that differ
  --image_folder FOLDER      the images of --gt, so that the page of results files shows them
  --images N                 on the page: the N most improved and N most worsened images

The first is the baseline: differences are what the others have more. docs/reference/statistics.md
says what a verdict means.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolact import cli
from yolact.study.folder.layout import study_file
from yolact.study.plan import METRICS, PRIMARY

if TYPE_CHECKING:
    from yolact.study.compare import Compared


def _parser() -> cli.Parser:
    flags = cli.Parser(usage="%(prog)s A B [C ...] [flags]", description=__doc__)
    flags.add_argument(
        "--what",
        nargs="+",
        metavar="PATH",
        help="what to compare; may also be given without the flag, first",
    )
    flags.add_argument("--gt", type=Path, help="annotation file of COCO results")
    flags.add_argument(
        "--metric",
        help="the one metric that the verdict is about (default: mask_ap, or box_ap of boxes "
        "alone)",
    )
    flags.add_argument(
        "--margin",
        type=float,
        help="difference in AP points below which arms count as equivalent (default 0.5)",
    )
    flags.switch(
        "--mixed",
        help="of a study: compare runs of different data, code, evaluation or length all the "
        "same, and say so",
    )
    flags.switch(
        "--boundary",
        help="also boundary AP, by faster-coco-eval; takes the mask_detections.json of runs",
    )
    flags.add_argument("--html", type=Path, metavar="FILE", help="write the page of reports there")
    flags.add_argument(
        "--image_folder",
        type=Path,
        metavar="FOLDER",
        help="with --html and --gt: where the images are",
    )
    flags.add_argument(
        "--images", type=int, metavar="N", help="with --html: images a list (default 40)"
    )
    return flags


def _main(arguments: Namespace) -> int:
    from yolact.study.compare import compare_folder, compare_paths
    from yolact.study.statistics.verdict import MARGIN

    paths = [Path(path) for path in arguments.what or ()]
    _check_flags(arguments)
    if arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]}: there is no config to change here")
    if len(paths) == 1 and study_file(paths[0]).is_file():
        if arguments.metric or arguments.margin:
            raise ValueError(
                "a study fixes its metric and margin before it begins: to look at others, name "
                "its arms' folders instead"
            )
        found = compare_folder(paths[0], mixed=arguments.mixed)
    else:
        margin = MARGIN if arguments.margin is None else arguments.margin
        found = compare_paths(paths, arguments.gt, metric=arguments.metric, margin=margin)
    for note in found.notes:
        cli.note(note)
    print(_text(found))
    if arguments.boundary:
        _show_boundary(found, arguments.gt)
    if arguments.html:
        _write_page(found, paths, arguments)
    return 0


def _check_flags(arguments: Namespace) -> None:
    if arguments.html is None and (arguments.image_folder or arguments.images is not None):
        raise ValueError("--image_folder and --images are of a page: give --html=FILE too")
    if arguments.html is not None:
        _check_page(arguments.html, arguments.metric)
    if arguments.images is not None and arguments.images < 1:
        raise ValueError(f"--images={arguments.images}: give 1 or more")
    if arguments.image_folder and not arguments.image_folder.is_dir():
        raise ValueError(f"--image_folder={arguments.image_folder}: there is no such folder")
    if arguments.image_folder and not arguments.gt:
        raise ValueError("--image_folder is of results files, with --gt; runs know their images")


def _check_page(file: Path, metric: str | None) -> None:
    """ValueError for a page that could not be written once all is compared."""
    if metric and not PRIMARY.fullmatch(metric):
        raise ValueError(
            f"--html: a page has no verdict on {metric}: choose mask_ or box_ with one of "
            f"{', '.join(METRICS)}, or leave --html out"
        )
    above = next(one for one in file.absolute().parents if one.exists())
    if file.is_dir() or not above.is_dir():
        raise ValueError(f"--html={file}: name a file, in a folder that is there or can be made")


def _write_page(found: Compared, paths: Sequence[Path], arguments: Namespace) -> None:
    from yolact.study.report.assemble import write_page
    from yolact.study.report.compared import report_of
    from yolact.study.report.data import collect
    from yolact.study.report.images.tab import IMAGES

    if len(paths) == 1:
        report = collect(paths[0], mixed=arguments.mixed, loaded=found.loaded)
    else:
        report = report_of(found, arguments.gt, arguments.image_folder)
    count = IMAGES if arguments.images is None else arguments.images
    cli.say(write_page(report, arguments.html, images=count))


def _text(found: Compared) -> str:
    """The main table, the verdicts in plain words, and what stands beside AP."""
    from yolact.study.statistics import table
    from yolact.study.statistics.comparison import about_the_start, unstable_baseline
    from yolact.study.statistics.inference import VARIANCE_RULE

    records, arms, first = found.comparisons, found.arms, found.comparisons[0]
    runs = [run for seeds in arms.values() for run in seeds.values()]
    run = next(iter(arms[first.baseline].values()))
    parts = [
        f"{first.metric} in AP points on {run.images} images; differences to {first.baseline}; "
        f"margin {first.margin:g}\n",
        f"{table.main_table(records, arms)}\n",
        *(record.sentence for record in records),
        f"variance rule: {VARIANCE_RULE}; the paired t is a check that decides nothing",
    ]
    parts += _spread(found)
    if start := about_the_start(records):
        parts.append(start)
    if unstable := unstable_baseline(first.baseline, arms[first.baseline].values()):
        parts.append(unstable)
    parts += [
        "\nother metrics: difference and 95 % interval, no verdicts\n"
        f"{table.others_table(records)}",
        "\nerrors at the best score threshold (oLRP, lower is better), and scores against IoU\n"
        f"{table.quality_table(arms)}",
    ]
    if all("mask_ap" in run.resampled.point for run in runs):
        parts.append(f"\nmean mask IoU of detections by score\n{table.reliability_table(arms)}")
        if shared := table.shared_table(records, arms):
            parts.append(f"\nmask IoU of the instances that both find\n{shared}")
    if run.resampled.dropped > 0:
        parts.append(
            f"\n{100 * run.resampled.dropped:.1f} % of the classes drop out of a resample on "
            "average, having no ground truth in it"
        )
    return "\n".join(parts)


def _spread(found: Compared) -> list[str]:
    """Median and worst seed of each arm, and those that may have collapsed; nothing of single
    runs."""
    from yolact.study.statistics.collapse import about_collapses, spreads

    if max(map(len, found.arms.values())) < 2:
        return []
    spread = spreads(found.arms, found.comparisons[0].metric)
    each = [
        f"{label} {one.median:.2f}, {one.worst:.2f} (seed {one.worst_seed})"
        for label, one in spread.items()
    ]
    return [f"median, and worst seed: {'; '.join(each)}", *about_collapses(spread)]


def _show_boundary(found: Compared, gt: Path | None) -> None:
    from yolact.study.statistics.boundary import LEFT_OUT, available
    from yolact.study.statistics.table import boundary_table

    if not available():
        cli.note(LEFT_OUT)
        return
    print(f"\nboundary AP (means over seeds)\n{boundary_table(found.arms, gt)}")


def _read(argv: Sequence[str] | None) -> Namespace:
    """The command line, with what to compare as its first plain words."""
    words = list(sys.argv[1:] if argv is None else argv)
    plain = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return _parser().parse(["--what", *words] if plain else words)


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(_main, _read(argv))
