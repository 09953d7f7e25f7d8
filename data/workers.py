"""The processes of a loader: how a batch comes over, what to say where none comes, and their end.

No wait for them is without an end, whatever becomes of them: a process that is stopped, locked up
or waits for a disk that does not answer is ended, and full shared memory is done without.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, _utils, get_worker_info

from layers.problems import DataWarning, few, printable

NO_WORKERS = "train.num_workers=0 reads images in the main process"
PATIENCE = 40.0  # seconds that loader processes may do nothing while a batch is waited for
STOPPED = 25.0  # ... and that one of them may be stopped
LOOK = 1.0  # seconds between two looks at them
BUSY = 50  # hundredths of a second of a processor that are work: an idle process looks for orders
LAST_WORDS = 5.0  # seconds that they have to end by themselves
POLL = 5  # seconds after which PyTorch's own wait is begun anew
_FEWER = f"use fewer workers, or {NO_WORKERS}"
_CRASH = (
    "a library crashed, on an image or a mask. Run scripts/check_data.py, which reads every file; "
    f"{NO_WORKERS}, and shows which sample it was"
)
# what PyTorch says of a dead process, in lower case -> the cause and the fix
_DEATHS = (
    ("bus error", f"shared memory (/dev/shm) is full. Make it larger, {_FEWER}"),
    ("shared memory", f"shared memory (/dev/shm) is full. Make it larger, {_FEWER}"),
    ("signal: killed", f"most often, the machine ran out of memory. Therefore {_FEWER}"),
    ("segmentation fault", _CRASH),
    ("aborted", _CRASH),
    ("floating point", _CRASH),
    ("illegal instruction", _CRASH),
    ("killed by signal", f"something sent it that signal, such as the end of a job. {NO_WORKERS}"),
    ("", f"it ended by itself; its own message stands above. {NO_WORKERS}"),
)
# what PyTorch says in a worker where a batch finds no room in shared memory, or no handle for it
_NO_ROOM = ("No space left on device", "Cannot allocate memory", "Too many open files")


def explain_worker_failure(error: BaseException) -> ValueError | None:
    """A ValueError with the fix, where `error` says that a loader process died or could not hand
    over its batch; else None.

    PyTorch raises it in the main process at any moment, in the middle of a training step too.
    """
    text = str(error)
    if "DataLoader worker" in text and (
        "killed by signal" in text or "exited unexpectedly" in text
    ):
        cause = next(cause for sign, cause in _DEATHS if sign in text.lower())
        return ValueError(f"a loader process died ({text.splitlines()[0].rstrip('. ')}): {cause}")
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        return ValueError(
            "no space left for a batch in shared memory (/dev/shm): make it larger, use fewer "
            f"workers, or {NO_WORKERS}"
        )
    if "Too many open files" in text or "received 0 items of ancdata" in text:
        return ValueError(
            "too many open files in the loader: raise the limit (ulimit -n 65536), use fewer "
            f"workers, or {NO_WORKERS}"
        )
    return None


# ----------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Parcel:
    """A batch as bytes, which name its tensors in shared memory. Where there is no room the bytes
    hold the tensors, and why says what was in the way."""

    data: bytes
    why: str = ""

    def open(self) -> Any:
        """The batch. A DataWarning, the same for all batches, where it came over without shared
        memory."""
        if self.why:
            warnings.warn(
                f"batches come over through pipes, which takes longer ({self.why}): make /dev/shm "
                f"larger (docker run --shm-size=2g), raise ulimit -n, {_FEWER}",
                DataWarning,
                stacklevel=2,
            )
        return pickle.loads(self.data)  # of our own process

    def pin_memory(self) -> Any:
        return self.open().pin_memory()


_no_room: list[str] = []  # why this process shares no memory any more


def handed_over(batch: Any) -> Any:
    """The batch as it leaves the process that made it. Left to PyTorch, one that finds no room in
    shared memory, or no handle, is lost in a thread of a queue, and waited for without end."""
    if get_worker_info() is None:
        return batch
    if not _no_room:
        try:
            return Parcel(bytes(ForkingPickler.dumps(batch)))
        except (RuntimeError, OSError) as error:
            why = next((words for words in _NO_ROOM if words in str(error)), None)
            if why is None:
                raise
            _no_room.append(why)  # for good: what was begun keeps handles
    return Parcel(pickle.dumps(batch), _no_room[0])


@dataclass
class Failure:
    """What went wrong with a sample, on its way from a worker to the main process."""

    message: str


# ------------------------------------------------------------------------------------------- waits


class Asked:
    """The batches of keys that a loader was asked for, and has not brought yet."""

    def __init__(self, batches: Iterable[list[tuple[int, int]]]) -> None:
        self.batches = batches
        self.open: deque[list[tuple[int, int]]] = deque()

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # an endless one has no length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.open.clear()
        for keys in self.batches:
            self.open.append(keys)
            yield keys


@dataclass(frozen=True)
class Work:
    """What a process has done: its state by the kernel's letter, and sums that grow as it works."""

    state: str
    ticks: int
    read: int

    def goes_on(self, before: Work) -> bool:
        """Whether it has worked since: has used a processor, or read anything."""
        return self.read > before.read or self.ticks - before.ticks >= BUSY


