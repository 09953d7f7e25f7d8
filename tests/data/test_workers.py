"""Loader processes that die, stop, lock up or find no shared memory."""

import errno
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import time
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import Dataset

from data import workers
from data.coco import Sample
from data.loader import Batch, collate, train_loader
from data.workers import Loader, Parcel, deaths_held, explain_worker_failure
from layers.problems import DataWarning
from layers.targets import Targets
from tests.data.test_loader import coco, same


def test_a_dead_worker_is_one_line_with_the_fix():
    cfg, dataset = coco()
    batches = iter(train_loader(cfg, dataset, num_workers=1))
    next(batches)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        [os.kill(pid, signal.SIGKILL) for pid in _children()]
        for _ in range(50):
            next(batches)
    # PyTorch raises where the main process happens to be; outside the loader it is for the caller
    # to explain.
    error = (
        caught.value
        if isinstance(caught.value, ValueError)
        else explain_worker_failure(caught.value)
    )
    assert "a loader process died" in str(error) and "train.num_workers=0" in str(error)


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="the system has no SIGCHLD")
def test_a_worker_that_dies_between_making_a_batch_and_handing_it_over(monkeypatch):
    opened = Parcel.open

    def killed_first(parcel):
        for child in multiprocessing.active_children():
            child.kill()
        return opened(parcel)

    cfg, dataset = coco()
    batches = iter(train_loader(cfg, dataset, num_workers=1))
    next(batches)
    monkeypatch.setattr(Parcel, "open", killed_first)
    with (
        pytest.raises(ValueError, match="a loader process died.*Killed"),
        deaths_held(report=False),  # whether PyTorch or the closed socket comes first is chance
    ):
        next(batches)


def test_an_error_without_a_dead_worker_is_not_laid_to_one(monkeypatch):
    monkeypatch.setattr(workers, "LAST_WORDS", 0.1)
    monkeypatch.setattr(Parcel, "open", lambda parcel: open("/nowhere/at/all"))
    cfg, dataset = coco()
    with pytest.raises(FileNotFoundError):
        next(iter(train_loader(cfg, dataset, num_workers=1)))


def _children() -> list[int]:
    found = [child.pid for child in multiprocessing.active_children()]
    assert found
    return found


def test_other_failures_of_workers_are_explained_and_bugs_are_not():
    shared = RuntimeError(
        "DataLoader worker (pid 3) is killed by signal: Bus error. The workers are possibly out "
        "of shared memory."
    )
    assert "/dev/shm" in str(explain_worker_failure(shared))
    for sign, words in (
        ("Killed", "ran out of memory"),
        ("Segmentation fault", "crashed, on an image or a mask"),
        ("Aborted", "crashed, on an image or a mask"),
        ("Floating point exception", "crashed, on an image or a mask"),
        ("Terminated", "something sent it that signal"),
    ):
        said = str(
            explain_worker_failure(
                RuntimeError(f"DataLoader worker (pid 3) is killed by signal: {sign}. ")
            )
        )
        assert words in said and ("memory" in said) is (sign == "Killed"), said
    left = RuntimeError("DataLoader worker (pid(s) 3) exited unexpectedly")
    assert "ended by itself" in str(explain_worker_failure(left))
    assert "ulimit" in str(explain_worker_failure(RuntimeError("received 0 items of ancdata")))
    assert "/dev/shm" in str(explain_worker_failure(OSError(28, "No space left on device")))
    assert explain_worker_failure(RuntimeError("shape mismatch")) is None


# ------------------------------------------------------------------------------------------- waits


class Items(Dataset):
    """Samples of which the fourth does what it is told."""

    def __init__(self, fourth=lambda: None):
        self.fourth = fourth

    def __getitem__(self, key):
        if key[1] == 3:
            self.fourth()
        targets = Targets(torch.zeros(1, 4), torch.zeros(1).long(), torch.zeros(1).bool())
        image = torch.full((3, 8, 8), key[1], dtype=torch.uint8)
        return Sample(image, targets, key[1], (8, 8), key[1])


