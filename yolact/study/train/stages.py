"""The stages of a study: the shared start, the tuning, the reported runs. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from yolact.files import write_whole
from yolact.study.arms import Arm, PlannedRun, arms_of, config_of, init_run, runs_of
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import CHOSEN, TUNE_FOLDER
from yolact.study.folder.progress import folder_of, is_done
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
    done."""

    study: Study
    root: Path
    arms: list[Arm]
    start: PlannedRun | None
    trials: list[Trial]
    reported: list[PlannedRun]

    @property
    def runs(self) -> list[PlannedRun]:
        """Everything that can be trained by name."""
        return [
            *([self.start] if self.start else []),
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
        """Those, behind the shared start while it is missing and one of them is still to be
        trained."""
        start = self.start
        if start is None or self.done(start) or not self.open(self.current):
            return self.current
        return [start, *self.current]


def plan_of(study: Study, root: Path, arms: list[Arm] | None = None) -> Plan:
    """The plan as far as the files allow to know it."""
    arms = arms_of(study) if arms is None else arms
    trials = trials_of(study, arms, root)
    chosen = tuned(study, trials, root) if trials else {}
    reported = [] if chosen is None else runs_of(study, arms, chosen=chosen, root=root)
    return Plan(study, root, arms, init_run(study), trials, reported)


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
    return json.loads(json.dumps({**study.model_dump(mode="json", include=DECIDES), "arms": arms}))


def _read(path: Path, plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    content = read_chosen(path)
    changed = [key for key in plan if plan[key] != content["plan"].get(key)]
    if changed:
        raise ConfigError(
            f"{path} is of another tuning, of other {', '.join(changed)}: delete it to tune again"
        )
    return content["chosen"]
