"""A study while it trains: how far each run is, its curves so far, and the page of what is
finished, made anew whenever a run ends."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from yolact.cli import note, one_line
from yolact.study.arms import PlannedRun, arms_of, baseline_of
from yolact.study.folder.layout import study_file
from yolact.study.folder.progress import Progress, folder_of, progress
from yolact.study.plan import load_study
from yolact.study.report.assemble import draw
from yolact.study.report.curves import curve_figure, run_curves
from yolact.study.report.data import collect
from yolact.study.report.figures import styles_of
from yolact.study.report.images.tab import ImagesTab
from yolact.study.report.page.content import page
from yolact.study.report.page.render import LivePart
from yolact.study.report.page.waiting import LiveRow, live_html, waiting_page
from yolact.study.report.spread import report_tables
from yolact.study.report.svg import svg
from yolact.study.train.stages import Plan, plan_of
from yolact.study.train.status import cell, failures, summary, time_left

EVERY = 3.0  # seconds between two looks at the files
IMAGES = 10  # of each list of the Images tab: the page is made again and again


@dataclass
class Watched:
    """What the server tells. Made in one thread, by look(); read in others, which resolve nothing
    and write nothing.

    Raises ValueError for a folder that is not a study's own, below the root that it trains in."""

    folder: Path
    images: int = IMAGES
    mixed: bool = False
    html: str = ""
    made: int = 0  # how often the page was made
    curves: Markup | None = None
    _stamp: int = 0
    _plan: Plan = field(init=False, repr=False)
    _paged: tuple[frozenset[str], int, int] | None = None  # what the page was made of
    _seen: tuple[int, ...] = ()
    _started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if not study_file(self.folder).is_file():
            raise ValueError(
                f"{self.folder} is no study that has begun: yolact sweep begins it, and --serve "
                "watches its folder, such as runs/quick_study"
            )
        name = load_study(self.folder).name
        if self.folder.resolve().name != name:
            raise ValueError(f"{self.folder}: --serve watches the study {name} in a folder {name}")
        self._plan = self._resolved()

    @property
    def root(self) -> Path:
        return self.folder.resolve().parent

    @property
    def version(self) -> str:
        """Changes when the page does, and when another server answers."""
        return f"{self._started:.3f}-{self.made}"

    def _resolved(self) -> Plan:
        """Resolved again where the file has changed, and while a tuning still chooses settings."""
        stamp = study_file(self.folder).stat().st_mtime_ns
        if self._stamp != stamp or not self._plan.reported:
            study = load_study(self.folder)
            self._plan, self._stamp = plan_of(study, self.root, arms_of(study)), stamp
        return self._plan

    def live_html(self) -> Markup:
        """The progress of the last plan that was resolved, as the page shows it."""
        plan = self._plan
        found = self._progress(plan)
        rows: dict[str, dict[int, tuple[str, str]]] = {}
        for run in plan.due:
            state = found[run.folder]
            rows.setdefault(run.label, {})[run.seed] = cell(state, run), state.state
        seeds = sorted({run.seed for run in plan.due})
        return live_html(
            plan.study.primary,
            seeds,
            [
                LiveRow(label, [cells.get(s, ("", "")) for s in seeds])
                for label, cells in rows.items()
            ],
            summary(found.values()) + time_left(found, plan.due),
            failures(found, plan.due),
            self.curves,
        )

    def first_page(self) -> str:
        """While the first is made."""
        live = LivePart(self.version, 0, 1, self.live_html())
        return waiting_page(self._plan.study, live, "it is being made")

    def look(self) -> None:
        """Looks at the files, and makes again what has changed."""
        plan = self._resolved()
        found = self._progress(plan)
        seen = tuple(one.step for one in found.values())
        if seen != self._seen:
            self.curves, self._seen = self._draw_curves(plan), seen
        reported = {run.folder for run in plan.reported}
        finished = frozenset(
            str(place) for place, one in found.items() if one.state == "done" and place in reported
        )
        paged = finished, self._stamp, len(plan.reported)
        if paged != self._paged:
            self.html = self._page(plan, len(finished), len(plan.reported))
            self._paged, self.made = paged, self.made + 1

    def _progress(self, plan: Plan) -> dict[Path, Progress]:
        return {run.folder: progress(self.root, run, plan.study.primary) for run in plan.due}

    def _page(self, plan: Plan, finished: int, planned: int) -> str:
        version = f"{self._started:.3f}-{self.made + 1}"
        live = LivePart(version, finished, planned, self.live_html())
        try:
            if not finished:
                raise ValueError("no run is finished")
            report = collect(self.folder, mixed=self.mixed)
            images = ImagesTab(report, self.images)
            return page(report, report_tables(report), draw(report), images, live=live)
        except ValueError as error:
            if finished:
                note(one_line(error))
            return waiting_page(plan.study, live, one_line(error))

    def _draw_curves(self, plan: Plan) -> Markup | None:
        """Losses and validations of the runs that have begun."""
        begun: dict[str, dict[int, PlannedRun]] = {}
        for run in plan.reported:
            begun.setdefault(run.label, {})[run.seed] = run
        lines = {
            label: {
                seed: run_curves(folder_of(self.root, run), run.config.train.iterations)
                for seed, run in runs.items()
            }
            for label, runs in begun.items()
        }
        lines = {label: found for label, found in lines.items() if any(found.values())}
        labels = [arm.label for arm in plan.arms]
        batches = {
            label: next(iter(runs.values())).config.train.batch_size
            for label, runs in begun.items()
        }
        baseline = baseline_of(plan.study, plan.arms).label
        figure = curve_figure(lines, batches, baseline, styles_of(labels, baseline))
        return None if figure is None else svg(figure, "Loss curves so far", "live")


def watch(watched: Watched, stop: threading.Event) -> None:
    """Looks again and again until `stop` is set. What cannot be read is told, and tried again."""
    while not stop.is_set():
        try:
            watched.look()
        except Exception as error:  # a study that is written to may be half there
            note(f"looking again: {one_line(error)}")
        stop.wait(EVERY)
