"""sweep.py FILE --search: Optuna over the search section of a study. What was tried is in a
journal, so any number of processes may search together, at once or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from yolact.study.arms import change_label, config_of
from yolact.study.folder.layout import JOURNAL, SEARCH_FOLDER
from yolact.study.folder.locks import is_held
from yolact.study.folder.progress import folder_of
from yolact.study.folder.reading import final_validation, metric
from yolact.study.plan import Study
from yolact.study.sections import Range, Search
from yolact.study.train.course import train_start
from yolact.study.train.local import Driver
from yolact.study.train.stages import Plan
from yolact.study.tuning import Trial, fill, search_run, write_splits

BEST = 5  # trials shown at the end


def search(plan: Plan, driver: Driver, say: Callable[[str], None]) -> int:
    """Runs trials until search.trials are finished. 0, or 1 where trials failed."""
    study, part = plan.study, _part(plan.study)
    if not train_start(plan, part.seed, driver):
        return 1
    write_splits(
        study,
        [config_of(study, plan.arms[0], part.seed, root=plan.root)],
        plan.root,
        part,
        SEARCH_FOLDER,
    )
    optuna, journal = open_journal(study, plan.root)
    failed = False
    while True:
        batch = adopted(optuna, journal, study, plan.root)
        batch += ask(journal, study, plan.root, len(driver.slots) - len(batch))
        if not batch:
            break
        for _, trial in batch:
            say(f"trial        {change_label(trial.settings)}")
        driver.drive([trial.run for _, trial in batch])
        for number, trial in batch:
            final = final_validation(
                folder_of(plan.root, trial.run), trial.run.config.train.iterations
            )
            failed |= final is None
            value = None if final is None else metric(final, study.primary)
            if value is None:
                journal.tell(number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            else:
                journal.tell(number, value, skip_if_finished=True)
    say(best_trials(optuna, journal, study))
    return 1 if failed else 0


def _part(study: Study) -> Search:
    if study.search is None:
        raise ConfigError(
            f"{study.name}: --search needs a search: section with settings: and space:"
        )
    return study.search


def open_journal(study: Study, root: Path) -> tuple[Any, Any]:
    """(optuna, its study in runs/<study>/_search/journal.log). ValueError where Optuna is not
    installed."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ConfigError("--search needs Optuna: python -m pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = root / study.name / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))
    journal = optuna.create_study(
        storage=storage, study_name=study.name, direction="maximize", load_if_exists=True
    )
    # processes that start together must not draw the same: seeded by how much is known, and told of
    # what the others try
    journal.sampler = optuna.samplers.TPESampler(
        seed=_part(study).seed + len(journal.trials), constant_liar=True
    )
    return optuna, journal


def adopted(optuna: Any, journal: Any, study: Study, root: Path) -> list[tuple[int, Trial]]:
    """Trials whose process has ended before they did: they go on where they stopped."""
    space = _part(study).space
    running = journal.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    found = [
        (trial.number, search_run(study, trial.params, root))
        for trial in running
        if set(trial.params) == set(space)
    ]
    return [(number, trial) for number, trial in found if not is_held(root, trial.run)]


def ask(journal: Any, study: Study, root: Path, count: int) -> list[tuple[int, Trial]]:
    """Up to `count` new trials, as far as search.trials allows."""
    space = _part(study).space
    left = _part(study).trials - sum(
        set(trial.params) == set(space) for trial in journal.get_trials(deepcopy=False)
    )
    trials = [journal.ask() for _ in range(max(0, min(count, left)))]
    return [
        (
            trial.number,
            search_run(
                study,
                {name: draw_value(trial, name, values) for name, values in space.items()},
                root,
            ),
        )
        for trial in trials
    ]


def draw_value(trial: Any, name: str, space: Range | list) -> Any:
    """A value that Optuna draws for one placeholder or setting."""
    if isinstance(space, list):
        return trial.suggest_categorical(name, space)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(
            name, space.low, space.high, step=int(space.step or 1), log=space.log
        )
    return trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)


def best_trials(optuna: Any, journal: Any, study: Study) -> str:
    """The best trials, and the arm to compare next. A search looks for the best of many, so its own
    numbers flatter it."""
    finished = journal.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    best = sorted(finished, key=lambda trial: -trial.value)[:BEST]
    if not best:
        return "no trial has finished"
    part = _part(study)
    lines = [f"{len(finished)} trials; {study.primary} on the tune split"]
    lines += [f"  {trial.value:6.2f}  {change_label(fill(part, trial.params))}" for trial in best]
    settings = fill(part, best[0].params)
    return "\n".join(
        [
            *lines,
            "the best of many looks better than it is; compare it in a study of its own:",
            f"  - {{{', '.join(f'{key}: {value!r}' for key, value in settings.items())}}}",
        ]
    )
