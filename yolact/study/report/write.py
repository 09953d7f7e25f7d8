"""Tables as Markdown and LaTeX, and the numbers as CSV: ways to print the values of cells. Those of
the page are in page/."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from layers.problems import printable
from yolact.study.report.cells import (
    Cell,
    Measured,
    Number,
    Probability,
    Seeds,
    is_number,
    plain,
)
from yolact.study.report.data import (
    ArmReport,
    Report,
    frames_per_second,
    shape_of,
)
from yolact.study.report.spread import spread_of
from yolact.study.report.tables import Row, Table, dropped, verdict
from yolact.study.statistics.beside import mean_quality, quality_of
from yolact.study.statistics.comparison import Comparison
from yolact.study.statistics.inference import VARIANCE_RULE

OF_OTHERS = ("published", "beside")  # kinds of rows
WIDE = 9  # columns from which a LaTeX table is shrunk to the width of the page
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "×": r"$\times$",
    "[": "{[}",
    "]": "{]}",
    "'": r"\textquotesingle{}",
}


def markdown(tables: Sequence[Table]) -> str:
    parts = []
    for table in tables:
        rule = ["---"] + ["---:"] * (len(table.header) - 2) + ["---" if table.worded else "---:"]
        lines = [f"## {table.title}", "", _pipes(map(_markdown, table.header)), _pipes(rule)]
        for row in table.rows:
            first, *others = (_markdown(plain(cell)) for cell in row.cells)
            first = (
                f"**{first}**"
                if row.kind == "baseline"
                else f"_{first}_"
                if row.kind in OF_OTHERS
                else first
            )
            lines.append(
                _pipes([first + (f" ({_markdown(row.remark)})" if row.remark else ""), *others])
            )
        parts.append("\n".join([*lines, "", *(_markdown(note) for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")


def latex(tables: Sequence[Table]) -> str:
    """Fragments for a document that loads the packages in the first line."""
    parts = [r"% needs \usepackage{booktabs,graphicx,textcomp,xcolor} and \usepackage[T1]{fontenc}"]
    for table in tables:
        columns = f"l{'r' * (len(table.header) - 2)}{'l' if table.worded else 'r'}"
        lines = [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_cells(table.header),
            r"\midrule",
            *map(_latex_row, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        if len(table.header) >= WIDE:
            lines = [r"\resizebox{\linewidth}{!}{%", *lines[:-1], lines[-1] + "}"]
        caption = escape_latex(" ".join([f"{table.title}.", *table.notes]))
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{caption}}}",
                    rf"\label{{tab:{table.key}}}",
                    *lines,
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _latex_row(row: Row) -> str:
    first, *others = map(plain, row.cells)
    cells = [f"{first} ({row.remark})" if row.remark else first, *others]
    return _latex_cells(cells, r"\color{gray}" if row.kind in OF_OTHERS else "") + (
        r" \midrule" if row.kind == "baseline" else ""
    )


def _latex_cells(cells: Iterable[str], style: str = "") -> str:
    return " & ".join(f"{style}{escape_latex(cell)}" for cell in cells) + r" \\"


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


# ---------------------------------------------------------------------------------------------- CSV


def results_csv(report: Report) -> str:
    """One line a run, unfinished ones too: settings, every metric in AP points, what stands beside
    AP, skipped steps, code, folder below the study's."""
    metrics = list(
        dict.fromkeys(metric for _, _, run in report.runs for metric in run.resampled.point)
    )
    rows: list[dict[str, Cell]] = []
    for arm in report.arms:
        for seed, run in sorted(arm.runs.items()):
            train, env = run.config.train, run.env
            points = run.resampled.point
            rows.append(
                {
                    "arm": arm.label,
                    "seed": seed,
                    "state": "finished",
                    "loss": run.config.loss.mask,
                    "batch_size": train.batch_size,
                    "lr": str(train.lr),  # as it was set: no digit is rounded away
                    "iterations": train.iterations,
                    "images_seen": train.iterations * train.batch_size,
                    **{metric: Number(points.get(metric)) for metric in metrics},
                    **{
                        f"{shape}_{name}": Number(value)
                        for shape in run.quality
                        for name, value in quality_of(run, shape).items()
                    },
                    "fps": Number(frames_per_second(run)),
                    "skipped_steps": run.skipped,
                    "code": env.get("code", ""),
                    "commit": env.get("commit") or "",
                    "torch": env.get("versions", {}).get("torch", ""),
                    "torchvision": env.get("versions", {}).get("torchvision", ""),
                    "device": env.get("device", ""),
                    "folder": "/".join(run.folder.parts[-2:]),
                }
            )
        rows += [
            {"arm": arm.label, "seed": seed, "state": why}
            for seed, why in sorted(report.unfinished.get(arm.label, {}).items())
        ]
    rows += [
        {
            "arm": row.label,
            "state": "external, as printed" if row.printed else "external",
            **{metric: Number(found.mean) for metric, found in row.estimates.items()},
            "folder": row.source,
        }
        for row in report.external
    ]
    return _csv(rows)


