"""What a study found, as tables, figures and one HTML page: python scripts/report.py runs/STUDY

  --mixed                    put runs of different data, code, evaluation or length together all the
                             same
  --boundary                 also boundary AP, by faster-coco-eval, of runs that have their
                             mask_detections.json
  --keep studies/NAME        also keep the finished runs there, without their weights, and write the
                             report there
  --images N                 of each arm, show the N most improved and N most worsened images, and
                             half as many others (default 40)
  --serve                    write no report; show the page of a running study on this machine:
                             progress, curves, verdicts so far; --port N chooses the port
  --out FOLDER               write the report there (default: report/ in the study's folder)

Writes report.html (self-contained), results.csv (one line a run), comparison.csv (one line an arm),
tables.md, tables.tex and the figures. docs/reference/reports.md describes them.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yolact import cli
from yolact.study.folder.layout import REPORT, RUNS

if TYPE_CHECKING:
    from yolact.study.report.data import Report


def _parser() -> cli.Parser:
    flags = cli.Parser(usage="%(prog)s STUDY [flags]", description=__doc__)
    flags.add_argument(
        "--study",
        metavar="STUDY",
        help="the study's folder; may also be given without the flag, first",
    )
    flags.switch(
        "--mixed",
        help="put runs of different data, code, evaluation or length together, and say so",
    )
    flags.switch(
        "--boundary",
        help="also measure boundary AP, by faster-coco-eval, of runs that have their "
        "mask_detections.json",
    )
    flags.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep the finished runs without weights, in studies/<study>",
    )
    flags.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="images a list of the Images tab: the N most improved, the N most worsened, and half "
        "as many others (default 40)",
    )
    flags.switch(
        "--serve",
        help="serve the page of a running study on the loopback address, until Ctrl-C",
    )
    flags.add_argument(
        "--port", type=int, metavar="N", help="with --serve: its port (default: a free one)"
    )
    flags.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report")
    return flags


def _main(arguments: Namespace) -> int:
    from yolact.study.report.archive import keep
    from yolact.study.report.assemble import write_report
    from yolact.study.report.data import collect
    from yolact.study.report.images.tab import IMAGES

    if arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]}: there is no config to change here")
    count = IMAGES if arguments.images is None else arguments.images
    if count < 1:
        raise ValueError(f"--images={count}: give 1 or more")
    if arguments.serve:
        return _serve(arguments)
    if arguments.port is not None:
        raise ValueError("--port is of --serve: give that too")
    report = collect(arguments.study, mixed=arguments.mixed)
    for label, seeds in report.unfinished.items():
        for seed, why in sorted(seeds.items()):
            cli.note(f"left out: {label}, seed {seed}: {why}")
    for stray, why in report.strays.items():
        cli.note(f"left out: {stray}: {why}")
    for kind, what in report.mixed.items():
        cli.note(f"--mixed: different {kind}: {what}")
    if arguments.boundary:
        _add_boundary(report)
    if arguments.keep:
        new = keep(report, arguments.keep)
        cli.say(f"kept {len(new)} runs in {arguments.keep / RUNS}")
    out = arguments.out or (arguments.keep or report.folder) / REPORT
    cli.say(write_report(report, out, images=count))
    return 0


def _serve(arguments: Namespace) -> int:
    from yolact.study.report.live import watch
    from yolact.study.report.live.server import serve

    if arguments.out or arguments.keep or arguments.boundary:
        raise ValueError("--serve writes no report: leave out --out, --keep and --boundary")
    count = watch.IMAGES if arguments.images is None else arguments.images
    watched = watch.Watched(Path(arguments.study), count, arguments.mixed)
    return serve(watched, arguments.port or 0)


def _add_boundary(report: Report) -> None:
    from yolact.study.report.data import measure_boundary
    from yolact.study.statistics.boundary import LEFT_OUT, available

    if available():
        measure_boundary(report)
    else:
        cli.note(LEFT_OUT)


def _read(argv: Sequence[str] | None) -> Namespace:
    """The command line, with the study's folder as its first plain word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words = ["--study", *words]
    flags = _parser()
    arguments = flags.parse(words)
    if arguments.study is None:
        flags.error("name a study's folder first, such as runs/quick_study")
    return arguments


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(_main, _read(argv))
