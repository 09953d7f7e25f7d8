"""--jobs auto: the choice among what was tried, and a trial of two trainings at once."""

import argparse

import pytest

from yolact.commands import sweep
from yolact.study.train import jobs
from yolact.study.train.jobs import Tried, best_of, choose_jobs, try_jobs
from yolact.study.train.local import local_slots
from yolact.testing.tiny import config, write_dataset


@pytest.mark.parametrize(
    "rates, chosen",
    [((2.0, 3.0), 2), ((2.0, 2.1), 1), ((2.0, 1.0), 1), ((1.0, 1.9, 2.0), 2), ((1.0, 1.5, 3.0), 4)],
)
def test_more_runs_at_once_must_gain_a_tenth(rates, chosen):
    tried = [Tried(n, 4 // n, rate) for n, rate in zip((1, 2, 4), rates, strict=False)]
    assert best_of(tried).jobs == chosen


def test_every_split_of_the_cores_is_tried_and_told(monkeypatch):
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(jobs, "try_jobs", lambda _, n, threads: Tried(n, threads, float(n)))
    count, why = choose_jobs(config())
    assert count == 4
    assert why == (
        "measured: 1 of 4 threads 1.00 steps/s, 2 of 2 threads 2.00 steps/s, "
        "4 of 1 thread 4.00 steps/s"
    )
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda _: {0})
    assert choose_jobs(config()) == (1, "one core")


def test_two_trainings_are_timed_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "SECONDS", 0.1)
    found = try_jobs(config(write_dataset(tmp_path)), 2, 1)
    assert found.jobs == 2 and found.rate > 0


def test_a_trial_that_cannot_train_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="--jobs auto: a trial training ended .*train.json"):
        try_jobs(config(tmp_path), 1, 1)


def test_the_flag_takes_numbers_and_auto():
    assert (sweep._jobs("auto"), sweep._jobs("3")) == ("auto", 3)
    for words in ("many", "0", "-1", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="1 or more, or auto"):
            sweep._jobs(words)
    with pytest.raises(ValueError, match="jobs=-1: give 1 or more"):
        local_slots(-1, "cpu")
