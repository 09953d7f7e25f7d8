"""Median and worst seed of every arm, and runs that collapsed."""

from __future__ import annotations

from yolact.study.report.cells import Number
from yolact.study.report.data import Report
from yolact.study.report.tables import Row, Table, metric_title, tables
from yolact.study.statistics.collapse import LEAST_RUNS, Spread, about_collapses, spreads


def report_tables(report: Report) -> list[Table]:
    """All tables: the verdicts, median and worst seed, and the others."""
    first, *others = tables(report)
    return [first, spread_table(report), *others]


def spread_of(report: Report) -> dict[str, Spread]:
    """{label: Spread} of the arms that have runs."""
    return spreads({arm.label: arm.runs for arm in report.arms}, report.metric)


def spread_table(report: Report) -> Table:
    """One line an arm: median, worst run and its seed, and how far below the median that lies."""
    found = spread_of(report)
    rows = [
        Row(
            [
                label,
                Number(one.median),
                Number(one.worst),
                one.worst_seed,
                Number(one.below),
                Number(one.limit if one.below is not None else None),
            ],
            "baseline" if label == report.baseline else "",
        )
        for label, one in found.items()
    ]
    title = metric_title(report.metric)
    header = ["arm", f"median {title}", "worst", "seed", "robust sd below", "warned from"]
    notes = [
        "Robust sd below: how far the worst run lies below its arm's median, in robust standard "
        "deviations of all runs. A run is warned of beyond the last column, which 5 % of studies "
        f"of this shape exceed without a collapse. Fewer than {LEAST_RUNS} runs do not tell.",
        *(f"{sentence}." for sentence in about_collapses(found)),
    ]
    return Table("spread", "Median and worst seed", header, rows, notes)