def work_of(pid: int) -> Work | None:
    """What a process has done; None where the system does not tell or it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        read = Path(f"/proc/{pid}/io").read_text().split()[1]
    except (OSError, IndexError):
        return None
    return Work(state, int(fields[10]) + int(fields[11]), int(read))


class Watch:
    """Looks after the processes of a DataLoader's iterator while a batch of theirs is waited for,
    in a thread: the wait may be inside a call that nothing else ends. Ends those that do nothing;
    then found says why.

    awaited: says what is waited for.
    """

    def __init__(self, iterator: Iterator, awaited: Callable[[], str]) -> None:
        self.iterator, self.awaited = iterator, awaited
        self.processes: Sequence[BaseProcess] = getattr(iterator, "_workers", ())
        self.waits = 0  # odd while a batch is waited for
        self.found: ValueError | None = None
        self._done = threading.Event()
        if self.processes:
            threading.Thread(target=self._run, name="loader watch", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.waits += 1
        try:
            yield
        finally:
            self.waits += 1

    def close(self) -> None:
        self._done.set()

    def _run(self) -> None:
        wait, quiet, waited = 0, dict.fromkeys(self._pids(), 0.0), 0.0
        before: dict[int, Work | None] = {}
        # seconds are counted by looks: a process group that was stopped and goes on has not waited
        while not self._done.wait(LOOK):
            if self.waits != wait or wait % 2 == 0:
                wait, waited, quiet = self.waits, 0.0, dict.fromkeys(self._pids(), 0.0)
                before = {pid: work_of(pid) for pid in quiet}
                continue
            waited += LOOK
            now = {pid: work_of(pid) for pid in quiet}
            for pid, work in now.items():
                last = before[pid]
                quiet[pid] += LOOK
                if work is None or last is None or work.goes_on(last):
                    quiet[pid], before[pid] = 0.0, work
            self.found = self._stuck(quiet, now)
            if self.found is not None:
                self.end()
                return
            if waited % PATIENCE < LOOK:
                print(
                    printable(
                        f"waiting for {self.awaited()} since {waited:.0f} s; the loader processes "
                        "are at work"
                    ),
                    file=sys.stderr,
                    flush=True,
                )

    def _pids(self) -> list[int]:
        return [process.pid for process in self.processes if process.pid is not None]

    def _stuck(self, quiet: dict[int, float], now: dict[int, Work | None]) -> ValueError | None:
        for pid, work in now.items():
            if work is not None and work.state in "Tt" and quiet[pid] >= STOPPED:
                return ValueError(
                    f"loader process {pid} was stopped by a signal and did nothing for "
                    f"{quiet[pid]:.0f} s, while {self.awaited()} was waited for; it was ended. "
                    f"Look what stops processes here; {NO_WORKERS}"
                )
        if min(quiet.values()) < PATIENCE:
            return None
        return ValueError(
            f"the loader processes did nothing for {PATIENCE:.0f} s, while {self.awaited()} was "
            "waited for: the disk or share of the data does not answer, or a library has locked "
            f"itself. See whether the files can be read; {NO_WORKERS}"
        )

    def explain_loss(self, error: Exception) -> ValueError | None:
        """The end of a process, where `error` comes of it: the tensors of a batch are asked of the
        process that made it, over a socket that closes before PyTorch sees the process end."""
        if not self.processes or not isinstance(error, (OSError, EOFError)):
            return None
        sentinels = {process.sentinel: process for process in self.processes}
        for sentinel in connection.wait(list(sentinels), timeout=LAST_WORDS):
            process = sentinels[sentinel]  # type: ignore[index]
            process.join(LAST_WORDS)
            if code := process.exitcode:
                how = "exited unexpectedly"
                if code < 0:
                    how = f"is killed by signal: {signal.strsignal(-code)}"
                return explain_worker_failure(
                    RuntimeError(f"DataLoader worker (pid {process.pid}) {how}")
                )
        return None

    def end(self) -> None:
        """Kills the processes, which ends waits for them."""
        _leave_unreported(self.iterator)
        for process in self.processes:
            process.kill()


def end_workers(watch: Watch) -> None:
    """Ends the processes of a DataLoader's iterator: by themselves, or after LAST_WORDS by force.
    Without it, one that is stopped or locked up is waited for when this process ends."""
    watch.close()
    if not watch.processes:
        return
    _leave_unreported(watch.iterator)
    for process in watch.processes:
        if process.pid is not None and process.is_alive() and hasattr(signal, "SIGCONT"):
            os.kill(process.pid, signal.SIGCONT)
    force = threading.Timer(LAST_WORDS, watch.end)
    force.daemon = True
    force.start()
    watch.iterator._shutdown_workers()  # type: ignore[attr-defined]
    force.cancel()
    watch.end()


def _leave_unreported(iterator: Any) -> None:
    """Keeps PyTorch from raising the deaths of an iterator's processes: they are meant."""
    if iterator._worker_pids_set:
        iterator._worker_pids_set = False
        _utils.signal_handling._remove_worker_pids(id(iterator))


