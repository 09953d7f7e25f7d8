"""The notebooks run from top to bottom, and are committed without what they printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[n.stem for n in NOTEBOOKS])


def test_there_are_three():
    assert [n.stem for n in NOTEBOOKS] == ["read_a_study", "train_and_look", "write_a_loss"]


@EVERY_NOTEBOOK
def test_it_runs(notebook, tmp_path):
    """In a process of its own, since it registers losses and sets matplotlib up."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_notebook", notebook],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@EVERY_NOTEBOOK
def test_it_uses_the_front_door_and_holds_no_output(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    rooms = ("data", "layers", "scripts", "yolact.")
    for line in "\n".join(code).splitlines():
        words = line.split()
        if words[:1] in (["import"], ["from"]):
            assert not words[1].startswith(rooms), f"{line}: only `import yolact`"
    assert all(
        not cell["outputs"] and cell["execution_count"] is None
        for cell in cells
        if cell["cell_type"] == "code"
    )
