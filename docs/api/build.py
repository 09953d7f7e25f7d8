"""Writes the API pages into this folder, from docstrings: python docs/api/build.py [FOLDER]

Needs the extra `docs` (pdoc). Docstrings are shown as they are written: they align columns, and use
* and _ for what they mean in Python.
"""

import html
import sys
from pathlib import Path

import pdoc
import pdoc.render

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

MODULES = ("yolact", "layers.losses.registry", "data.schema")  # yolact brings yolact.study


def as_written(docstring: str) -> str:
    """HTML of a docstring, line by line."""
    return f'<div style="white-space: pre-wrap">{html.escape(docstring)}</div>'


def build(folder: Path) -> None:
    """index.html, and a page for each of MODULES."""
    import yolact
    import yolact.study

    for lazy in (yolact, yolact.study):  # pdoc shows what a module holds, not what it would load
        for name in lazy.__all__:
            setattr(lazy, name, getattr(lazy, name))
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.render.env.filters["to_markdown"] = str
    pdoc.render.env.filters["to_html"] = as_written
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(f"look at {folder / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
