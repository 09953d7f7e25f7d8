"""Tables as Markdown, LaTeX and HTML, and the numbers as CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence

from yolact.study.report.data import Report, is_number
from yolact.study.report.quality import frames_per_second, quality, quality_of
from yolact.study.report.tables import Row, Table, dropped, label_of

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
            first, *others = map(_markdown, row.cells)
            first = (
                f"**{first}**"
                if row.kind == "baseline"
                else f"_{first}_"
                if row.kind == "published"
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
    first, *others = row.cells
    cells = [f"{first} ({row.remark})" if row.remark else first, *others]
    return _latex_cells(cells, r"\color{gray}" if row.kind == "published" else "") + (
        r" \midrule" if row.kind == "baseline" else ""
    )


def _latex_cells(cells: Sequence[str], style: str = "") -> str:
    return " & ".join(f"{style}{escape_latex(cell)}" for cell in cells) + r" \\"


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def html_table(table: Table) -> str:
    """A figure with a table; a value's ± stands below it in small type."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    body = "".join(map(_html_row, table.rows))
    notes = " ".join(map(html.escape, table.notes))
    words = ' class="worded"' if table.worded else ""
    return (
        '<figure class="table" '
        f'id="{table.key}"><figcaption><b>{html.escape(table.title)}</b></figcaption><div '
        'class="scroll">'
        f"<table{words}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><p "
        f'class="note">{notes}</p></figure>'
    )


def _html_row(row: Row) -> str:
    first, *others, last = row.cells
    remark = f"<small>{html.escape(row.remark)}</small>" if row.remark else ""
    verdict = (
        f'<span class="verdict {css_class(row.verdict)}">{html.escape(last)}</span>'
        if row.verdict
        else _html_value(last)
    )
    inner = "".join(f"<td>{_html_value(cell)}</td>" for cell in others)
    return (
        "<tr "
        f'class="{row.kind}"><td>{html.escape(first)}{remark}</td>{inner}<td>{verdict}</td></tr>'
    )


def _html_value(cell: str) -> str:
    value, sign, half = cell.partition(" ± ")
    return f"{html.escape(value)}<small>±{html.escape(half)}</small>" if sign else html.escape(cell)


def css_class(verdict: str) -> str:
    return verdict.replace(" ", "-")


# ---------------------------------------------------------------------------------------------- CSV


def results_csv(report: Report) -> str:
    """One line a run, unfinished ones too: settings, every metric in AP points, what stands beside
    AP, skipped steps, code, folder below the study's."""
    metrics = list(
        dict.fromkeys(metric for _, _, run in report.runs for metric in run.run.resampled.point)
    )
    rows = []
    for arm in report.arms:
        for seed, trained in sorted(arm.runs.items()):
            train, env = trained.config.train, trained.env
            rows.append(
                {
                    "arm": arm.label,
                    "seed": seed,
                    "state": "finished",
                    "loss": trained.config.loss.mask,
                    "batch_size": train.batch_size,
                    "lr": train.lr,
                    "iterations": train.iterations,
                    "images_seen": train.iterations * train.batch_size,
                    **{
                        metric: _plain(trained.run.resampled.point.get(metric))
                        for metric in metrics
                    },
                    **{
                        f"{shape}_{name}": _plain(value)
                        for shape in trained.quality
                        for name, value in quality_of(trained, shape).items()
                    },
                    "fps": _plain(frames_per_second(trained)),
                    "skipped_steps": trained.run.skipped,
                    "code": env.get("code", ""),
                    "commit": env.get("commit") or "",
                    "torch": env.get("versions", {}).get("torch", ""),
                    "torchvision": env.get("versions", {}).get("torchvision", ""),
                    "device": env.get("device", ""),
                    "folder": "/".join(trained.folder.parts[-2:]),
                }
            )
        rows += [
            {"arm": arm.label, "seed": seed, "state": why}
            for seed, why in sorted(report.unfinished.get(arm.label, {}).items())
        ]
    return _csv(rows)


def comparison_csv(report: Report) -> str:
    """One line an arm: means, difference with interval, p, verdict, differences of the other
    metrics, what stands beside AP."""
    rows, shape = [], report.metric.partition("_")[0]
    for arm in report.arms:
        row = {"arm": arm.label, "seeds": len(arm.runs), "metric": report.metric}
        for metric, found in arm.estimates.items():
            row |= {
                metric: _plain(found.mean),
                f"{metric}_low": _plain(found.low),
                f"{metric}_high": _plain(found.high),
            }
        row |= {
            f"{shape}_{name}": _plain(value)
            for name, value in quality(arm.runs.values(), shape).items()
        }
        row |= {
            "fps": _plain(arm.fps.mean) if arm.fps else "",
            "classes_dropped": _plain(dropped(report)),
        }
        c = arm.comparison
        if c is None:
            rows.append(
                row
                | {
                    "verdict": label_of(arm),
                    "unstable": sum(run.run.diverged for run in arm.runs.values()),
                }
            )
            continue
        numbers = {
            "difference": c.interval.difference,
            "low": c.interval.low,
            "high": c.interval.high,
            "p": c.p,
            "p_holm": c.p_holm,
            "p_equivalent": c.p_equivalent,
            "p_equivalent_holm": c.p_equivalent_holm,
            "seed_sd": c.seed_sd,
            "image_sd": c.image_sd,
        }
        row |= {
            "verdict": c.label,
            **{name: _plain(value) for name, value in numbers.items()},
            "common_seeds": " ".join(map(str, c.seeds)),
            "unstable": c.unstable,
            "exploratory": c.exploratory,
            "sign_flip_p": _plain(c.sign_flip),
        }
        for metric, found in c.others.items():
            row |= {
                f"d_{metric}": _plain(found.difference),
                f"d_{metric}_low": _plain(found.low),
                f"d_{metric}_high": _plain(found.high),
            }
        rows.append(row)
    return _csv(rows)


def _csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        list(dict.fromkeys(key for row in rows for key in row)),
        restval="",
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: float | None) -> float | str:
    return round(value, 6) if is_number(value) else ""
