"""A study from its first training to its last: its plan is written down, then stage after stage is
trained. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from yolact.cli import say
from yolact.files import write_whole
from yolact.study.arms import PlannedRun, init_run
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import study_file
from yolact.study.plan import Study, dump_study, load_study
from yolact.study.train.local import Driver
from yolact.study.train.stages import Plan, plan_of, tuned
from yolact.study.train.status import LiveTable, table

# keys of a study that may change once it has begun
FREE = {"description", "added_seeds", "amended", "search", "report", "external"}
REWRITTEN = ("added_seeds", "external", "report")  # of these, those that the file is written for


def begin(study: Study, root: Path, *, amend: bool) -> None:
    """Writes down the study before its first run, in <root>/<study>/study.yaml, and refuses another
    one later, there or among those kept.

    What was decided is not changed after results were seen; added_seeds may grow, and `amend`
    records what else was changed."""
    path = study_file(root / study.name)
    kept = study_file(kept_study(study.name))
    begun = next((place for place in (path, kept) if place.exists()), None)
    if begun is not None:
        old = load_study(begun)
        changed = [
            key
            for key in Study.model_fields
            if key not in FREE and getattr(old, key) != getattr(study, key)
        ]
        if changed and not amend:
            what = "; ".join(
                f"{key}: {_change(getattr(old, key), getattr(study, key))}" for key in changed
            )
            hint = "write more seeds as added_seeds:, " if changed == ["seeds"] else ""
            raise ConfigError(
                f"{begun} was begun with other settings ({what}): {hint}give this study another "
                "name:, or accept the change with --amend, which marks its verdicts as exploratory"
            )
        amended = (*old.amended, *(key for key in changed if key not in old.amended))
        if begun == path and not changed and _same(old, study, REWRITTEN):
            return
        study = study.model_copy(update={"amended": amended})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_study(study))


def train_stages(plan: Plan, driver: Driver, live: LiveTable) -> bool:
    """Trains the trials, and then the reported runs, each behind what it starts from. Whether all
    are done."""
    while True:
        done = _train(plan, plan.current, driver, live)
        if not done and not plan.reported:
            live.say(table(plan.root, plan.current, plan.study.primary))
            _complain("the tuning is not complete, so no reported run was started")
            return False
        if plan.reported:
            break
        plan = plan_of(plan.study, plan.root, plan.arms)
        live.say("tuned: " + "; ".join(f"{arm}: {words}" for arm, words in _tuned_words(plan)))
    live.say(table(plan.root, plan.reported, plan.study.primary))
    return not driver.failed


def train_one(plan: Plan, run: PlannedRun, driver: Driver, live: LiveTable) -> bool:
    """Trains one run, behind what it starts from. Whether it is done."""
    return _train(plan, [run], driver, live)


def _train(plan: Plan, runs: list[PlannedRun], driver: Driver, live: LiveTable) -> bool:
    """Trains runs, each behind what it starts from. Whether all are done; it says why a start is
    not there."""
    live.runs = plan.with_starts(runs)
    done = driver.drive(live.runs, plan.start_of)
    _complain_of_starts(plan, driver)
    return done


def train_start(plan: Plan, seed: int, driver: Driver) -> bool:
    """Trains what runs of a seed start from, where that is a run. Whether it is there."""
    start = init_run(plan.study, seed)
    if start is not None and not plan.done(start):
        driver.drive([start])
        _complain_of_starts(plan, driver)
    return not driver.failed


def _complain_of_starts(plan: Plan, driver: Driver) -> None:
    for start in plan.starts.values():
        if start.folder in driver.failed:
            who = f"seed {start.seed}" if len(plan.starts) > 1 else "every run"
            _complain(
                f"the checkpoint that {who} starts from could not be trained: "
                f"{driver.failed[start.folder]}"
            )


def _tuned_words(plan: Plan) -> list[tuple[str, str]]:
    """(label, what its tuning chose) of each arm."""
    chosen = tuned(plan.study, plan.trials, plan.root) or {}
    return [
        (label, ", ".join(f"{key}={value}" for key, value in settings.items()))
        for label, settings in chosen.items()
    ]


def _same(old: Study, new: Study, keys: Iterable[str]) -> bool:
    return all(getattr(old, key) == getattr(new, key) for key in keys)


def _change(old: Any, new: Any) -> str:
    text = f"{old} -> {new}"
    return text if len(text) <= 120 else "changed"


def _complain(text: str) -> None:
    say(f"error: {text}", error=True)
