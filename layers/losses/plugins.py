"""Losses of one's own, from files and modules that `loss.plugins` names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import types
import zlib
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from layers.assign import ASSIGNERS
from layers.extras import EXTRAS
from layers.losses.box import BOX_LOSSES
from layers.losses.classification import CLASS_LOSSES
from layers.losses.registry import MASK_LOSSES
from layers.records import Registry

REGISTRIES: tuple[Registry[Any], ...] = (MASK_LOSSES, EXTRAS, BOX_LOSSES, CLASS_LOSSES, ASSIGNERS)

_loaded_files: dict[Path, bytes] = {}  # what stood in each


def load_plugins(paths: Iterable[str]) -> None:
    """Run files (paths that end in .py) or import modules, so that their decorators register
    losses. A file is run again where it has changed, and what it defines then replaces what it
    defined before.

    ValueError names the plugin and the fix if it is missing or fails; a failing one leaves nothing
    registered."""
    for path in paths:
        before = [dict(registry.by_name) for registry in REGISTRIES]
        try:
            _load(path)
        # sys.exit in a plugin would end the program without a word
        except (Exception, SystemExit) as error:
            for registry, records in zip(REGISTRIES, before, strict=True):
                registry.by_name = records
            raise ValueError(f"loss.plugins={path}: {_what_is_wrong(path, error)}") from error


def _load(path: str) -> None:
    if not path.endswith(".py"):
        importlib.import_module(path)
        return
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(
            "there is no such file; a path ends in .py and starts from the working directory"
        )
    content = file.read_bytes()
    if _loaded_files.get(file) == content:
        return
    name = f"loss_plugin_{file.stem}_{zlib.crc32(str(file).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_AsItIs(name, str(file)))
    assert spec is not None and spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # so that its functions can be pickled and its annotations resolved
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    _loaded_files[file] = content


class _AsItIs(SourceFileLoader):
    """Compiles a file anew: kept bytecode is told from it by its time in seconds, which a file that
    is edited and run again may share with what it was."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


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
