"""Threads beside the forward pass: order, bounds, and what they raise."""

import threading
import time

import pytest

from yolact.engine.ahead import BEHIND, Behind, read_ahead


def test_items_come_in_order_and_no_further_ahead_than_asked():
    taken, handed = [], []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def late_first(i):
        time.sleep(0.02 if i % 2 == 0 else 0)
        return 10 * i

    for value in read_ahead(late_first, items(), threads=3, ahead=2):
        handed.append(value)
        assert len(taken) - len(handed) <= 2
    assert handed == [10 * i for i in range(20)]


def test_an_error_comes_in_its_place_and_no_thread_stays():
    def third(i):
        if i == 3:
            raise ValueError("broken")
        return i

    handed, before = [], threading.active_count()
    with pytest.raises(ValueError, match="broken"):
        for value in read_ahead(third, range(50), threads=2, ahead=4):
            handed.append(value)
    assert handed == [0, 1, 2] and threading.active_count() == before
    early = read_ahead(third, range(3), threads=2, ahead=1)
    next(early)
    early.close()
    assert threading.active_count() == before


def test_results_are_written_in_order_and_few_wait():
    done, gate, started = [], threading.Event(), []

    def work(i):
        gate.wait(10)
        done.append(i)

    def give():
        with Behind() as behind:
            for i in range(12):
                started.append(i)
                behind(work, i)

    giver = threading.Thread(target=give)
    giver.start()
    time.sleep(0.2)
    assert len(started) <= BEHIND + 1 and not done
    gate.set()
    giver.join(10)
    assert done == list(range(12))


def test_nothing_is_written_after_an_error():
    done = []

    def work(i):
        if i == 2:
            raise OSError("disk full")
        done.append(i)

    with pytest.raises(OSError, match="disk full"), Behind() as behind:
        for i in range(100):
            behind(work, i)
            time.sleep(0.001)
    assert done == [0, 1]
    done.clear()
    with pytest.raises(KeyboardInterrupt), Behind() as behind:  # keeps what was done
        for i in (0, 1):
            behind(work, i)
        raise KeyboardInterrupt
    assert done == [0, 1]
