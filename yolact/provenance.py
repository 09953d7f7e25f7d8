"""Which code computed a run: digests of this project's modules and of a config's plugins. Imports
no torch.

What a module computes does not depend on its docstrings, its lines of comment and blank lines, so
these are left out. Presets are left out too: a run's config says what was taken from them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = {"layers", "yolact", "data", *sys.stdlib_module_names}  # no modules of plugins
# what trains and evaluates no run: presets, programs, and what looks at finished runs or makes data
ASIDE = (
    "data/config.py",
    "data/survey.py",
    "data/cigarettes/",
    "data/doctor/",
    "data/importing/",
    "data/prepare/",
    "yolact/__main__.py",
    "yolact/analysis/",
    "yolact/benchmarks/",
    "yolact/cli.py",
    "yolact/commands/",
    "yolact/legacy_flags.py",
    "yolact/provenance.py",
    "yolact/study/",
    "yolact/testing/",
)


@cache
def code_digest(root: Path = ROOT) -> str:
    """16 hex digits of the modules that train and evaluate, by path and content, committed or
    not."""
    return _joined(_modules(root).items(), 16)


@cache
def code_parts(root: Path = ROOT) -> dict[str, str]:
    """{folder: 8 hex digits of its modules}, to say where code differs."""
    folders: dict[str, dict[str, str]] = {}
    for name, digest in _modules(root).items():
        folders.setdefault(name.rpartition("/")[0], {})[name] = digest
    return {folder: _joined(files.items(), 8) for folder, files in sorted(folders.items())}


def plugin_digests(plugins: Iterable[str]) -> dict[str, str]:
    """{entry of loss.plugins: 16 hex digits of its file or package, and of what those import from
    beside them or the working directory}; "missing" for one that cannot be found."""
    found = {}
    for plugin in plugins:
        files = _with_imports(_files_of(plugin))
        content = [(file.name, _digest(file.read_bytes())) for file in files]
        found[plugin] = _joined(sorted(content), 16) if content else "missing"
    return found


def installed(package: str) -> str | None:
    """The version of an installed package; None for one that is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def changed_parts(old: Mapping[str, str] | None, new: Mapping[str, str]) -> str:
    """The folders in which code differs, for a message; '' where the older run did not record
    them."""
    if not old:
        return ""
    return ", ".join(part for part in sorted({*old, *new}) if old.get(part) != new.get(part))


def code_only(source: bytes) -> bytes:
    """A module's text without docstrings, lines of comment, blank lines and trailing spaces; as it
    is where it cannot be parsed."""
    try:
        text = source.decode("utf-8")
        tree = ast.parse(text)
    except (ValueError, SyntaxError):
        return source
    lines: list[str | None] = list(text.splitlines())
    inside: set[int] = set()  # lines that a string goes on in
    for node in ast.walk(tree):
        last = getattr(node, "end_lineno", None)
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and last is not None:
            inside |= set(range(node.lineno, last))
    for first, last in _docstrings(tree):
        lines[first - 1 : last] = [None] * (last - first + 1)
        inside -= set(range(first, last + 1))
    kept = [
        line if index in inside else line.rstrip()
        for index, line in enumerate(lines)
        if line is not None
        and (index in inside or (line.strip() and not line.lstrip().startswith("#")))
    ]
    return "\n".join(kept).encode()


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """(first, last line) of each docstring that has its lines to itself."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if not body or ast.get_docstring(node, clean=False) is None:
            continue
        first, last = body[0].lineno, body[0].end_lineno or body[0].lineno
        opens = node.lineno if not isinstance(node, ast.Module) else 0
        follows = body[1].lineno if len(body) > 1 else last + 1
        if opens < first and last < follows:
            yield first, last


@cache
def _modules(root: Path) -> dict[str, str]:
    """{path below root: digest} of what trains and evaluates."""
    packages = (marker.parent for marker in root.glob("data/*/__init__.py"))  # not the data sets
    files = [
        *root.glob("data/*.py"),
        *(file for package in packages for file in package.rglob("*.py")),
        *root.glob("layers/**/*.py"),
        *root.glob("yolact/**/*.py"),
    ]
    names = {path.relative_to(root).as_posix(): path for path in files}
    return {
        name: _digest(path.read_bytes())
        for name, path in sorted(names.items())
        if not name.startswith(ASIDE)
    }


def _digest(source: bytes) -> str:
    return hashlib.sha256(code_only(source)).hexdigest()


def _joined(entries: Iterable[tuple[str, str]], digits: int) -> str:
    content = "".join(f"{name}\0{digest}\n" for name, digest in entries)
    return hashlib.sha256(content.encode()).hexdigest()[:digits]


def _files_of(plugin: str) -> list[Path]:
    """The file of a path that ends in .py; those of a module, of a whole package where it is
    one."""
    if plugin.endswith(".py"):
        path = Path(plugin).expanduser().resolve()
        return [path] if path.is_file() else []
    return _files_of_module(plugin)


def _files_of_module(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    path = Path(spec.origin).resolve()
    return sorted(path.parent.rglob("*.py")) if spec.submodule_search_locations else [path]


def _with_imports(files: list[Path]) -> list[Path]:
    """The files, and those that they import from their own folders or the working directory."""
    found, waiting = list(files), list(files)
    while waiting:
        path = waiting.pop()
        for name in _imported(path):
            places = (path.parent, Path.cwd()) if name.split(".")[0] not in OWN else ()
            for place in places:
                base = place.joinpath(*name.split("."))
                for file in (base.with_suffix(".py"), base / "__init__.py"):
                    if file.is_file() and file.resolve() not in found:
                        found.append(file.resolve())
                        waiting.append(file.resolve())
    return found


def _imported(path: Path) -> set[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (ValueError, SyntaxError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
