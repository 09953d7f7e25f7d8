"""A study as one object: train it, compare its arms, report it. Imports no torch before it has
to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from data.resolve import ConfigError, parse_value
from yolact.provenance import code_digest
from yolact.study.arms import Arm, arms_of, check_losses
from yolact.study.external import check_external
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import REPORT, study_file
from yolact.study.folder.stale import other_code, other_plugins
from yolact.study.plan import Study, load_study, read_study
from yolact.study.train.course import begin, train_stages
from yolact.study.train.local import Driver, Slot, local_slots
from yolact.study.train.stages import Plan, plan_of, write_tune_splits
from yolact.study.train.status import LiveTable, table

if TYPE_CHECKING:
    from yolact.study.statistics.comparison import Comparison


def load(
    file: str | Path, overrides: Iterable[str] = (), *, runs_root: str | Path = "runs"
) -> StudyHandle:
    """The study in a YAML file, or in a folder with study.yaml: runs/<study>, studies/<study>.

        study = yolact.study.load("configs/sweeps/quick_study.yaml")
        study.train(jobs=2)
        for comparison in study.compare():
            print(comparison.sentence)

    overrides   key=value: a dotted key is a setting of every arm, a plain one a key of the study
                (seeds=3)
    runs_root   folder of all runs; the study's is <runs_root>/<study>

    ConfigError for a file that is no study, with the fix. Nothing is trained or written.
    """
    study = with_changes(load_study(file), list(overrides), str(file))
    return StudyHandle(study, Path(runs_root))


@dataclass(frozen=True)
class StudyHandle:
    """What a study asks, and the folder that its own is in."""

    study: Study
    root: Path

    @cached_property
    def arms(self) -> list[Arm]:
        """What is compared, in the order of the file."""
        return arms_of(self.study)

    @property
    def plan(self) -> Plan:
        """Its runs, as far as the files allow to know them by now."""
        return plan_of(self.study, self.root, self.arms)

    @property
    def folder(self) -> Path:
        """Where its runs are, or are kept. ConfigError before the first training."""
        for folder in (self.root / self.study.name, kept_study(self.study.name)):
            if study_file(folder).is_file():
                return folder
        raise ConfigError(
            f"{self.root / self.study.name}: the study has not begun: train it first, with "
            ".train() or yolact sweep"
        )

    def status(self) -> str:
        """A table of its runs: the final metric of each, or how far it is; and which of them were
        trained by other code."""
        plan = self.plan
        notes = [f"note: {line}" for line in self.changes(plan)]
        return "\n".join([table(self.root, plan.due, self.study.primary), *notes])

    def check(self, *, external: bool = True) -> list[str]:
        """Notes on losses that agree but in rare places. ConfigError for unknown losses and
        assigners, for two arms that are one, and where `external` for external results that cannot
        be read."""
        if external:
            check_external(self.study, self.arms, self.root / self.study.name)
        return check_losses(self.study, self.arms)

    def begin(self, *, amend: bool = False) -> Plan:
        """Writes down the plan, and the tune split, before the first training. ConfigError where
        the study was begun with another plan, or a plugin has changed since runs were trained with
        it, unless `amend`."""
        begin(self.study, self.root, amend=amend)
        plan = self.plan
        changed = other_plugins(self.root, plan.runs)
        if changed and not amend:
            raise ConfigError(f"{self.study.name}: {'; '.join(changed)}")
        write_tune_splits(plan)
        return plan

    def changes(self, plan: Plan) -> list[str]:
        """Lines on finished runs that code, libraries or plugins of today would not repeat."""
        code = other_code(self.root, plan.runs, code_of_today())
        return [*([code] if code else []), *other_plugins(self.root, plan.runs)]

    def driver(self, slots: list[Slot], live: LiveTable, *, own_session: bool = True) -> Driver:
        """What trains its runs. own_session: see worker.start."""
        return Driver(
            self.root,
            slots,
            tick=live,
            say=live.say,
            own_session=own_session,
            code=code_of_today(),
        )

    def train(
        self,
        jobs: int | None = None,
        *,
        device: str | None = None,
        amend: bool = False,
        say: Callable[[str], None] = print,
    ) -> bool:
        """Trains what is not done yet, each run in a process of its own. Whether all is done.

        jobs    runs at a time; None = one for each CUDA device, or one
        device  cpu or cuda:N; None = every CUDA device, or the CPU
        amend   accept that the plan has changed since the study began; verdicts are then
                exploratory

        Runs go on where they stopped. Any number of processes may train one study.
        """
        for line in self.check():
            say(f"note: {line}")
        plan = self.begin(amend=amend)
        for line in self.changes(plan):
            say(f"note: {line}")
        live = LiveTable(self.root, self.study.primary)
        return train_stages(plan, self.driver(local_slots(jobs, device), live), live)

    def compare(self, *, mixed: bool = False) -> list[Comparison]:
        """Each arm against the baseline: .verdict, .interval and .sentence of each say what is
        known. mixed: of runs of different data, code, evaluation or length too.

        ValueError where no run of the baseline is finished.
        """
        from yolact.study.compare import compare_folder

        return list(compare_folder(self.folder, mixed=mixed).comparisons)

    def report(self, folder: str | Path | None = None, *, mixed: bool = False) -> Path:
        """Writes tables, figures and one HTML page to `folder` (report/ in the study's own), and
        returns the page. ValueError where no run is finished."""
        from yolact.study.report.assemble import write_report
        from yolact.study.report.data import collect

        found = collect(self.folder, mixed=mixed)
        return write_report(found, Path(folder) if folder else self.folder / REPORT)


def with_changes(study: Study, overrides: list[str], origin: str) -> Study:
    """The study with key=value changes: a dotted key is a setting of every arm, a plain one a key
    of the study."""
    if not overrides:
        return study
    content = study.model_dump()
    for text in overrides:
        key, _, value = text.partition("=")
        target = content["settings"] if "." in key or key == "dataset" else content
        target[key] = parse_value(key, value, text)
    return read_study(content, f"{origin} with {' '.join(overrides)}")


def code_of_today() -> str:
    """The digest of the code that would train a run now."""
    return code_digest()
