"""A whole report in one folder: the page, the tables, the numbers and the figures."""

from __future__ import annotations

from pathlib import Path

from yolact.cli import note, one_line
from yolact.files import write_whole, writing
from yolact.study.report.bounds import Bounds
from yolact.study.report.curves import curves
from yolact.study.report.data import STUDY_RUNS, Report, shape_of
from yolact.study.report.drawing import Drawing
from yolact.study.report.errors.figures import (
    by_boundary,
    by_class,
    by_size,
    gains_by_kind,
    kinds_of_errors,
    precision_recall,
)
from yolact.study.report.figures import forest, reliability, seeds, thresholds
from yolact.study.report.gallery import picture
from yolact.study.report.images.tab import IMAGES, ImagesTab
from yolact.study.report.page.content import page
from yolact.study.report.spread import report_tables
from yolact.study.report.svg import png
from yolact.study.report.write import comparison_csv, latex, markdown, results_csv

PAGE = "report.html"
OLDER = (
    "These records are of an older version, which do not tell class from background: both count as "
    "background, and every instance that is not found is missed."
)
FIGURES = {  # title and caption
    "forest": (
        "Differences to the baseline",
        "Dots: mean difference over seeds; thin lines: 95 % intervals, thick: 90 %, which must "
        "lie inside the margin for equivalence. Colours and markers are verdicts.",
    ),
    "seeds": (
        "Every run",
        "One dot a run; grey lines join runs of one seed. Bars: mean and 95 % interval over seeds "
        "and images. Parallel lines: what seeds have in common, which pairing removes.",
    ),
    "ap_by_iou": (
        "AP against IoU threshold",
        "Bands: 95 % intervals over seeds and images. Below: the difference to the baseline at "
        "the same seeds and on the same images, each panel on its own scale, the margin shaded.",
    ),
    "errors": (
        "Kinds of errors",
        "Per 100 instances, at the score threshold of each run's oLRP and IoU .50; means over "
        "seeds with 95 % intervals over seeds and images. After TIDE: wrong place, IoU .1 to .5 "
        "with an instance of the class; class, on one of another class; duplicate, on one that "
        "is found already; background, on none; missed, touched by no detection.",
    ),
    "gains": (
        "What mending an error gains (dAP)",
        "Points of AP50 that an arm gains where errors of one kind alone are mended, at every "
        "score; means over seeds with 95 % intervals over seeds and images. After TIDE: a "
        "detection in the wrong place or class is put right, or goes where its instance is found; "
        "duplicates, background, and what is wrong in both go; instances that are missed are not "
        "counted. Last: every false detection goes, every instance not found is not counted.",
    ),
    "precision_recall": (
        "Precision against recall",
        "COCO's interpolated precision, means over classes and seeds. The area is AP50 and AP75.",
    ),
    "by_size": (
        "AP by size",
        "Means over seeds with 95 % intervals: small below 32² pixels, large above 96².",
    ),
    "by_class": (
        "AP by class",
        "Means over seeds with 95 % intervals over seeds and images. Of many classes, those in "
        "which arms lie furthest apart.",
    ),
    "boundary": (
        "Boundary AP",
        "AP where masks count as right by the IoU of their edges too (Cheng et al., CVPR 2021); "
        "means over seeds with 95 % intervals over seeds alone.",
    ),
    "reliability": (
        "Scores against IoU",
        "Mean mask IoU of the detections in ten bins of score, all seeds of an arm together. "
        "Below the diagonal, scores promise more than masks hold. Dots grow with the number of "
        "detections.",
    ),
    "curves": (
        "Loss curves",
        "Means over seeds, smoothed, with the range of the seeds. Mask losses have units of their "
        "own, so each is divided by its first value: compare shapes, not heights. Box and class "
        "loss have one scale for all.",
    ),
}

NOTHING = {  # why a figure may not be there
    "gains": "the records are of an older version, which do not tell a wrong class from a wrong "
    "place: evaluate again (eval.py --trained_model=RUN/weights/last.pth)",
    "by_class": "there is one class, whose AP is the AP",
    "boundary": "it was not measured: yolact report STUDY --boundary",
}
ALONE = {**NOTHING, "boundary": "it was not measured: yolact compare --boundary prints it"}

DRAWN = {
    "forest": forest,
    "seeds": seeds,
    "ap_by_iou": thresholds,
    "reliability": reliability,
    "errors": kinds_of_errors,
    "gains": gains_by_kind,
    "precision_recall": precision_recall,
    "by_size": by_size,
    "by_class": by_class,
    "boundary": by_boundary,
    "curves": curves,
}


def write_report(report: Report, out: Path, *, images: int = IMAGES) -> Path:
    """Writes report.html, results.csv, comparison.csv, tables.md, tables.tex and the figures to the
    folder `out`, and returns the page. images: see ImagesTab."""
    made = report_tables(report)
    drawings = draw(report)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            if drawing.figure is not None:
                content = drawing.figure
                content = content if isinstance(content, bytes) else png(content)
                (out / drawing.file).write_bytes(content)
    for name, text in (
        ("results.csv", results_csv(report)),
        ("comparison.csv", comparison_csv(report)),
        ("tables.md", markdown(made)),
        ("tables.tex", latex(made)),
        (PAGE, page(report, made, drawings, ImagesTab(report, images))),
    ):
        write_whole(out / name, text)
    return out / PAGE


def write_page(report: Report, file: Path, *, images: int = IMAGES) -> Path:
    """Writes the page alone, to a file. images: see ImagesTab."""
    made = page(report, report_tables(report), draw(report), ImagesTab(report, images))
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, made)
    return file


def draw(report: Report) -> list[Drawing]:
    """Every figure; those that cannot be made say why."""
    drawings = []
    for key, (title, caption) in FIGURES.items():
        figure = DRAWN[key](report)
        if key == "ap_by_iou" and report.bounds:
            caption = f"{caption} {_of_bounds(report.bounds)}"
        if key == "errors" and _older(report):
            caption = f"{caption} {OLDER}"
        reasons = NOTHING if report.origin == STUDY_RUNS else ALONE
        words = reasons.get(key, "there is nothing to draw") if figure is None else caption
        drawings.append(Drawing(key, title, figure, words))
    return [*drawings, _gallery(report)]


def _older(report: Report) -> bool:
    shape = shape_of(report.metric)
    return any(run.records().found[shape].matched is None for _, _, run in report.runs)


def _gallery(report: Report) -> Drawing:
    title = "The same images under each arm"
    if not report.trained:
        return Drawing("gallery", title, None, "left out: it is drawn of runs")
    try:
        return Drawing("gallery", title, *picture(report))
    except (ValueError, OSError) as error:  # the images or the detections are not there
        note(f"no picture of predictions: {one_line(error)}")
        return Drawing("gallery", title, None, f"left out: {one_line(error)}")


def _of_bounds(bounds: Bounds) -> str:
    words = "; ".join(f"{rule.words}: AP {100 * one['AP']:.1f}" for rule, one in bounds.items())
    return f"Thin dashes: what masks that are learnt exactly reach, every object found ({words})."
