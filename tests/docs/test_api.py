"""What the API pages are made of: every public name has a docstring, and the pages can be built."""

import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import yolact
from yolact import study

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module, name", [(module, name) for module in (yolact, study) for name in module.__all__]
)
def test_every_public_name_says_what_it_is(module, name):
    """Its own docstring: not one that Python makes of a dataclass, nor one of its base class."""
    thing = getattr(module, name)
    made = f"{name}(" if inspect.isclass(thing) else None
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert own and not (made and own.startswith(made))


@pytest.mark.skipif(not find_spec("pdoc"), reason="needs the extra docs: pip install -e .[docs]")
def test_the_pages_show_the_front_door(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "docs/api/build.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "yolact.html").read_text(encoding="utf-8")
    missing = {name for name in yolact.__all__ if f'id="{name}"' not in page}
    assert missing <= {"study"} and (tmp_path / "yolact/study.html").is_file()
    assert yolact.load_config.__doc__.splitlines()[0].strip()[:40] in page
