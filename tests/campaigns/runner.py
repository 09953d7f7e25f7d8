"""Runs cases in forked processes, and says of each how it ended: a case that hangs or ends its
process costs no other."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.workers import work_of

LOOK = 1.0  # seconds between two looks at a case
UNFORESEEN = 70  # as yolact.cli has it
GOOD = ("accepted", "told")
VERDICTS = ("told", "accepted", "untold", "traceback", "hang", "crash", "silent")
# by the files of a campaign, a folder of its own and a random generator: what a door does
Door = Callable[[Any, Path, random.Random], Callable[[], int]]


class Silent(BaseException):  # which no program catches
    """What was damaged was read as something else, and nothing said so."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    verdict  'accepted' (exit 0), 'told' (exit 1 or 2 with a message of one line), 'untold' (another
             message), 'traceback', 'hang', 'crash', or 'silent' (read as something else)
    said     the message
    """

    case: int
    verdict: str
    said: str = ""
    seconds: float = 0.0


def judged(program: Callable[[], int]) -> tuple[str, str]:
    """(verdict, message) of a call that ends as a program does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 2
        except Silent as error:
            return "silent", str(error)
        except BaseException as error:  # what a user would see as a traceback
            return "traceback", f"{type(error).__name__}: {error}"
    lines = err.getvalue().strip().splitlines()
    said = lines[-1] if lines else ""
    if code == UNFORESEEN or "Traceback" in err.getvalue():
        return "traceback", said
    if code == 0:
        return "accepted", ""
    if code == 1:  # of check_data: findings on stdout
        return ("told", "") if "ERROR" in out.getvalue() else ("untold", said)
    clear = said.startswith("error: ") and said.isprintable() and len(said) < 2000
    return ("told" if clear and ": " in said[7:] else "untold"), said


def campaign(
    run: Callable[[int], tuple[str, str]], cases: range, limit: float = 60.0
) -> Iterator[Outcome]:
    """The outcome of run(case) of each case. limit: seconds of one, see _Look."""
    start = cases.start
    while start < cases.stop:
        for outcome in _batch(run, range(start, cases.stop), limit):
            yield outcome
            start = outcome.case + 1


def _batch(run: Callable[[int], tuple[str, str]], cases: range, limit: float) -> Iterator[Outcome]:
    """Outcomes from one forked process, up to the first case that it does not survive."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(run, cases, writer)
    os.close(writer)
    waiting, done, look = b"", cases.start, _Look(child, limit)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while done < cases.stop:
            ready, _, _ = select.select([pipe], [], [], LOOK)
            part = pipe.read(1 << 16) if ready else b""
            waiting += part
            *lines, waiting = waiting.split(b"\n")
            for line in lines:
                yield Outcome(**json.loads(line))
                done, look = done + 1, _Look(child, limit)
            if (ready and not part) or (not ready and look.is_over()):
                os.kill(child, signal.SIGKILL)
                break
    _, status = os.waitpid(child, 0)
    if done < cases.stop:
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        verdict = "hang" if not ready else "crash"
        yield Outcome(done, verdict, f"signal or exit {ended}", look.seconds)


class _Look:
    """Whether a case is over its limit: in seconds of a processor, or of doing nothing. On a busy
    machine a case may wait for its turn for as long as it likes."""

    def __init__(self, pid: int, limit: float) -> None:
        self.pid, self.limit = pid, limit
        self.first = self.last = self._ticks()
        self.seconds = self.idle = 0.0

    def _ticks(self) -> int:
        work = work_of(self.pid)
        return 0 if work is None else work.ticks

    def is_over(self) -> bool:
        """To be asked every LOOK seconds."""
        now = self._ticks()
        self.seconds += LOOK
        self.idle = self.idle + LOOK if now == self.last else 0.0
        self.last = now
        return (now - self.first) / 100 >= self.limit or self.idle >= self.limit


def _work(run: Callable[[int], tuple[str, str]], cases: range, writer: int) -> None:
    """The forked process: an outcome a line into the pipe."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)  # what C code says
        for case in cases:
            begun = time.monotonic()
            verdict, said = run(case)
            outcome = Outcome(case, verdict, said[:500], round(time.monotonic() - begun, 3))
            os.write(writer, json.dumps(asdict(outcome)).encode() + b"\n")
    finally:  # it must not unwind what the other process still needs
        os._exit(0)


def account(
    outcomes: Iterator[Outcome], *, progress: bool = False
) -> tuple[Counter, list[Outcome]]:
    """(number of each verdict, the bad outcomes)."""
    counts: Counter[str] = Counter()
    bad = []
    for outcome in outcomes:
        counts[outcome.verdict] += 1
        if outcome.verdict not in GOOD:
            bad.append(outcome)
            if progress:
                print(f"  case {outcome.case}: {outcome.verdict}: {outcome.said}", flush=True)
    return counts, bad
