"""Signals to a process that is held inside a call which never returns."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time

import pytest

from yolact.engine import last_resort
from yolact.engine.last_resort import LastResort
from yolact.engine.stopping import StopRequest

HELD = "this process is held by a call that does not come back, so it ends without saving; go on"


def _held(ready, said, idle):
    sys.stderr = said.open("w")
    last_resort.LOOK, last_resort.AT_ONCE, last_resort.IDLE = 0.1, 0.4, idle
    with StopRequest() as stop:
        stop.advise("go on with --resume=there")
        ready.set()
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        for _ in range(2):
            library.pthread_mutex_lock(mutex)  # the second time, for ever, signals or not


def _idle(ready, said, idle):
    sys.stderr = said.open("w")
    last_resort.LOOK, last_resort.IDLE = 0.1, idle
    with LastResort((), 0.5, lambda: "process 1 waits"):
        ready.set()
        time.sleep(3)


def _busy(ready, said, idle):
    last_resort.LOOK, last_resort.IDLE, last_resort.WORK = 0.1, idle, 0.02
    with StopRequest() as stop:
        ready.set()
        until = time.monotonic() + 3
        while not stop.signum or time.monotonic() < until:
            pass
    raise SystemExit(7)


def started(job, folder, idle):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=job, args=(ready, folder / "said", idle), daemon=True)
    process.start()
    assert ready.wait(20)
    time.sleep(0.3)
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times, idle", [(1, 1.0), (2, 1000.0)])
def test_a_process_that_cannot_answer_ends(tmp_path, signum, times, idle):
    process = started(_held, tmp_path, idle)
    for _ in range(times):
        os.kill(process.pid, signum)
        time.sleep(0.7)
    process.join(10)
    assert process.exitcode == 128 + signum
    said = (tmp_path / "said").read_text()
    assert said == f"{signum.name}: {HELD} with --resume=there\n"


def test_a_process_that_works_has_the_time_to_finish(tmp_path):
    process = started(_busy, tmp_path, 2.0)
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 7


def test_a_process_that_does_nothing_says_so_once(tmp_path):
    process = started(_idle, tmp_path, 1.0)
    process.join(20)
    assert (tmp_path / "said").read_text() == "process 1 waits (for 1 s)\n"
