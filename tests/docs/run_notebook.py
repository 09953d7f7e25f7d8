"""Runs the code of a notebook without a kernel: python -m tests.docs.run_notebook FILE.ipynb

Cells share one namespace, as they do in Jupyter. A cell tagged "twice" runs twice. Figures are
drawn and dropped.
"""

import json
import sys
from pathlib import Path

import matplotlib

from yolact.study.statistics import finished

RESAMPLES = 200  # of a test: 2,000 make the same notebook a minute slower


def run(notebook: Path) -> None:
    """The error of a cell ends it, with the cell's number in the traceback."""
    matplotlib.use("Agg")
    resampled = finished.cached_resample
    finished.cached_resample = lambda file, _: resampled(file, RESAMPLES)
    shared = {"__name__": "__main__"}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] != "code":
            continue
        code = compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec")
        for _ in range(2 if "twice" in cell["metadata"].get("tags", ()) else 1):
            exec(code, shared)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
