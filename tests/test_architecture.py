"""The shape of the code: which room may import which, what starts without torch, and how long files
and functions may grow."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("layers", "data", "yolact", "scripts")
PROGRAMS = ("train", "eval")
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 400, 80, 140

# Rooms of this project that each room may import; engine is yolact/engine, model is the rest of
# yolact.
ARROWS = {
    "layers": {"layers"},
    "data": {"data", "layers"},
    "model": {"model", "data", "layers"},
    "engine": {"engine", "model", "data", "layers"},
    "study": {"study", "engine", "model", "data", "layers"},
    "scripts": {"scripts", "study", "engine", "model", "data", "layers"},
    "train": {"engine", "data", "layers"},
    "eval": {"engine", "model", "data", "layers"},
}
TORCH_FREE = (
    "data.schema",
    "data.config",
    "data.names",
    "data.messages",
    "data.yaml_text",
    "data.resolve",
    "data.cli",
    "data.files",
    "data.study",
    "data.arms",
    "layers",
    "layers.losses",
    "layers.losses.expr",
    "train",
    "eval",
    "scripts.sweep",
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for path in [
        *(ROOT / f"{name}.py" for name in PROGRAMS),
        *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))),
    ]
}
FILES = {**SOURCES, **{module_name(path): path for path in sorted((ROOT / "tests").rglob("*.py"))}}


@cache
def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def room_of(module):
    top = module.split(".")[0]
    if top == "yolact":
        return next(
            (room for room in ("engine", "study") if module.startswith(f"yolact.{room}")), "model"
        )
    return top


def imported(nodes):
    """Modules of this project, and torch, that import statements among `nodes` name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {
            name
            for name in names
            if name in SOURCES or name.split(".")[0] in ("torch", "torchvision")
        }
    return found


def at_import(name):
    """What importing a module imports at once: its parents, and statements outside functions and
    TYPE_CHECKING blocks."""
    waiting, nodes = list(tree(name).body), []
    while waiting:
        node = waiting.pop()
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or type_checking:
            continue
        nodes.append(node)
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return imported(nodes)


def reached(name):
    """Every module that importing `name` loads, itself included."""
    seen, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        parents = {".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)}
        waiting += [
            found
            for found in (parents | (at_import(module) if module in SOURCES else set()))
            if found not in seen
        ]
    return seen


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name):
    allowed = ARROWS[room_of(name)]
    wrong = {
        module
        for module in imported(ast.walk(tree(name)))
        if room_of(module) not in allowed | {"torch", "torchvision"}
    }
    # the package itself, on the way to yolact.engine
    wrong -= {"yolact"} if "engine" in allowed else set()
    assert not wrong, f"{name} ({room_of(name)}) may import {sorted(allowed)} only"


@pytest.mark.parametrize(
    "name",
    [name for name in SOURCES if room_of(name) in ("layers", "data", "model", "engine", "study")],
)
def test_nothing_imports_a_global_config(name):
    """data.config is read through data.resolve, so that no model or loss depends on the table that
    users edit."""
    assert name == "data.resolve" or "data.config" not in imported(ast.walk(tree(name)))


@pytest.mark.parametrize("name", TORCH_FREE)
def test_starts_without_torch(name):
    assert not {
        module for module in reached(name) if module.split(".")[0] in ("torch", "torchvision")
    }


def test_starts_without_torch_when_run():
    code = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_evaluated(name):
    calls = {
        node.func.id
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec"}


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_stay_readable(name):
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_FILE
    assert not [number for number, line in enumerate(lines, 1) if len(line) > LONGEST_LINE], (
        "lines that are too long"
    )
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, (
                f"{node.name} (line {node.lineno})"
            )


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_says_what_it_is(name):
    assert ast.get_docstring(tree(name)) or not tree(name).body


def test_every_package_is_installed():
    line = next(
        line
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("packages = ")
    )
    listed = ast.literal_eval(line.removeprefix("packages = "))
    packages = {
        name
        for name, path in SOURCES.items()
        if path.name == "__init__.py" and room_of(name) != "scripts"
    }
    assert set(listed) == packages
