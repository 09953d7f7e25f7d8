"""The shape of the code: which room may import which, what starts without torch, and how large
functions may grow."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from yolact import run_files
from yolact.study.folder import layout

ROOT = Path(__file__).parents[1]
ROOMS = ("layers", "data", "yolact", "scripts")
PROGRAMS = ("train", "eval")
DOORS = ("scripts", "train", "eval")
PROGRAM_ROOMS = ("yolact.commands", "yolact.benchmarks")
MOST_STATEMENTS, MOST_IN_A_FILE, LONGEST_LINE = 40, 250, 100

# Rooms that each room may import: `yolact` is the model and what stands beside it in yolact/*.py.
ARROWS = {
    "layers": {"layers"},
    "data": {"data", "layers"},
    "yolact": {"yolact", "data", "layers"},
    "yolact.engine": {"yolact.engine", "yolact", "data", "layers"},
    "yolact.study": {"yolact.study", "yolact.engine", "yolact", "data", "layers"},
}
ARROWS["yolact.export"] = {"yolact.export", *ARROWS["yolact.engine"]}
ARROWS["yolact.analysis"] = {"yolact.analysis", *ARROWS["yolact.study"]}
ARROWS["yolact.testing"] = {"yolact.testing", *ARROWS["yolact.study"]}
ARROWS["yolact.benchmarks"] = {"yolact.benchmarks", "yolact.export", *ARROWS["yolact.testing"]}
ARROWS["yolact.commands"] = {
    "yolact.commands",
    "yolact.analysis",
    "yolact.benchmarks",
    "yolact.export",
    *ARROWS["yolact.testing"],
}
ARROWS["yolact.__main__"] = {"yolact", "yolact.commands", "layers"}
ARROWS["scripts"] = ARROWS["train"] = ARROWS["eval"] = {"yolact", "yolact.commands"}

# Public names that two modules define, and why
DEFINED_TWICE = {
    "program": "every program has one",
    "parser": "every program has one",
    "main": "every program has one",
    "cases": "every kind of reference numbers has them",
    "load": "yolact.load opens a model, yolact.study.load a study: the package says which",
}

PREFIXES = {"prepare": "one program a data set"}
TORCH_FREE = (
    "data.schema",
    "data.config",
    "layers.names",
    "layers.problems",
    "data.messages",
    "data.settings",
    "data.yaml_text",
    "data.images",
    "data.prepare.nuclei",
    "data.resolve",
    "yolact",
    "yolact.__main__",
    "yolact.cli",
    "yolact.files",
    "yolact.run_files",
    "yolact.study.plan",
    "yolact.study.arms",
    "layers",
    "layers.losses",
    "layers.losses.expr",
    "train",
    "eval",
    "yolact.commands.sweep",
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
    parts = module.split(".")
    inner = ".".join(parts[:2])
    return inner if inner in ARROWS else parts[0]


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


# the front door names what lies in every room, and imports it when it is asked for
@pytest.mark.parametrize("name", [name for name in SOURCES if name != "yolact"])
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
    [name for name in SOURCES if room_of(name) not in (*DOORS, *PROGRAM_ROOMS)],
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


def statements(node):
    """Statements below a function or module, docstrings left out."""
    inner = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
    return len(inner) - sum(
        isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) for child in inner
    )


@pytest.mark.parametrize("name", FILES)
def test_functions_stay_readable(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert statements(node) <= MOST_STATEMENTS, f"{node.name} (line {node.lineno})"


def test_files_hold_one_idea(capsys):
    """A file that outgrows the limit is mostly two. Sizes are shown where the gate can see them."""
    sizes = sorted((statements(tree(name)), name) for name in SOURCES)
    with capsys.disabled():
        longest, median = sizes[-1], sizes[len(sizes) // 2]
        print(
            f"\n{len(sizes)} files: median {median[0]} statements, "
            f"longest {longest[0]} ({longest[1]})"
        )
    assert longest[0] <= MOST_IN_A_FILE, longest[1]


def test_nothing_imports_in_circles():
    """Imports when a module is loaded; what a function imports later cannot close a circle."""
    arrows = {name: at_import(name) & SOURCES.keys() - {name} for name in SOURCES}
    while free := [name for name, targets in arrows.items() if not targets]:
        for name in free:
            del arrows[name]
        arrows = {name: targets - set(free) for name, targets in arrows.items()}
    assert not arrows, "in a circle, or above one"


def test_nothing_outside_tests_imports_tests():
    for name in SOURCES:
        for node in ast.walk(tree(name)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = (
                    [node.module]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in node.names]
                )
                assert not any(module.split(".")[0] == "tests" for module in found), name


def test_a_common_prefix_is_a_folder():
    for folder in {path.parent for path in SOURCES.values()}:
        prefixes = Counter(
            path.stem.split("_")[0] for path in folder.glob("*.py") if "_" in path.stem[1:]
        )
        shared = {p for p, count in prefixes.items() if count >= 3 and p not in PREFIXES}
        assert not shared, f"{folder}: make a folder of {shared}"


def test_one_word_means_one_thing():
    homes = defaultdict(set)
    for name in SOURCES:
        if room_of(name) not in DOORS:
            for node in tree(name).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    homes[node.name].add(name)  # once, of overloads too
    twice = {word: found for word, found in homes.items() if len(found) > 1}
    assert twice.keys() == DEFINED_TWICE.keys(), {
        w: f for w, f in twice.items() if w not in DEFINED_TWICE
    }


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_says_what_it_is(name):
    assert ast.get_docstring(tree(name)) or not tree(name).body


def test_files_of_runs_are_named_in_one_place():
    homes = {"yolact.run_files": vars(run_files), "yolact.study.folder.layout": vars(layout)}
    files = {
        value.rpartition("/")[2]
        for names in homes.values()
        for name, value in names.items()
        if name.isupper() and isinstance(value, str) and Path(value).suffix
    }
    assert {"last.pth", "config.yaml", "records.npz", "study.yaml"} <= files
    # a tuning's annotations are called so too
    spelled = {
        (name, node.value)
        for name in SOURCES.keys() - homes.keys() - {"data.resolve", "yolact.study.tuning"}
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if " " not in node.value and node.value.rpartition("/")[2] in files
    }
    assert not spelled, "use the names of yolact.run_files and yolact.study.folder.layout"
