"""How a training ends early. Ctrl-C and SIGTERM: finish the step, save, and leave with the exit
code that a shell expects. Errors: what they are to the user."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data.workers import explain_worker_failure
from yolact.cli import one_line
from yolact.engine import distributed
from yolact.engine.last_resort import LastResort

# seconds in which SIGTERMs are one: schedulers signal a process and its parent, which passes it on
ONE_REQUEST = 0.5


class Interrupted(SystemExit):
    """Training was asked to stop and has saved its state. Left to itself it ends the process with
    130 (Ctrl-C) or 143 (SIGTERM)."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)


class Together(ValueError):
    """A user's mistake that every rank knows of, between the same two steps."""


class StopNow(KeyboardInterrupt):
    """Raised inside StopRequest.at_once() blocks, which may be left at any point without harm."""


class StopRequest:
    """Turns the first signal into a flag for the loop to read, while the `with` block lasts; the
    second one ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signum, self._first = 0, 0.0
        self._at_once = False
        self._process = os.getpid()
        self._before: dict = {}
        self._last_resort = LastResort(self.SIGNALS, ONE_REQUEST, distributed.idle_note)

    def advise(self, text: str) -> None:
        """What is said where the process has to end without saving."""
        self._last_resort.advice = f"; {text}"

    def __enter__(self) -> StopRequest:
        # Python allows handlers nowhere else
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
            self._last_resort.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._last_resort.__exit__()
        for s, handler in self._before.items():
            signal.signal(s, handler)

    def _handle(self, signum: int, _frame) -> None:
        if os.getpid() != self._process:
            # a loader's process: Ctrl-C reaches it too, but the step that is to be finished still
            # needs its images
            return
        if self.signum:
            if signum == signal.SIGTERM and time.monotonic() - self._first < ONE_REQUEST:
                return
            raise KeyboardInterrupt
        self.signum, self._first = signum, time.monotonic()
        if distributed.is_main():
            print(
                f"{signal.Signals(signum).name}: finishing the step and saving (once more stops at "
                "once)",
                file=sys.stderr,
                flush=True,
            )
        if self._at_once:
            raise StopNow

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a signal leaves by StopNow instead of waiting for its end. A signal just
        before it counts too."""
        self._at_once = True
        try:
            if self.signum:
                raise StopNow
            yield
        finally:
            self._at_once = False

    def explains(self, error: Exception) -> bool:
        """Whether `error`, of a loader, is only that its processes were sent the same signal. Ours
        may arrive a moment later."""
        # a sample's own error has no cause
        if not self.signum and not (isinstance(error, ValueError) and error.__cause__ is None):
            time.sleep(0.2)
        return self.signum != 0

    def agreed(self, problem: Exception | None) -> bool:
        """Whether a rank was asked to stop before this step, on all ranks. Together on all where
        one has a problem with its images."""
        worst = distributed.most(2 if problem is not None else int(self.signum != 0))
        if worst == 2:
            told = distributed.gather("" if problem is None else one_line(problem))
            raise Together(next(filter(None, told))) from problem
        if worst:
            self.signum = max(distributed.gather(self.signum))
        return worst > 0


def as_mistake(error: Exception) -> Exception | None:
    """`error` as a user's mistake in one line, with the fix; None where it is none of theirs."""
    full = "can't allocate memory" in str(error)  # of PyTorch on a CPU, a RuntimeError
    if full or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return ValueError(
            f"out of memory ({one_line(error)}): lower train.batch_size, or split the batch by a "
            "higher train.accumulate"
        )
    found = explain_worker_failure(error) or distributed.lost_process(error)
    return found or (error if isinstance(error, (ValueError, OSError)) else None)


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """A block whose errors come out as as_mistake() tells them; those of the code as they are."""
    try:
        yield
    except Exception as error:
        explained = as_mistake(error)
        if explained is None or explained is error:
            raise
        raise explained from error
