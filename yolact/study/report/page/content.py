"""What the page says: its tabs with their parts, the words around them, and the numbers that its
script reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from yolact.run_files import CONFIG
from yolact.study.report.cells import plain
from yolact.study.report.curves import run_curves
from yolact.study.report.data import STUDY_RUNS, ArmReport, Report
from yolact.study.report.drawing import Drawing
from yolact.study.report.images.tab import ImagesTab
from yolact.study.report.page.facts import arm_settings, facts_of, left_out, meanings, warnings
from yolact.study.report.page.render import LivePart, data_uri, print_page
from yolact.study.report.palette import ARMS
from yolact.study.report.svg import svg
from yolact.study.report.tables import Row, Table
from yolact.study.statistics import FinishedRun
from yolact.study.statistics.inference import VARIANCE_RULE

POINTS = 60  # of a run's curve where the pointer shows it


@dataclass(frozen=True)
class TabPart:
    """kind: table, figure, or a template's name; what: the table or the picture."""

    key: str
    kind: str
    title: str = ""
    what: Any = None


@dataclass(frozen=True)
class Tab:
    key: str
    title: str
    parts: Sequence[TabPart]


@dataclass(frozen=True)
class PagePicture:
    """A figure as the page holds it."""

    key: str
    title: str
    picture: Markup | None
    caption: str


def page(
    report: Report,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    images: ImagesTab,
    *,
    live: LivePart | None = None,
) -> str:
    """The report as one HTML file."""
    return print_page(content(report, tables, drawings, images), data(report, images), live=live)


def content(
    report: Report, tables: Sequence[Table], drawings: Sequence[Drawing], images: ImagesTab
) -> dict[str, Any]:
    """What the templates print."""
    study = report.study
    return {
        "title": report.title,
        "description": study.description,
        "arms": [{"label": arm.label, "colour": colour_of(report, arm)} for arm in report.arms],
        "warnings": warnings(report),
        "answers": [
            {
                "arm": number,
                "verdict": arm.comparison.verdict,
                "sentence": arm.comparison.sentence,
            }
            for number, arm in enumerate(report.arms)
            if arm.comparison is not None
        ],
        "tabs": _tabs(report, tables, drawings, images),
        "facts_of_study": facts_of(report),
        "settings": arm_settings(report),
        "left_out": left_out(report),
        "meanings": meanings(report),
        "paired": _paired(report),
        "images": _of_images(images),
    }


def _of_images(images: ImagesTab) -> dict[str, Any]:
    return {"any": bool(images.pairs), "lacking": images.pictures[1]}


def _tabs(
    report: Report, tables: Sequence[Table], drawings: Sequence[Drawing], images: ImagesTab
) -> list[Tab]:
    parts = {table.key: _table_part(report, table) for table in tables}
    parts |= {drawing.key: _figure_part(drawing) for drawing in drawings}
    parts["images"] = TabPart("images", "images")
    if images.chance is not None:
        parts["chance"] = _table_part(report, images.chance)
    if images.pictures[1] and images.pairs:
        parts["changes"] = _table_part(report, images.table)
    parts["answer"] = TabPart("answer", "answer")
    parts["made"] = TabPart("made", "made")
    parts["reading"] = TabPart("reading", "reading", "How to read it")
    layout = {
        "verdicts-tab": ("Verdicts", ("answer", "forest", "verdicts", "spread", "seeds")),
        "tables-tab": (
            "Tables",
            (
                "batch",
                "single",
                "hybrid",
                "thresholds",
                "others",
                "beside",
                "shared",
                "coco",
                "external",
            ),
        ),
        "images-tab": ("Images", ("chance", "images", "changes", "gallery")),
        "errors-tab": (
            "Errors",
            (
                *("errors", "gains", "ap_by_iou", "precision_recall"),
                *("by_size", "by_class", "boundary", "reliability"),
            ),
        ),
        "training-tab": ("Training", ("curves",)),
        "method-tab": ("Method", ("made", "reading")),
    }
    tabs = [
        Tab(key, title, [parts[name] for name in names if name in parts])
        for key, (title, names) in layout.items()
    ]
    return [tab for tab in tabs if tab.parts]


