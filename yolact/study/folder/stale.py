"""Finished runs that today's code would not repeat: what changed since, and what would be trained
again. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from layers.problems import few
from yolact.provenance import changed_parts, code_parts, installed, plugin_digests
from yolact.study.arms import PlannedRun
from yolact.study.folder.progress import folder_of, is_done
from yolact.study.folder.reading import read_env, starts_of

LIBRARIES = ("torch", "torchvision")  # those that runs of one table share


def other_plugins(root: Path, runs: Iterable[PlannedRun]) -> list[str]:
    """A line for each plugin whose source has changed since finished runs were trained with it."""
    found: dict[str, list[str]] = {}
    for run, env in _finished(root, runs):
        now = plugin_digests(run.config.loss.plugins)
        for plugin, digest in now.items():
            then = {start.get("plugins", {}).get(plugin, digest) for start in starts_of(env)}
            if then != {digest}:
                found.setdefault(plugin, []).append(run.name)
    return [
        f"loss.plugins={plugin} is other code than {_counted(names)} trained with: restore it, or "
        "move these runs aside to train them again"
        for plugin, names in found.items()
    ]


def other_code(root: Path, runs: Iterable[PlannedRun], code: str) -> str:
    """A line where finished runs were trained by other code, torch or torchvision than a run would
    be now; '' where none was. code: today's digest."""
    found = {run.name: env for run, env in _finished(root, runs)}
    odd = {name: why for name, env in found.items() if (why := _difference(env, code))}
    if not odd:
        return ""
    name = next(iter(odd))
    commit = str(found[name].get("commit") or "").partition("+")[0][:10]
    return (
        f"{_counted(list(odd))} trained with {odd[name]}: runs that are trained now will not stand "
        f"in one table with them; to add seeds, use that{f' (commit {commit})' if commit else ''}, "
        "or move these runs aside to train them again"
    )


def _finished(
    root: Path, runs: Iterable[PlannedRun]
) -> Iterable[tuple[PlannedRun, Mapping[str, Any]]]:
    for run in runs:
        folder = folder_of(root, run)
        if is_done(folder, run.config):
            yield run, read_env(folder)


def _difference(env: Mapping[str, Any], code: str) -> str:
    """How one of a run's starts differs from a start now."""
    for start in starts_of(env):
        words = []
        if start.get("code") != code:
            where = changed_parts(start.get("parts"), code_parts())
            words.append(
                f"code {start.get('code', 'not recorded')} instead of {code}"
                + (f", which differs in {where}" if where else "")
            )
        for library in LIBRARIES:
            then, now = start.get("versions", {}).get(library), installed(library)
            if then is not None and then != now:
                words.append(f"{library} {then} instead of {now}")
        if words:
            return ", ".join(words)
    return ""


def _counted(names: list[str]) -> str:
    several = len(names) > 1
    runs, verb = ("runs", "were") if several else ("run", "was")
    return f"{len(names)} finished {runs} ({few(names)}) {verb}"
