"""The front door: `import yolact` offers what it lists, loads no torch, and says where another
package hides ours."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import yolact

ROOT = Path(__file__).parents[2]


def python(*words, cwd=ROOT, path=ROOT):
    """A fresh interpreter that looks for modules in `cwd`, then in `path`."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
    )


def test_what_is_listed_is_what_is_importable():
    assert yolact.__all__ == sorted(yolact.__all__)
    for name in yolact.__all__:
        assert getattr(yolact, name) is not None
    assert set(dir(yolact)) == {*yolact.__all__, "__version__"}
    assert yolact._HOMES.keys() == set(yolact.__all__)
    with pytest.raises(AttributeError, match="no attribute 'bulid_model'"):
        yolact.bulid_model  # noqa: B018


def test_nothing_else_is_public():
    code = "import yolact; print(*(name for name in vars(yolact) if name[0] != '_'))"
    assert python("-c", code).stdout.split() == ["annotations", "TYPE_CHECKING"]


def test_editors_see_the_names_where_they_are_defined():
    """The imports under TYPE_CHECKING and the table of lazy names say the same."""
    tree = ast.parse(Path(yolact.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == yolact._HOMES


def test_every_name_is_described_and_in_the_overview():
    for name in yolact.__all__:
        assert getattr(yolact, name).__doc__, name
        assert f" {name}" in yolact.__doc__, name


def test_importing_loads_no_torch():
    code = "import sys, yolact; yolact.load_config; print('torch' in sys.modules)"
    assert python("-c", code).stdout == "False\n"


@pytest.mark.parametrize("name", ["data", "layers"])
@pytest.mark.parametrize("kind", ["file", "package"])
def test_another_package_of_that_name_is_named(tmp_path, name, kind):
    other = tmp_path / (f"{name}.py" if kind == "file" else f"{name}/__init__.py")
    other.parent.mkdir(exist_ok=True)
    other.write_text("")
    for words in (["-c", f"import {name}, yolact"], ["-m", "yolact", "--help"]):
        done = python(*words, cwd=tmp_path)
        message = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and message.startswith(f"ImportError: `import {name}` finds")
        assert str(other) in message and f"put {ROOT} first in PYTHONPATH" in message


def test_folders_of_that_name_hide_nothing(tmp_path):
    """A folder of pictures called data, as there is one beside most notebooks."""
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    done = python("-c", "import yolact", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