def _table_part(report: Report, table: Table) -> TabPart:
    """The table with the arm of each row, so that it can be hidden."""
    numbers = {arm.label: number for number, arm in enumerate(report.arms)}
    rows: list[Row] = []
    for row in table.rows:
        own = numbers.get(plain(row.cells[0]))
        above = rows[-1].arm if rows and row.kind == "published" else None
        rows.append(replace(row, arm=above if own is None else own))
    return TabPart(table.key, "table", table.title, replace(table, rows=rows))


def _figure_part(drawing: Drawing) -> TabPart:
    picture: Markup | None = None
    if isinstance(drawing.figure, bytes):
        picture = Markup('<img alt="{}" src="{}">').format(
            drawing.title, data_uri(drawing.figure, "jpeg")
        )
    elif drawing.figure is not None:
        picture = svg(drawing.figure, drawing.title, drawing.key)
    shown = PagePicture(drawing.key, drawing.title, picture, drawing.caption)
    return TabPart(drawing.key, "figure", drawing.title, shown)


def _paired(report: Report) -> str:
    if report.origin != STUDY_RUNS:
        return "Runs of one seed count as a pair, and all share the images"
    return (
        "Arms are paired: runs of one seed share initial weights, order of the images and "
        "augmentation"
        if report.study.paired
        else "Arms are not paired: each trained with seeds of its own, and what they share is the "
        "start, if the study has one"
    )


# ------------------------------------------------------------------------- what the script reads


def data(report: Report, images: ImagesTab) -> dict[str, Any]:
    """The page's numbers: of each arm what it was compared by, of each run what the pointer
    shows."""
    return {
        "metric": report.metric,
        "arms": [_arm(report, arm) for arm in report.arms],
        "runs": [
            _run(report, arm, number, seed)
            for number, arm in enumerate(report.arms)
            for seed in sorted(arm.runs)
        ],
        "images": images.pictures[0],
    }


def _arm(report: Report, arm: ArmReport) -> dict[str, Any]:
    found, own = arm.comparison, arm.estimates.get(report.metric)
    mean = {} if own is None else {"mean": own.mean, "low": own.low, "high": own.high}
    about = {"label": arm.label, "colour": colour_of(report, arm), **mean}
    if found is None:
        return about
    return about | {
        "verdict": found.label,
        "difference": found.interval.difference,
        "difference_low": found.interval.low,
        "difference_high": found.interval.high,
        "p": found.p,
        "p_holm": found.p_holm,
        "paired_t": found.paired_t,
        "rule": VARIANCE_RULE,
        "seeds": list(found.seeds),
    }


def _run(report: Report, arm: ArmReport, number: int, seed: int) -> dict[str, Any]:
    run = arm.runs[seed]
    points = run.resampled.point
    name = f"{arm.arm.slug}/{run.folder.name}" if report.trained else run.path.name
    curves = run_curves(run.folder, run.config.train.iterations) if report.trained else {}
    return {
        "arm": number,
        "seed": seed,
        "name": name,
        "metrics": {
            key: points[key]
            for key in dict.fromkeys((report.metric, "mask_ap", "mask_ap50", "mask_ap75", "box_ap"))
            if key in points
        },
        "curves": {key: _thin(x, y) for key, (x, y) in curves.items() if len(x) > 1},
        "command": _command(report, run, name),
    }


def _command(report: Report, run: FinishedRun, name: str) -> str:
    """What trains a run again; nothing of results files."""
    if report.origin == STUDY_RUNS:
        where = "/".join(report.folder.parts[-2:])
        return f"yolact sweep {where}/study.yaml --run {name}"
    if report.trained and (run.folder / CONFIG).is_file():
        return f"yolact train --config {os.path.relpath(run.folder / CONFIG)}"
    return ""


def _thin(x: Any, y: Any) -> list[list[float]]:
    step = max(1, len(x) // POINTS)
    return [[float(a), float(b)] for a, b in zip(x[::step], y[::step])]


def colour_of(report: Report, arm: ArmReport) -> str:
    """The name of an arm's colour, as the figures have it."""
    others = [one for one in report.arms if one is not report.base]
    return "ink" if arm is report.base else ARMS[others.index(arm) % len(ARMS)]
