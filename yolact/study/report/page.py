"""The report as one HTML page that needs nothing else: tables, pictures in base64, no scripts, no
requests."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolact.study.arms import config_differences
from yolact.study.folder.reading import starts_of
from yolact.study.report.data import Report
from yolact.study.report.figures import VERDICTS
from yolact.study.report.tables import Table
from yolact.study.report.write import css_class, html_table
from yolact.study.statistics.comparison import unstable_baseline
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, IDENTICAL, NONE, UNDECIDED, WORSE

SHOWN_SETTINGS = (
    "model.backbone",
    "model.max_size",
    "data.name",
    "train.batch_size",
    "train.lr",
    "train.precision",
    "train.ema_decay",
)
MEANING = {
    BETTER: "the difference is above 0 at the 5 % level, after paying for the number of arms; “(< "
    "margin)”: but surely small",
    WORSE: "the difference is below 0, by the same test",
    EQUIVALENT: "the difference is surely smaller than the margin, whichever its sign",
    UNDECIDED: "none of these: there may be a difference or none, more seeds or images are needed",
    IDENTICAL: "the runs are the same, which says nothing about the losses",
    NONE: "fewer than three seeds that the baseline has too",
}
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;color:#222;
max-width:1180px;margin:0 auto;
padding:2rem 1.2rem 4rem;background:#fff}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
.lead{color:#555;margin:.2rem 0 1.2rem}p.note,figcaption small{color:#666;font-size:.85rem;
margin:.4rem 0 0}
.warning{border-left:4px solid #c8501e;background:#fdf3ee;padding:.6rem .9rem;margin:1rem 0}
ul.answer{list-style:none;padding:0;margin:1rem 0}ul.answer li{display:flex;gap:.8rem;
margin:.45rem 0;align-items:baseline}
ul.answer .verdict{flex:0 0 8.5rem;text-align:center}
.verdict{border-radius:.7rem;padding:.05rem .6rem;color:#fff;background:#8a8a8a;font-size:.85rem;
white-space:nowrap}
figure{margin:1.4rem 0}figure img{max-width:100%;height:auto;display:block;margin:.5rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;
font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{padding:.28rem .42rem;text-align:right;vertical-align:top;border-bottom:1px solid #eee}
th{border-bottom:2px solid #999;font-weight:600;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;min-width:9rem;max-width:17rem;overflow-wrap:anywhere}
.worded th:last-child,.worded td:last-child{text-align:left;padding-left:.8rem}
td:not(:first-child){white-space:nowrap}td.settings{white-space:normal!important}
td small{display:block;color:#777;font-size:.78em}tr.baseline{background:#f4f4f4}
tr.published td{color:#777;font-style:italic}
tr.published td:first-child{padding-left:1.3rem}tr.published td:last-child{font-size:.9em}
td.settings{text-align:left!important}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.1rem;font-size:.9rem;
margin:.5rem 0}dt{color:#666}dd{margin:0}
code{font:0.92em ui-monospace,Menlo,Consolas,monospace}
@media print{body{max-width:none;padding:0}figure{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Drawing:
    """A figure. content: PNG or JPEG; None where it could not be made, and the caption says
    why."""

    title: str
    content: bytes | None
    caption: str

    @property
    def ending(self) -> str:
        """png or jpg"""
        return "png" if (self.content or b"").startswith(b"\x89PNG") else "jpg"


def page(report: Report, tables: Sequence[Table], figures: Mapping[str, Drawing]) -> str:
    by_key = {table.key: table for table in tables}
    study = report.study
    losses = [
        html_table(by_key[key])
        for key in ("batch", "single", "hybrid", "thresholds")
        if key in by_key
    ]
    parts = [
        f"<h1>{html.escape(study.name)}</h1>",
        f'<p class="lead">{html.escape(" ".join(study.description.split()))}</p>',
        *_warnings(report),
        "<h2>What it says</h2>",
        _answer(report),
        _figure(figures, "forest"),
        html_table(by_key["verdicts"]),
        _figure(figures, "seeds"),
        "<h2>Tables</h2>",
        *losses,
        *(html_table(by_key[key]) for key in ("others", "beside") if key in by_key),
        "<h2>Where the difference lies</h2>",
        _figure(figures, "thresholds"),
        _figure(figures, "reliability"),
        "<h2>Training</h2>",
        _figure(figures, "curves"),
        "<h2>The same images under each arm</h2>",
        _figure(figures, "gallery"),
        "<h2>How it was made</h2>",
        _facts(report),
        *_left_out(report),
        "<h2>How to read it</h2>",
        _reading(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta '
        f'charset="utf-8"><title>{html.escape(study.name)}</title><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><style>{STYLE}{_colours()}</style></head><body>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _colours() -> str:
    return "".join(
        f".verdict.{css_class(name)}{{background:{colour}}}" for name, colour in VERDICTS.items()
    )


def _answer(report: Report) -> str:
    items = []
    for arm in report.arms:
        if arm.comparison is not None:
            pill = (
                '<span class="verdict '
                f'{css_class(arm.comparison.verdict)}">{html.escape(arm.comparison.verdict)}</span>'
            )
            items.append(f"<li>{pill}<span>{html.escape(arm.comparison.sentence)}.</span></li>")
    if not items:
        return "<p>There is one arm only, so nothing to compare.</p>"
    return f'<ul class="answer">{"".join(items)}</ul>'


def _warnings(report: Report) -> list[str]:
    found = [
        f"<b>The runs are of different {html.escape(kind)}</b>, and were put together on request: "
        f"{html.escape(what)}. Every verdict is exploratory."
        for kind, what in report.mixed.items()
    ]
    if report.study.amended:
        found.append(
            "<b>The study was changed after it began</b> ("
            + html.escape(", ".join(report.study.amended))
            + "), so its verdicts are exploratory."
        )
    unstable = unstable_baseline(report.baseline, report.base.runs.values())
    if unstable:
        found.append(f"<b>{html.escape(unstable)}</b>: every difference is to these.")
    missing = sum(map(len, report.unfinished.values()))
    if missing:
        total = missing + len(report.runs)
        found.append(
            f"<b>{missing} of {total} planned runs {'is' if missing == 1 else 'are'} not "
            "finished</b> and left out, see below."
        )
    return [f'<div class="warning">{text}</div>' for text in found]


def _figure(figures: Mapping[str, Drawing], key: str) -> str:
    drawing = figures[key]
    title, caption = html.escape(drawing.title), html.escape(drawing.caption)
    if not drawing.content:
        return f'<p class="note">{title}: {caption}</p>'
    kind = {"png": "png", "jpg": "jpeg"}[drawing.ending]
    data = base64.b64encode(drawing.content).decode("ascii")
    return (
        f'<figure id="{key}"><figcaption><b>{title}</b></figcaption><img '
        f'alt="{title}" src="data:image/{kind};base64,{data}"><p '
        f'class="note">{caption}</p></figure>'
    )


def _facts(report: Report) -> str:
    study, runs = report.study, [trained for _, _, trained in report.runs]
    first = runs[0]
    starts = [start for run in runs for start in starts_of(run.env)]
    seeds = ", ".join(map(str, study.seeds)) + (
        f"; added later: {', '.join(map(str, study.added_seeds))}" if study.added_seeds else ""
    )

    def values(*keys: str) -> str:
        found = []
        for start in starts:
            value: Any = start
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            found.append(str(value or "not recorded"))
        return ", ".join(dict.fromkeys(found))

    config = first.config.model_dump()
    settings = ", ".join(
        f"{key}={config[key.split('.')[0]][key.split('.')[1]]}"
        for key in SHOWN_SETTINGS
        if key.split(".")[1] in config[key.split(".")[0]]
    )
    facts = {
        "arms": str(len(report.arms)),
        "seeds": seeds,
        "baseline": report.baseline,
        "length": f"{study.budget} iterations, equal {study.equal}",
        "metric": f"{report.metric} of the weights after the last iteration, margin "
        f"{study.margin:g}, looked at {study.looked_at}",
        "validation set": f"{first.config.data.name}: {first.images} images, digest "
        f"{first.truth_digest[:16]}",
        "base config": f"{study.base} ({settings})",
        "code": f"digest {values('code')}, torch {values('versions', 'torch')}, torchvision "
        f"{values('versions', 'torchvision')}; commit {values('commit')}",
        "device": values("device"),
    }
    body = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items()
    )
    return f"<dl>{body}</dl>{_arm_settings(report)}"


def _arm_settings(report: Report) -> str:
    rows = []
    for arm in report.arms:
        changed = {
            key: new
            for key, (_, new) in config_differences(report.base.config, arm.config).items()
            if key != "train.seed"
        }
        words = ", ".join(f"{key}={value}" for key, value in changed.items()) or (
            "the baseline" if arm is report.base else "nothing"
        )
        rows.append(
            f"<tr><td>{html.escape(arm.label)}</td><td "
            f'class="settings"><code>{html.escape(words)}</code></td></tr>'
        )
    return (
        '<figure class="table"><figcaption><b>What each arm changes against the baseline</b>'
        '</figcaption><div class="scroll"><table>'
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _left_out(report: Report) -> list[str]:
    lines = [
        f"{label}, seed {seed}: {why}"
        for label, found in report.unfinished.items()
        for seed, why in sorted(found.items())
    ]
    lines += [f"{path.parent.name}/{path.name}: {why}" for path, why in report.strays.items()]
    if not lines:
        return []
    return [
        "<h2>Left out</h2>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>",
    ]


def _reading(report: Report) -> str:
    used = {arm.comparison.verdict for arm in report.arms if arm.comparison is not None}
    meanings = "".join(
        '<dt><span class="verdict '
        f'{css_class(name)}">{html.escape(name)}</span></dt><dd>{html.escape(MEANING[name])}.</dd>'
        for name in MEANING
        if name in used
    )
    paired = (
        "Arms are paired: runs of one seed share initial weights, order of the images and "
        "augmentation"
        if report.study.paired
        else "Arms are not paired: each trained with seeds of its own, and what they share is the "
        "start, if the study has one"
    )
    return (
        f'<dl>{meanings}</dl><p class="note">{paired}. Intervals count both seeds and images, and '
        "images are shared by all runs. An interval can leave 0 out while the verdict is "
        "undecided: the interval speaks of one arm by itself, the verdict pays for all of them. "
        "Details: docs/reference/statistics.md.</p>"
    )
