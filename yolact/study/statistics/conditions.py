"""What runs must have in common to stand in one table: data, code, evaluation, length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from data.schema import EvalConfig
from yolact.study.arms import arms_of, identity
from yolact.study.folder.reading import starts_of
from yolact.study.plan import Study
from yolact.study.statistics.finished import FinishedRun
from yolact.study.statistics.study_runs import StudyRuns

PLUGIN = "plugin "
SHOWN = 3  # runs that a message names


def check_study(found: StudyRuns, *, mixed: bool = False) -> dict[str, str]:
    """mixtures() of the runs of a study. ValueError where there are any, unless `mixed`."""
    named = {
        f"{label} seed {seed}": run
        for label, seeds in found.arms.items()
        for seed, run in seeds.items()
    }
    unequal = mixtures(
        named, found.study, {key for arm in arms_of(found.study) for key in arm.changes}
    )
    for name, kinds in found.departures.items():
        for kind, words in kinds.items():
            unequal.setdefault(kind, f"{words} in {name}")
    if unequal and not mixed:
        raise ValueError(
            f"{found.folder}: the runs are not comparable, so they do not go into one table. "
            f"{'. '.join(f'Different {kind}: {what}' for kind, what in unequal.items())}. Train "
            "the odd ones again, or accept it with --mixed, which marks every verdict as "
            "exploratory"
        )
    return unequal


def mixtures(runs: Mapping[str, FinishedRun], study: Study, varied: set[str]) -> dict[str, str]:
    """{"data" | "code" | "evaluation" | "length": what differs and where}, empty if nothing does.

    varied: settings that the study's arms differ in on purpose. Where a data set lies, and the
    commit, may differ.
    """
    if not runs:
        return {}
    starts = _starts(runs, study)
    facts = {
        name: {
            "data": {**_data(run), "train.init_from": starts[name]},
            "code": _code(run),
            "evaluation": _evaluation(run),
        }
        for name, run in runs.items()
    }
    for name, length in _lengths(runs, study).items():
        facts[name]["length"] = length
    found: dict[str, list[str]] = {}
    first = next(iter(facts.values()))
    for kind in first:
        for key in dict.fromkeys(key for fact in facts.values() for key in fact[kind]):
            groups: dict[str, list[str]] = {}
            for name, fact in facts.items():
                if key in fact[kind] or not key.startswith(PLUGIN):  # arms may differ in plugins
                    groups.setdefault(str(fact[kind].get(key)), []).append(name)
            if len(groups) > 1 and key not in varied:
                found.setdefault(kind, []).append(_words(key, groups))
    return {kind: "; ".join(lines) for kind, lines in found.items()}


def _data(run: FinishedRun) -> dict[str, Any]:
    section = run.config.data.model_dump(exclude={"root"})
    return {
        "validation set": f"{run.images} images ({run.truth_digest[:8]})",
        **{f"data.{k}": v for k, v in section.items()},
    }


def _starts(runs: Mapping[str, FinishedRun], study: Study) -> dict[str, str]:
    """{run: what it starts from}. Where every seed has a start, those of different seeds differ in
    nothing else, and those of one seed are to be the same."""
    starts = {name: identity(run.config).train.init_from for name, run in runs.items()}
    if not study.start_per_seed:
        return starts
    first = {runs[name].seed: start for name, start in reversed(starts.items())}
    return {
        name: "its seed's" if start == first[runs[name].seed] else start
        for name, start in starts.items()
    }


def _code(run: FinishedRun) -> dict[str, Any]:
    """All code that trained it, since a run may have been resumed by another version."""
    starts = starts_of(run.env)

    def joined(values: Iterable[Any]) -> str:
        return ", then ".join(dict.fromkeys(str(value or "not recorded") for value in values))

    return {
        "code": joined(start.get("code") for start in starts),
        **{
            package: joined(start.get("versions", {}).get(package) for start in starts)
            for package in ("torch", "torchvision")
        },
        **{
            f"{PLUGIN}{plugin}": joined(start.get("plugins", {}).get(plugin) for start in starts)
            for plugin in run.config.loss.plugins
        },
    }


def _evaluation(run: FinishedRun) -> dict[str, Any]:
    """As the records say they were made. A setting that is newer than they are was its default."""
    note = run.note
    settings = note.get("eval") or run.config.eval.model_dump(mode="json")
    settings = {**EvalConfig().model_dump(mode="json"), **settings}
    return {f"eval.{k}": v for k, v in settings.items()} | {
        "eval.max_dets": run.max_dets,
        "split": note.get("split", "val"),
        "train.precision": note.get("precision", run.config.train.precision),
    }


def _lengths(runs: Mapping[str, FinishedRun], study: Study) -> dict[str, dict[str, Any]]:
    """Iterations, or images where these are what arms have in common; those agree up to the
    rounding to whole batches."""
    trains = {name: run.config.train for name, run in runs.items()}
    if study.equal == "iterations":
        return {name: {"iterations": train.iterations} for name, train in trains.items()}
    first, largest = next(iter(trains.values())), max(train.batch_size for train in trains.values())
    reference = first.iterations * first.batch_size
    images = {name: train.iterations * train.batch_size for name, train in trains.items()}
    return {
        name: {"training images": reference if abs(seen - reference) <= largest else seen}
        for name, seen in images.items()
    }


def _words(key: str, groups: Mapping[str, list[str]]) -> str:
    """code is 1a2b in 12 runs (bce seed 0, bce seed 1, ...) and 3c4d in 3 (...)."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    parts = []
    for i, (value, names) in enumerate(ordered):
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        runs = "" if i else " run" if len(names) == 1 else " runs"
        parts.append(f"{value} in {len(names)}{runs} ({shown})")
    return f"{key} is {' and '.join(parts)}"
