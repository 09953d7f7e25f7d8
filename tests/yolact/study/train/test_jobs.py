"""--jobs auto: the choice among what was tried, and a trial of two trainings at once."""

import argparse

import pytest

from yolact.commands import sweep
from yolact.study.train import jobs, launch
from yolact.study.train.jobs import Tried, best_of, choose_jobs, try_jobs
from yolact.study.train.local import Driver, local_slots
from yolact.testing.tiny import config, write_dataset


@pytest.mark.parametrize(
    "rates, chosen",
    [((2.0, 3.0), 2), ((2.0, 2.1), 1), ((2.0, 1.0), 1), ((1.0, 1.9, 2.0), 2), ((1.0, 1.5, 3.0), 4)],
)
def test_more_runs_at_once_must_gain_a_tenth(rates, chosen):
    tried = [Tried(n, 4 // n, rate) for n, rate in zip((1, 2, 4), rates, strict=False)]
    assert best_of(tried).jobs == chosen


def tried_with(monkeypatch, cores, rates):
    """What is chosen on so many cores where runs at once have these rates; others are an error."""
    monkeypatch.setattr(jobs, "usable_cores", lambda: cores)
    monkeypatch.setattr(jobs, "try_jobs", lambda _, n: Tried(n, max(1, cores // n), rates[n]))
    return choose_jobs(config())


def test_twice_as_many_are_tried_while_they_gain(monkeypatch):
    found = tried_with(monkeypatch, 4, {1: 1.0, 2: 2.0, 4: 4.0})
    assert (found.jobs, found.gain) == (4, 4.0)
    assert found.why == (
        "measured: 1 of 4 threads 1.00 steps/s, 2 of 2 threads 2.00 steps/s, "
        "4 of 1 thread 4.00 steps/s"
    )
    assert tried_with(monkeypatch, 6, {1: 1.0, 2: 2.0, 4: 3.0, 6: 4.0}).jobs == 6
    found = tried_with(monkeypatch, 128, {1: 2.0, 2: 3.0, 4: 3.1})
    assert (found.jobs, found.gain) == (2, 1.5)
    found = tried_with(monkeypatch, 1, {})
    assert (found.jobs, found.gain, found.why) == (1, 1.0, "one core")


def test_two_trainings_are_timed_side_by_side_with_the_threads_of_runs(tmp_path, monkeypatch):
    """Elsewhere than the checkout, too."""
    monkeypatch.setattr(jobs, "SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = try_jobs(config(write_dataset(tmp_path)), 2)
    assert (found.jobs, found.threads) == (2, 1) and found.rate > 0


def test_runs_share_the_cores_that_the_sweep_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "usable_cores", lambda: 6)
    assert [Driver(tmp_path, local_slots(n, "cpu")).threads for n in (1, 2, 8)] == [None, 3, 1]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.environment_of_run(3)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in launch.environment_of_run()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch.environment_of_run(3)["OMP_NUM_THREADS"] == "1"


def test_a_trial_that_cannot_train_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="--jobs auto: a trial training ended .*train.json"):
        try_jobs(config(tmp_path), 1)


def test_the_flag_takes_numbers_and_auto():
    assert (sweep._jobs("auto"), sweep._jobs("3")) == ("auto", 3)
    for words in ("many", "0", "-1", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="1 or more, or auto"):
            sweep._jobs(words)
    with pytest.raises(ValueError, match="jobs=-1: give 1 or more"):
        local_slots(-1, "cpu")
