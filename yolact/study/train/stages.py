"""The stages of a study: what runs start from, the tuning, the reported runs. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from yolact.files import write_whole
from yolact.study.arms import (
    Arm,
    PlannedRun,
    arms_of,
    checkpoint_of,
    config_of,
    init_run,
    runs_of,
)
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import CHOSEN, TUNE_FOLDER
from yolact.study.folder.progress import folder_of, is_done, shared_weights
from yolact.study.folder.reading import final_validation, metric, read_chosen
from yolact.study.plan import Study
from yolact.study.tuning import Trial, best_settings, trials_of, write_splits

# keys that trials follow from
DECIDES = {
    "base",
    "settings",
    "budget",
    "equal",
    "lr_rule",
    "paired",
    "primary",
    "init_from",
    "tune",
}


@dataclass(frozen=True)
class Plan:
    """A study and all that is known of its runs by now. reported is empty until the tuning is
    done. starts: {what train.init_from is: the training that makes it}."""

    study: Study
    root: Path
    arms: list[Arm]
    starts: Mapping[str, PlannedRun]
    trials: list[Trial]
    reported: list[PlannedRun]

    @property
    def runs(self) -> list[PlannedRun]:
        """Everything that can be trained by name."""
        return [
            *self.starts.values(),
            *(trial.run for trial in self.trials),
            *self.reported,
        ]

    def done(self, run: PlannedRun) -> bool:
        return is_done(folder_of(self.root, run), run.config)

    def open(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        return [run for run in runs if not self.done(run)]

    @property
    def current(self) -> list[PlannedRun]:
        """The runs of the stage that is due: trials, and once all are done the reported runs."""
        return self.reported or [trial.run for trial in self.trials]

    @property
    def due(self) -> list[PlannedRun]:
        """Those, behind what they start from while some of that is still to be trained."""
        return self.with_starts(self.current)

    def start_of(self, run: PlannedRun) -> PlannedRun | None:
        """The run of this study whose weights a run starts from; None for a run whose training is
        another's, which is there."""
        if shared_weights(self.root, run):
            return None
        return self.starts.get(run.config.train.init_from)

    def training_of(self, run: PlannedRun) -> PlannedRun | None:
        """The run whose training one shares, while that is still to be finished."""
        return run.shares if run.shares and not self.done(run.shares) else None

    def trainings(self, runs: Iterable[PlannedRun]) -> list[PlannedRun]:
        """training_of() those of these runs that are open, each once."""
        found = {
            one.folder: one for run in runs if (one := self.training_of(run)) and not self.done(run)
        }
        return list(found.values())

    def starts_of(self, runs: Iterable[PlannedRun]) -> list[PlannedRun]:
        """The starts of these runs, each once."""
        found = {start.folder: start for run in runs if (start := self.start_of(run))}
        return list(found.values())

    def missing(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """The starts that are still to be trained, so that what is open of these runs can be."""
        return self.open(self.starts_of(self.open(runs)))

    def with_starts(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """The runs, each start ahead of the first that needs it, while one is missing. A start that
        is not there and that nothing needs any more is left out. Where the training that an open
        run shares is still to be done, and is not among the runs, it goes ahead too."""
        runs = self._with_trainings(runs)
        missing = self.missing(runs)
        shown = [one for one in self.starts_of(runs) if self.done(one) or one in missing]
        found: list[PlannedRun] = []
        for run in runs:
            start = self.start_of(run)
            if missing and start in shown and start not in found:
                found.append(start)
            found.append(run)
        return found

    def _with_trainings(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        given = {run.folder for run in runs}
        return [*(one for one in self.trainings(runs) if one.folder not in given), *runs]


def plan_of(study: Study, root: Path, arms: list[Arm] | None = None) -> Plan:
    """The plan as far as the files allow to know it."""
    arms = arms_of(study) if arms is None else arms
    trials = trials_of(study, arms, root)
    chosen = tuned(study, trials, root) if trials else {}
    reported = [] if chosen is None else runs_of(study, arms, chosen=chosen, root=root)
    return Plan(study, root, arms, _starts(study, root, trials), trials, reported)


def _starts(study: Study, root: Path, trials: Iterable[Trial]) -> dict[str, PlannedRun]:
    """{what train.init_from is: the training that makes it} of every seed of the study, also of
    its trials and its search."""
    seeds = [*study.seeds, *study.added_seeds, *(trial.run.seed for trial in trials)]
    seeds += [study.search.seed] if study.search else []
    starts = [start for seed in seeds if (start := init_run(study, seed))]
    return {checkpoint_of(start, root): start for start in starts}


def write_tune_splits(plan: Plan) -> None:
    """Writes the tune split before the first trial."""
    if plan.trials and not plan.reported:
        configs = [
            config_of(plan.study, arm, plan.study.seeds[0], root=plan.root) for arm in plan.arms
        ]
        write_splits(plan.study, configs, plan.root, plan.study.tune, TUNE_FOLDER)


def tuned(study: Study, trials: Sequence[Trial], root: Path) -> dict[str, dict[str, Any]] | None:
    """{label: tuned settings}, once every trial is done; written down then, so that later seeds
    need no trials. None before."""
    plan = _plan(study, trials)
    for path in (root / study.name / CHOSEN, kept_study(study.name) / CHOSEN):
        if path.is_file():
            return _read(path, plan)
    values: dict[Path, float | None] = {}
    for trial in trials:
        final = final_validation(folder_of(root, trial.run), trial.run.config.train.iterations)
        if final is None:
            return None
        values[trial.run.folder] = metric(final, study.primary)
    chosen = best_settings(trials, values)
    tried = {
        label: [
            {"settings": t.settings, "seed": t.run.seed, study.primary: values[t.run.folder]}
            for t in trials
            if t.run.arm.label == label
        ]
        for label in chosen
    }
    content = {"plan": plan, "chosen": chosen, "trials": tried}
    write_whole(root / study.name / CHOSEN, json.dumps(content, indent=2) + "\n")
    return chosen


def _plan(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """What decides a tuning's outcome, as JSON holds it. Not the hashes of its configs: a later
    version of the settings changes those."""
    arms = {
        trial.run.arm.label: {"changes": trial.run.arm.changes, "grid": trial.run.arm.tune}
        for trial in trials
    }
    found = study.model_dump(mode="json", include=DECIDES)
    if isinstance(found["init_from"], dict) and not found["init_from"]["per_seed"]:
        del found["init_from"]["per_seed"]  # files of tunings before there was this key lack it
    return json.loads(json.dumps({**found, "arms": arms}))


def _read(path: Path, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    content = read_chosen(path)
    changed = [key for key in plan if plan[key] != content["plan"].get(key)]
    if changed:
        raise ConfigError(
            f"{path} is of another tuning, of other {', '.join(changed)}: delete it to tune again"
        )
    return content["chosen"]