def loader(items, count=8, processes=2):
    return Loader(
        items,
        [[(0, i)] for i in range(count)],
        name_of=lambda index: f"{index}.png",
        num_workers=processes,
        collate_fn=collate,
        multiprocessing_context="fork" if processes else None,
    )


@pytest.fixture
def impatient(monkeypatch):
    for name, value in {
        "PATIENCE": 1.0,
        "STOPPED": 0.6,
        "LOOK": 0.1,
        "BUSY": 5,
        "LAST_WORDS": 0.5,
    }.items():
        monkeypatch.setattr(workers, name, value)
    monkeypatch.setattr(workers, "POLL", 1)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def lock_up():
    time.sleep(1000)


@pytest.mark.parametrize(
    "fourth, said",
    [
        (stop, r"was stopped by a signal and did nothing for \d s, while a batch \(\d.png\) was"),
        (lock_up, r"did nothing for 1 s, while a batch \(3.png\) was waited for: the disk"),
    ],
)
def test_processes_that_do_nothing_are_one_line_and_leave_nothing(impatient, fourth, said):
    batches, begun = iter(loader(Items(fourth))), time.monotonic()
    with pytest.raises(ValueError, match=f"{said}.*{workers.NO_WORKERS}$"):
        for _ in range(4):
            next(batches)
    assert time.monotonic() - begun < 5 and not multiprocessing.active_children()


def test_a_process_that_stops_after_it_has_read_is_no_endless_wait(impatient):
    """Its batch is announced, and its tensors are fetched from it by a call without a limit."""
    batches = iter(loader(Items(), processes=1))
    next(batches)
    time.sleep(0.3)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ValueError, match="was stopped by a signal"):
        for _ in range(7):
            next(batches)


@pytest.mark.parametrize("what", [stop, lock_up])
def test_leaving_does_not_wait_for_processes_that_do_nothing(impatient, what):
    batches = iter(loader(Items(what), processes=2))
    next(batches)
    time.sleep(0.3)
    begun = time.monotonic()
    batches.close()
    assert time.monotonic() - begun < 3 and not multiprocessing.active_children()


def test_work_that_takes_long_is_told_and_waited_for(impatient, capsys):
    def compute():
        until = time.process_time() + 1.5
        while time.process_time() < until:
            pass

    assert [batch.image_ids for batch in loader(Items(compute), 5)] == [[i] for i in range(5)]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "waiting for a batch (3.png) since 1 s; the loader processes are at work"


# ----------------------------------------------------------------------------------- shared memory


@pytest.mark.parametrize(
    "error",
    [
        "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
        "unable to open shared memory object </torch_1> in read-write mode: Too many open files",
    ],
)
def test_without_shared_memory_batches_are_the_same(monkeypatch, error):
    original, calls = ForkingPickler.dumps, []

    def dumps(batch):
        calls.append(batch)
        if isinstance(batch, Batch) and len(calls) > 2:
            raise RuntimeError(error)
        return original(batch)

    expected = list(loader(Items(), processes=0))
    monkeypatch.setattr(workers.ForkingPickler, "dumps", dumps)
    with pytest.warns(DataWarning, match="through pipes.*--shm-size=2g") as told:
        found = list(loader(Items()))
    assert all(map(same, expected, found)) and len({str(w.message) for w in told}) == 1


def test_other_errors_of_sharing_are_raised(monkeypatch):
    def dumps(_):
        raise RuntimeError("storage is not resizable")

    monkeypatch.setattr(workers, "get_worker_info", lambda: 1)
    monkeypatch.setattr(workers.ForkingPickler, "dumps", dumps)
    with pytest.raises(RuntimeError, match="resizable"):
        workers.handed_over([])


# PyTorch's half-made iterator complains when it is deleted
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_processes_that_cannot_be_started_are_one_line(monkeypatch):
    def lock(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", lock)
    with pytest.raises(ValueError, match=r"be started \(Read-only file system\): .*/dev/shm"):
        next(iter(loader(Items())))
