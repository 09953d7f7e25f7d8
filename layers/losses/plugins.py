"""Losses of one's own, from files and modules that `loss.plugins` names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Iterable
from pathlib import Path

from layers import extras
from layers.losses import registry

_loaded_files: set[Path] = set()


def load_plugins(paths: Iterable[str]) -> None:
    """Run files (paths that end in .py) or import modules, once each, so that their decorators
    register losses.

    ValueError names the plugin and the fix if it is missing or fails; a failing one leaves nothing
    registered."""
    for path in paths:
        before = dict(registry._losses), dict(extras._extras)
        try:
            _load(path)
        # sys.exit in a plugin would end the program without a word
        except (Exception, SystemExit) as error:
            for records, kept in zip((registry._losses, extras._extras), before, strict=True):
                records.clear()
                records.update(kept)
            raise ValueError(f"loss.plugins={path}: {_what_is_wrong(path, error)}") from error


def _load(path: str) -> None:
    if not path.endswith(".py"):
        importlib.import_module(path)
        return
    file = Path(path).expanduser().resolve()
    if file in _loaded_files:
        return
    if not file.is_file():
        raise ValueError(
            "there is no such file; a path ends in .py and starts from the working directory"
        )
    name = f"loss_plugin_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its functions can be pickled and its annotations resolved
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded_files.add(file)


def _what_is_wrong(path: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"calls sys.exit{_line(path, error)}: a plugin is imported, so let it define losses "
            "and nothing else"
        )
    if isinstance(error, SyntaxError):
        return f"SyntaxError in line {error.lineno} ({error.msg}): correct that line"
    if isinstance(error, ModuleNotFoundError):
        if not path.endswith(".py") and (
            path.startswith(f"{error.name}.") or error.name == path or os.sep in path
        ):
            there = f"; did you mean {path}.py?" if Path(f"{path}.py").is_file() else ""
            return f"no module of that name can be imported; the path of a file ends in .py{there}"
        return (
            f"imports {error.name}, which is not installed{_line(path, error)}: install it, or "
            "leave the import out"
        )
    if isinstance(error, ValueError):
        return str(error)  # of the decorators: it names the loss and the fix
    return f"{type(error).__name__}: {error}{_line(path, error)}: correct the file"


def _line(path: str, error: BaseException) -> str:
    """Where in the plugin's file it happened, as ` (line 3)`."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == Path(path).name
    ]
    return f" (line {lines[-1]})" if lines else ""
