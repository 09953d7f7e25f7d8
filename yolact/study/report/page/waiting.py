"""What the page of a running study has beside a report's: how far the runs are, and what stands
there before one is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from yolact.study.plan import Study
from yolact.study.report.page.render import LivePart, fragment, print_page


@dataclass(frozen=True)
class LiveRow:
    """cells: (text, state) of each seed."""

    label: str
    cells: Sequence[tuple[str, str]]


def live_html(
    primary: str,
    seeds: Sequence[int],
    rows: Sequence[LiveRow],
    summary: str,
    failures: Sequence[str],
    curves: Markup | None,
) -> Markup:
    """The progress: a row an arm, a column a seed, and the curves so far."""
    return fragment(
        "progress.html",
        primary=primary,
        seeds=seeds,
        rows=rows,
        summary=summary,
        failures=failures,
        curves=curves,
    )


def waiting_page(study: Study, live: LivePart, why: str) -> str:
    """The page while there is no report, and why there is none."""
    content = {
        "title": study.name,
        "description": study.description,
        "arms": [],
        "warnings": [{"what": "There is no report yet", "more": f": {why}."}],
        "tabs": [],
    }
    return print_page(content, {"metric": study.primary, "arms": [], "runs": []}, live=live)
