"""Trains runs on this machine, as many at once as there are devices. Any number of these may work
on one study at the same time."""

from __future__ import annotations

import getpass
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolact.locking import lock_now
from yolact.study.arms import PlannedRun
from yolact.study.folder.locks import claim, is_held, release
from yolact.study.folder.progress import folder_of, is_done, twin
from yolact.study.folder.reading import read_note
from yolact.study.train.launch import threads_of
from yolact.study.train.worker import Worker, finish, start

RETRIES = 2  # of a run that a signal ended, the out-of-memory killer's for example
# seconds between looks at own workers, and at runs that other processes hold
POLL, POLL_OTHERS = 0.2, 2.0


@dataclass(frozen=True)
class Slot:
    """A place for one worker. On CUDA it has a lock, so that two sweeps on one machine do not load
    one device twice."""

    device: str
    number: int

    def claim(self) -> list[int] | None:
        """The descriptors that hold it (none on a CPU), or None where a worker of another process
        is on it."""
        if self.device == "cpu":
            return []
        path = (
            Path(tempfile.gettempdir())
            / f"sweep-{getpass.getuser()}-{self.device.replace(':', '')}-{self.number}.lock"
        )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not lock_now(descriptor, path):
            release(descriptor)
            return None
        return [descriptor]


def local_slots(jobs: int | None, device: str | None = None) -> list[Slot]:
    """One for each CUDA device, or `jobs` spread over the devices; on a CPU `jobs` (1). ValueError
    for less than one."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: give 1 or more, or none for one a device")
    if device is None:
        import torch

        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    else:
        devices = [device]
    return [Slot(devices[i % len(devices)], i // len(devices)) for i in range(jobs or len(devices))]


class Stopped(KeyboardInterrupt):
    """A signal ended the sweep; its workers have saved."""


class Driver:
    """drive() trains runs; a failed one is noted and the others go on."""

    def __init__(
        self,
        root: Path,
        slots: Sequence[Slot],
        *,
        tick: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
        own_session: bool = True,
        code: str | None = None,
    ) -> None:
        """own_session: see worker.start. code: digest of the code, where finished runs of
        other studies may be used."""
        self.root, self.slots, self.tick, self.say, self.own_session, self.code = (
            root,
            list(slots),
            tick,
            say,
            own_session,
            code,
        )
        self.began = time.time()
        self.active: dict[Slot, Worker] = {}
        self.lost: dict[Path, int] = {}
        self.failed: dict[Path, str] = {}
        self.stopping = 0
        self.threads = threads_of(sum(slot.device == "cpu" for slot in slots))

    def drive(
        self,
        runs: Sequence[PlannedRun],
        start_of: Callable[[PlannedRun], PlannedRun | None] = lambda _: None,
    ) -> bool:
        """True once every run is done, here or by another process; False where some failed. Stopped
        after a signal.

        start_of: the run that one starts from, among `runs` where it is not done yet, as is one
        whose training another shares. What starts from a failed run, or shares its training, is not
        trained."""
        waiting, looked = list(runs), 0.0
        before = {
            number: signal.signal(number, self._signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            while waiting or self.active:
                for slot in [
                    slot
                    for slot, worker in self.active.items()
                    if worker.process.poll() is not None
                ]:
                    again = self._ended(self.active.pop(slot))
                    waiting += again
                    looked = 0.0
                free = [slot for slot in self.slots if slot not in self.active]
                if (
                    waiting
                    and free
                    and not self.stopping
                    and time.monotonic() - looked >= POLL_OTHERS
                ):
                    waiting = self._fill(waiting, free, start_of)
                    looked = time.monotonic()
                if self.stopping and not self.active:
                    raise Stopped
                self.tick()
                if waiting or self.active:
                    time.sleep(POLL)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return not self.failed

    def _fill(
        self,
        waiting: list[PlannedRun],
        free: list[Slot],
        start_of: Callable[[PlannedRun], PlannedRun | None],
    ) -> list[PlannedRun]:
        """Starts what can be started; returns what still waits, for another run or process."""
        left: list[PlannedRun] = []
        for index, run in enumerate(waiting):
            if not free:
                return left + waiting[index:]
            if self._is_done(run):
                continue
            firsts = [
                one for one in (run.shares, start_of(run)) if one and not self._ended_well(one)
            ]
            if firsts:
                left += [] if any(one.folder in self.failed for one in firsts) else [run]
                continue
            lock = claim(self.root, run)
            if lock is None:
                left.append(run)
                continue
            if self._settled(run) or self._borrowed(run):  # another process was quicker
                release(lock)
                continue
            locks = free[0].claim()
            if locks is None:
                free.pop(0)
                release(lock)
                left.append(run)
                continue
            slot = free.pop(0)
            self._start(run, slot, [lock, *locks])
        return left

    def _is_done(self, run: PlannedRun) -> bool:
        return is_done(folder_of(self.root, run), run.config)

    def _ended_well(self, run: PlannedRun) -> bool:
        """Whether a run is done and nobody trains it: its process may still be saving."""
        return not is_held(self.root, run) and self._is_done(run)

    def _settled(self, run: PlannedRun) -> bool:
        """Whether the run was finished, or failed since this sweep began."""
        if self._is_done(run):
            return True
        note = read_note(self.root / run.folder)
        if note.get("state") != "failed" or note.get("time", 0) < self.began:
            return False
        self.failed.setdefault(run.folder, note.get("error", ""))
        return True

    def _borrowed(self, run: PlannedRun) -> bool:
        """Whether another study has trained the same, with the same code; then a link leads to
        it."""
        other = twin(self.root, run, self.code) if self.code else None
        folder = self.root / run.folder
        if folder.is_symlink() and not folder.exists():
            folder.unlink()  # what it led to is gone
        if other is None or folder.exists():
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.relpath(other, folder.parent.resolve()), target_is_directory=True)
        self.say(f"linked       {run.name}: {other} has trained the same")
        return True

    def _start(self, run: PlannedRun, slot: Slot, locks: list[int]) -> None:
        try:
            worker = start(
                self.root,
                run,
                device=slot.device,
                locks=locks,
                threads=self.threads,
                own_session=self.own_session,
            )
        except OSError as error:
            self.failed[run.folder] = str(error)
            self.say(f"failed       {run.name}: {error}")
            return
        self.active[slot] = worker
        self.say(f"started      {run.name} on {slot.device}")

    def _ended(self, worker: Worker) -> list[PlannedRun]:
        """Notes how a worker ended; [its run] if it shall be tried again."""
        run, name = worker.run, worker.run.name
        try:
            state = finish(worker)
        # a full disk: the note cannot be written, which loses nothing but the note
        except OSError as error:
            self.failed[run.folder] = str(error)
            self.say(f"failed       {name}: {error}")
            return []
        if state == "lost":
            self.lost[run.folder] = self.lost.get(run.folder, 0) + 1
            if self.stopping:
                self.say(f"interrupted  {name}: the next sweep resumes it")
                return []
            if self.lost[run.folder] <= RETRIES:
                self.say(f"lost         {name} (exit {worker.process.returncode}): it is resumed")
                return [run]
        if state == "done":
            self.say(f"done         {name}")
        else:
            self.failed[run.folder] = why = read_note(worker.folder).get("error", "")
            self.say(f"failed       {name}: {why}")
        return []

    def _signal(self, *_) -> None:
        self.stopping += 1
        if self.stopping == 1:
            self.say(
                f"stopping: {len(self.active)} runs finish their step and save (once more stops "
                "them at once)"
            )
        for worker in self.active.values():
            worker.stop()
