"""What runs must have in common to stand in one table: data, code, evaluation, length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.study import Study

SHOWN = 3  # runs that a message names


def differences(runs: Mapping[str, Any], study: Study, varied: set[str]) -> dict[str, str]:
    """{"data" | "code" | "evaluation" | "length": what differs and where}, empty if nothing does.

    runs {name: Trained}; varied: settings that the study's arms differ in on purpose. Where a data set lies, and the commit, may differ.
    """
    facts = {name: {"data": _data(run), "code": _code(run), "evaluation": _evaluation(run)} for name, run in runs.items()}
    for name, length in _lengths(runs, study).items():
        facts[name]["length"] = length
    found: dict[str, list[str]] = {}
    first = next(iter(facts.values()))
    for kind in first:
        for key in dict.fromkeys(key for fact in facts.values() for key in fact[kind]):
            groups: dict[str, list[str]] = {}
            for name, fact in facts.items():
                groups.setdefault(str(fact[kind].get(key)), []).append(name)
            if len(groups) > 1 and key not in varied:
                found.setdefault(kind, []).append(_words(key, groups))
    return {kind: "; ".join(lines) for kind, lines in found.items()}


def _data(run) -> dict[str, Any]:
    section = run.config.data.model_dump(exclude={"root"})
    return {"validation set": f"{run.run.images} images ({run.run.truth_digest[:8]})"} | {f"data.{k}": v for k, v in section.items()}


def _code(run) -> dict[str, Any]:
    """All code that trained it, since a run may have been resumed by another version."""
    starts = [run.env, *run.env.get("resumed", ())]

    def joined(values) -> str:
        return ", then ".join(dict.fromkeys(str(value or "not recorded") for value in values))
    return {"code": joined(start.get("code") for start in starts),
            **{package: joined(start.get("versions", {}).get(package) for start in starts) for package in ("torch", "torchvision")}}


def _evaluation(run) -> dict[str, Any]:
    """As the records say they were made."""
    note = run.run.note
    settings = note.get("eval") or run.config.eval.model_dump(mode="json")
    return {f"eval.{k}": v for k, v in settings.items()} | {"eval.max_dets": run.run.max_dets, "split": note.get("split", "val"),
                                                            "train.precision": note.get("precision", run.config.train.precision)}


def _lengths(runs: Mapping[str, Any], study: Study) -> dict[str, dict[str, Any]]:
    """Iterations, or images where these are what arms have in common; those agree up to the rounding to whole batches."""
    trains = {name: run.config.train for name, run in runs.items()}
    if study.equal == "iterations":
        return {name: {"iterations": train.iterations} for name, train in trains.items()}
    first, largest = next(iter(trains.values())), max(train.batch_size for train in trains.values())
    reference = first.iterations * first.batch_size
    images = {name: train.iterations * train.batch_size for name, train in trains.items()}
    return {name: {"training images": reference if abs(seen - reference) <= largest else seen} for name, seen in images.items()}


def _words(key: str, groups: Mapping[str, list[str]]) -> str:
    """code is 1a2b in 12 runs (bce seed 0, bce seed 1, ...) and 3c4d in 3 (...)."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    parts = []
    for i, (value, names) in enumerate(ordered):
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        runs = "" if i else " run" if len(names) == 1 else " runs"
        parts.append(f"{value} in {len(names)}{runs} ({shown})")
    return f"{key} is {' and '.join(parts)}"
