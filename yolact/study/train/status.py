"""The status of a study as a table: a row an arm (of a tuning, a trial), a column a seed. Imports
no torch."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from yolact.study.arms import PlannedRun
from yolact.study.folder.layout import INIT_FOLDER
from yolact.study.folder.progress import Progress, progress

REFRESH = 2.0  # seconds between two drawings of the live table
MARKS = {"waiting": ".", "failed": "failed"}


class LiveTable:
    """Redraws itself in place on a terminal; elsewhere it prints nothing, and the events tell the
    story. Call it often."""

    def __init__(self, root: Path, primary: str) -> None:
        self.root, self.primary = root, primary
        self.runs: Sequence[PlannedRun] = ()
        self.drawn, self.lines = 0.0, 0
        self.live = sys.stdout.isatty()

    def __call__(self) -> None:
        if self.live and time.monotonic() - self.drawn >= REFRESH:
            self._erase()
            width = shutil.get_terminal_size().columns  # a line that wraps would be two to erase
            lines = [
                line[: width - 1] for line in table(self.root, self.runs, self.primary).splitlines()
            ]
            print("\n".join(lines), flush=True)
            self.drawn, self.lines = time.monotonic(), len(lines)

    def say(self, text: str) -> None:
        """A line above the table."""
        self._erase()
        print(text, flush=True)
        self.drawn = 0.0

    def _erase(self) -> None:
        if self.lines:
            print(f"\x1b[{self.lines}F\x1b[J", end="")
            self.lines = 0


def table(root: Path, runs: Sequence[PlannedRun], primary: str) -> str:
    """Final metric in percent where a run is done, else how far it is; then counts, what failed,
    and the time left."""
    found = {run.folder: progress(root, run, primary) for run in runs}
    seeds = list(dict.fromkeys(run.seed for run in runs))
    # what runs start from is the first row, whichever of it is shown
    rows: dict[str, dict[int, str]] = {
        run.label: {} for run in runs if INIT_FOLDER in run.folder.parts
    }
    for run in runs:
        rows.setdefault(run.label, {})[run.seed] = cell(found[run.folder], run)
    width = max(len(primary), *(len(label) for label in rows)) if rows else len(primary)
    columns = [max(6, len(f"seed {seed}")) for seed in seeds]
    lines = [
        f"{primary:{width}}  "
        + "  ".join(f"{f'seed {seed}':>{n}}" for seed, n in zip(seeds, columns, strict=True))
    ]
    lines += [
        f"{label:{width}}  "
        + "  ".join(f"{cells.get(seed, ''):>{n}}" for seed, n in zip(seeds, columns, strict=True))
        for label, cells in rows.items()
    ]
    return "\n".join(
        [*lines, summary(found.values()) + time_left(found, runs), *failures(found, runs)]
    )


def cell(found: Progress, run: PlannedRun) -> str:
    if found.state == "done":
        return "-" if found.value is None else f"{found.value:.2f}"
    if found.state in MARKS:
        return MARKS[found.state]
    share = f"{100 * found.step / run.config.train.iterations:.0f}%"
    return share if found.state == "running" else f"({share})"  # interrupted


def summary(found) -> str:
    counts = Counter(item.state for item in found)
    return ", ".join(
        f"{counts[state]} {state}"
        for state in ("done", "running", "interrupted", "waiting", "failed")
        if counts[state]
    )


def time_left(found: dict[Path, Progress], runs: Sequence[PlannedRun]) -> str:
    """An estimate from the speed of the runs that train now; they share what waits."""
    speeds = {
        run.folder: found[run.folder].images_per_s / run.config.train.batch_size
        for run in runs
        if found[run.folder].state == "running" and found[run.folder].images_per_s
    }
    if not speeds:
        return ""
    steps = sum(
        run.config.train.iterations - found[run.folder].step
        for run in runs
        if found[run.folder].state != "done" and run.shares is None
    )
    return f"; about {timedelta(seconds=round(steps / sum(speeds.values())))} of training left"


def failures(found: dict[Path, Progress], runs: Sequence[PlannedRun]) -> list[str]:
    return [
        f"failed: {run.name}: {found[run.folder].error or 'see its log.txt'}"
        for run in runs
        if found[run.folder].state == "failed"
    ]