@contextmanager
def deaths_held(*, report: bool = True) -> Iterator[None]:
    """Holds back PyTorch's report of a dead loader process, which it raises from a SIGCHLD handler
    at any bytecode, until the block is done: half a step cannot be saved. report=False drops it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "SIGCHLD"):  # Windows has none
        yield
        return
    held: list[tuple] = []
    before = signal.signal(signal.SIGCHLD, lambda *arguments: held.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
    if held and report and callable(before):
        before(*held[0])


class Loader:
    """Iterates a DataLoader and states in one line what went wrong in it. len() is defined where
    the iteration ends.

    options: of the DataLoader; batches: the keys of each batch; name_of: what messages call the
    item of an index.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[list[tuple[int, int]]],
        *,
        name_of: Callable[[int], object],
        **options: Any,
    ) -> None:
        self.asked, self.name_of = Asked(batches), name_of
        if options.get("num_workers"):
            options["timeout"] = POLL
        self.loader: DataLoader = DataLoader(dataset, batch_sampler=self.asked, **options)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        try:
            iterator = iter(self.loader)
        except OSError as error:
            raise ValueError(
                f"loader processes cannot be started ({error.strerror or error}): they need room "
                f"in /dev/shm, handles (ulimit -n) and processes (ulimit -u); {NO_WORKERS}"
            ) from error
        watch = Watch(iterator, self._awaited)
        try:
            while (batch := self._next(iterator, watch)) is not None:
                yield batch
        finally:
            end_workers(watch)

    def _next(self, iterator: Iterator, watch: Watch) -> Any:
        """The next batch; None at the end. ValueError where there was a mistake in it, or where the
        processes ended or do nothing."""
        try:
            with watch.waiting():
                batch = self._polled(iterator, watch)
                if isinstance(batch, Parcel):
                    batch = batch.open()
        except Exception as error:  # a queue of a killed process breaks in many ways
            explained = watch.found or explain_worker_failure(error) or watch.explain_loss(error)
            if explained is None:
                raise
            raise explained from error
        if self.asked.open:
            self.asked.open.popleft()
        if isinstance(batch, Failure):
            raise ValueError(batch.message)
        return batch

    def _polled(self, iterator: Iterator, watch: Watch) -> Any:
        while True:
            try:
                return next(iterator, None)
            except RuntimeError as error:
                if watch.found is not None or "timed out after" not in str(error):
                    raise

    def _awaited(self) -> str:
        keys = self.asked.open[0] if self.asked.open else []
        return f"a batch ({few([self.name_of(index) for _, index in keys])})"