def comparison_csv(report: Report) -> str:
    """One line an arm: means, difference with interval, p, verdict, differences of the other
    metrics, what stands beside AP."""
    return _csv([_means(report, arm) | _against_the_baseline(arm) for arm in report.arms])


def _means(report: Report, arm: ArmReport) -> dict[str, Cell]:
    row: dict[str, Cell] = {"arm": arm.label, "seeds": len(arm.runs), "metric": report.metric}
    for metric, found in arm.estimates.items():
        cell = Measured(found.mean, found.half, least=found.least, most=found.most)
        row |= _three(cell, metric, f"{metric}_low", f"{metric}_high")
    shape = shape_of(report.metric)
    beside = mean_quality(arm.runs.values(), shape)
    row |= {f"{shape}_{name}": Number(value) for name, value in beside.items()}
    if own := spread_of(report).get(arm.label):
        row |= {
            "median": Number(own.median),
            "worst": Number(own.worst),
            "worst_seed": own.worst_seed,
            "worst_robust_sd_below": Number(own.below),
            "collapsed_seeds": " ".join(map(str, own.collapsed)),
        }
    return row | {
        "fps": Number(arm.fps.mean if arm.fps else None),
        "classes_dropped": Number(dropped(report)),
    }


def _against_the_baseline(arm: ArmReport) -> dict[str, Cell]:
    row: dict[str, Cell] = {"verdict": verdict(arm)}
    found: Comparison | None = arm.comparison
    if found is None:
        return row | {"unstable": sum(run.diverged for run in arm.runs.values())}
    gap = found.interval
    row |= _three(Measured(gap.difference, gap.half), "difference", "low", "high")
    row |= {
        "p": Probability(found.p),
        "p_holm": Probability(found.p_holm),
        "p_equivalent": Probability(found.p_equivalent),
        "p_equivalent_holm": Probability(found.p_equivalent_holm),
        "variance_rule": VARIANCE_RULE,
        "paired_t_p": Probability(found.paired_t),
        "seed_sd": Number(found.seed_sd),
        "image_sd": Number(found.image_sd),
        "common_seeds": " ".join(map(str, found.seeds)),
        "unstable": found.unstable,
        "exploratory": found.exploratory,
        "sign_flip_p": Probability(found.sign_flip),
    }
    for metric, other in found.others.items():
        names = (f"d_{metric}", f"d_{metric}_low", f"d_{metric}_high")
        row |= _three(Measured(other.difference, other.half), *names)
    return row


def _three(cell: Measured, value: str, low: str, high: str) -> dict[str, Cell]:
    """A CSV file has a column each for a value and the ends of its interval."""
    return {
        value: Number(cell.value),
        low: Number(cell.low),
        high: Number(cell.high),
    }


def _csv(rows: Sequence[dict[str, Cell]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        list(dict.fromkeys(key for row in rows for key in row)),
        restval="",
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows({key: csv_cell(cell) for key, cell in row.items()} for row in rows)
    return text.getvalue()


def csv_cell(cell: Cell) -> float | str:
    """Six decimals, whatever a table shows; empty where there is no number."""
    if isinstance(cell, (Number, Measured, Probability)):
        value = cell.p if isinstance(cell, Probability) else cell.value
        return round(value, 6) if is_number(value) else ""
    return cell.there if isinstance(cell, Seeds) else _no_formula(plain(cell))


def _no_formula(text: str) -> str:
    """Text as a spreadsheet shows it: what it would compute (=1+1) stands behind an apostrophe."""
    text = printable(text)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return text
