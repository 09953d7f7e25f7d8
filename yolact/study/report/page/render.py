"""The page as one HTML file that loads nothing: templates with escaping, one script under its hash,
and the numbers that the script shows."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from yolact.study.report.cells import Cell, Measured, Number, Probability, Seeds, Verdict, is_number
from yolact.study.report.cells import plain as plain_text
from yolact.study.report.palette import VERDICTS, css, css_class
from yolact.study.report.tables import Table

TEMPLATES = "templates"


@dataclass(frozen=True)
class LivePart:
    """version: of the page, by which its script knows a newer one; finished of planned runs; html:
    the progress when the page was made."""

    version: str
    finished: int
    planned: int
    html: Markup

    @property
    def provisional(self) -> bool:
        """Whether verdicts may still change."""
        return self.finished < self.planned


def print_page(
    content: Mapping[str, Any], data: Mapping[str, Any], *, live: LivePart | None = None
) -> str:
    """The page. content: what the templates print; data: what the script reads, plain values whose
    NaN become null. live: served, and allowed to ask its own server for news."""
    parts = ("page.js", "images.js", *["live.js"] * (live is not None))
    script = '"use strict";(() => {\n' + "".join(map(_file, parts)) + "view();\n})();"
    return (
        _environment()
        .get_template("page.html")
        .render(
            **content,
            live=live,
            data=plain_data(data),
            policy=policy(script, live=live is not None),
            style=Markup(css() + _file("page.css")),
            # both are files of this package
            script=Markup(script),
        )
    )


def policy(script: str, *, live: bool = False) -> str:
    """The Content-Security-Policy of a page with one script: nothing else runs, nothing is
    requested."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        + ("; connect-src 'self'" if live else "")
    )


def fragment(template: str, **content: Any) -> Markup:
    """A part of the page, for its script to put in place."""
    return Markup(_environment().get_template(template).render(**content))


def table_html(table: Table) -> str:
    """One table as the page shows it."""
    module: Any = _environment().get_template("macros.html").module
    return str(module.table(table))


def plain_data(value: Any) -> Any:
    """A value for JSON: numbers that are not finite are null, and the others have six digits."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "css_class": css_class,
        "shown": cell_texts,
        "sorted_by": sorted_by,
        "paragraphs": _words,
    }
    environment.tests["verdict"] = lambda cell: isinstance(cell, Verdict) and cell.name in VERDICTS
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    return environment


def cell_texts(cell: Cell) -> tuple[str, str]:
    """A cell's text, and what stands below it in small type."""
    if isinstance(cell, Measured) and is_number(cell.value):
        return str(cell.number), cell.spread.replace("± ", "±")
    return plain_text(cell), ""


def sorted_by(cell: Cell) -> float | str:
    """What a column is sorted by: the number of a cell as it is, or its text."""
    if isinstance(cell, (Number, Measured, Probability)):
        value = cell.p if isinstance(cell, Probability) else cell.value
        return float(value) if is_number(value) else ""
    if isinstance(cell, Seeds):
        return cell.there
    return cell if isinstance(cell, int) else plain_text(cell)


def _words(text: str) -> str:
    return " ".join(text.split())


def _file(name: str) -> str:
    return (files(__package__) / TEMPLATES / name).read_text(encoding="utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """kind: png, jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
