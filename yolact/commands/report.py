"""What a study found, as tables, figures and one HTML page: python scripts/report.py runs/STUDY

  --mixed                    put runs of different data, code, evaluation or length together all the
                             same
  --boundary                 also boundary AP, by faster-coco-eval, of runs that have their
                             mask_detections.json
  --keep docs/studies/NAME   also keep the finished runs there, without their weights, and write the
                             report there
  --out FOLDER               write the report there (default: report/ in the study's folder)

Writes report.html (self-contained), results.csv (one line a run), comparison.csv (one line an arm),
tables.md, tables.tex and the figures. docs/reference/reports.md describes them.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from yolact import cli
from yolact.files import write_whole, writing

FIGURES = {  # title and caption
    "forest": (
        "Differences to the baseline",
        "Dots: mean difference over seeds; thin lines: 95 % intervals, thick: 90 %, which must "
        "lie inside the margin for equivalence. Colours are verdicts.",
    ),
    "seeds": (
        "Every run",
        "One dot a run; grey lines join runs of one seed. Bars: mean and 95 % interval over seeds "
        "and images. Parallel lines: what seeds have in common, which pairing removes.",
    ),
    "thresholds": (
        "AP against IoU threshold",
        "Bands: 95 % intervals over seeds and images. Below: the difference to the baseline at "
        "the same seeds and on the same images, each panel on its own scale, the margin shaded.",
    ),
    "reliability": (
        "Scores against IoU",
        "Mean mask IoU of the detections in ten bins of score, all seeds of an arm together. "
        "Below the diagonal, scores promise more than masks hold. Dots grow with the number of "
        "detections.",
    ),
    "curves": (
        "Fig. 2: loss curves",
        "Means over seeds, smoothed, with the range of the seeds. Mask losses have units of their "
        "own, so each is divided by its first value: compare shapes, not heights. Box and class "
        "loss have one scale for all.",
    ),
}


def parser() -> cli.Parser:
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
        help="keep the finished runs without weights, in docs/studies/<study>",
    )
    flags.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report")
    return flags


def main(arguments: Namespace) -> int:
    from yolact.study.report.archive import keep
    from yolact.study.report.data import collect

    if arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]}: there is no config to change here")
    report = collect(arguments.study, mixed=arguments.mixed)
    for label, seeds in report.unfinished.items():
        for seed, why in sorted(seeds.items()):
            cli.note(f"left out: {label}, seed {seed}: {why}")
    for stray, why in report.strays.items():
        cli.note(f"left out: {stray}: {why}")
    for kind, what in report.mixed.items():
        cli.note(f"--mixed: different {kind}: {what}")
    if arguments.boundary:
        add_boundary(report)
    if arguments.keep:
        new = keep(report, arguments.keep)
        print(f"kept {len(new)} runs in {arguments.keep / 'runs'}")
    out = arguments.out or (arguments.keep or report.folder) / "report"
    print(write(report, out))
    return 0


def add_boundary(report) -> None:
    from yolact.study.report.quality import measure_boundary
    from yolact.study.statistics.boundary import available

    if available():
        measure_boundary(report)
    else:
        cli.note(
            "--boundary: faster-coco-eval is not installed, so boundary AP is left out (pip "
            'install -e ".[boundary]")'
        )


def write(report, out: Path) -> Path:
    """Writes every file of the report, and returns the page."""
    from yolact.study.report.figures import curves, forest, reliability, seeds, thresholds
    from yolact.study.report.page import page
    from yolact.study.report.tables import tables
    from yolact.study.report.write import comparison_csv, latex, markdown, results_csv

    made = tables(report)
    drawn = {
        "forest": forest(report),
        "seeds": seeds(report),
        "thresholds": thresholds(report),
        "reliability": reliability(report),
        "curves": curves(report),
    }
    figures = {
        key: (
            FIGURES[key][0],
            content or b"",
            FIGURES[key][1] if content else "there is nothing to draw",
        )
        for key, content in drawn.items()
    }
    figures["gallery"] = ("Fig. 3: predictions", *_gallery(report))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for key, (_, content, _) in figures.items():
            if content:
                (out / f"{key}.{'png' if content.startswith(bytes([137])) else 'jpg'}").write_bytes(
                    content
                )
    for name, text in (
        ("results.csv", results_csv(report)),
        ("comparison.csv", comparison_csv(report)),
        ("tables.md", markdown(made)),
        ("tables.tex", latex(made)),
        ("report.html", page(report, made, figures)),
    ):
        write_whole(out / name, text)
    return out / "report.html"


def _gallery(report) -> tuple[bytes, str]:
    """The picture and its caption; no picture, and why, where the images or detections are not
    there."""
    from yolact.study.report.gallery import picture

    try:
        return picture(report)
    except (ValueError, OSError) as error:
        cli.note(f"no picture of predictions: {cli.one_line(error)}")
        return b"", f"left out: {cli.one_line(error)}"


def read_arguments(argv: list[str] | None = None) -> Namespace:
    """The command line, with the study's folder as its first plain word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words = ["--study", *words]
    flags = parser()
    arguments = flags.parse(words)
    if arguments.study is None:
        flags.error("name a study's folder first, such as runs/quick_study")
    return arguments


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, read_arguments())
