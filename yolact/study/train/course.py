"""A study from its first training to its last: its plan is written down, then stage after stage is
trained. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from yolact.files import write_whole
from yolact.study.arms import PlannedRun
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import study_file
from yolact.study.plan import Study, dump_study, load_study
from yolact.study.train.local import Driver
from yolact.study.train.stages import Plan, plan_of, tuned
from yolact.study.train.status import LiveTable, table

# keys of a study that may change once it has begun
FREE = {"description", "added_seeds", "amended", "search"}


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
        if begun == path and not changed and old.added_seeds == study.added_seeds:
            return
        study = study.model_copy(update={"amended": amended})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_study(study))


def train_stages(plan: Plan, driver: Driver, live: LiveTable) -> bool:
    """Trains the shared start, the trials, and then the reported runs. Whether all are done."""
    if plan.open(plan.current) and not train_start(plan, driver, live):
        return False
    while True:
        live.runs = plan.current
        if not driver.drive(plan.current) and not plan.reported:
            live.say(table(plan.root, plan.current, plan.study.primary))
            _complain("the tuning is not complete, so no reported run was started")
            return False
        if plan.reported:
            break
        plan = plan_of(plan.study, plan.root, plan.arms)
        live.say("tuned: " + "; ".join(f"{arm}: {words}" for arm, words in _tuned_words(plan)))
    live.say(table(plan.root, plan.reported, plan.study.primary))
    return not driver.failed


def train_start(plan: Plan, driver: Driver, live: LiveTable) -> bool:
    """Trains what every run starts from. Whether it is there."""
    if plan.start is None or plan.done(plan.start):
        return True
    live.runs = plan.due
    if driver.drive([plan.start]):
        return True
    _complain(
        "the checkpoint that every run starts from could not be trained: "
        f"{driver.failed[plan.start.folder]}"
    )
    return False


def train_one(plan: Plan, run: PlannedRun, driver: Driver, live: LiveTable) -> bool:
    """Trains one run, behind the shared start. Whether it is done."""
    if run != plan.start and not plan.done(run) and not train_start(plan, driver, live):
        return False
    live.runs = [run]
    return driver.drive([run])


def _tuned_words(plan: Plan) -> list[tuple[str, str]]:
    """(label, what its tuning chose) of each arm."""
    chosen = tuned(plan.study, plan.trials, plan.root) or {}
    return [
        (label, ", ".join(f"{key}={value}" for key, value in settings.items()))
        for label, settings in chosen.items()
    ]


def _change(old: Any, new: Any) -> str:
    text = f"{old} -> {new}"
    return text if len(text) <= 120 else "changed"


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
