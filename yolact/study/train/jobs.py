"""How many runs of a study to train at once on a CPU, by trying: one that has every core, or
several that share them.

    python -m yolact.study.train.jobs FILE.yaml SECONDS

is one of the processes that are timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from data.cores import usable_cores
from data.resolve import dump_yaml, load_config
from data.schema import Config
from yolact.study.train.launch import environment_of_run, threads_of

SECONDS = 5.0  # of training steps that are timed
GAIN = 1.1  # below it, several runs at once are not worth their memory


@dataclass(frozen=True)
class Tried:
    """Runs at once, threads of each, and training steps a second of all together."""

    jobs: int
    threads: int
    rate: float

    def __str__(self) -> str:
        each = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.jobs} of {each} {self.rate:.2f} steps/s"


@dataclass(frozen=True)
class JobsChoice:
    """Runs at once, how many times as fast as one alone all together are, and why so many."""

    jobs: int
    gain: float
    why: str


def choose_jobs(config: Config) -> JobsChoice:
    """Runs at once on this machine's CPU: 1, 2, 4 and so on up to its cores are tried, until
    more gain nothing. ValueError where a trial cannot train."""
    cores = usable_cores()
    if cores == 1:
        return JobsChoice(1, 1.0, "one core")
    tried = [try_jobs(config, 1)]
    while (jobs := tried[-1].jobs) < cores:
        tried.append(try_jobs(config, min(2 * jobs, cores)))
        if tried[-1].rate < GAIN * tried[-2].rate:
            break
    best = best_of(tried)
    return JobsChoice(
        best.jobs, best.rate / tried[0].rate, f"measured: {', '.join(map(str, tried))}"
    )


def best_of(tried: list[Tried]) -> Tried:
    """The highest rate; of those near it the fewest runs at once."""
    highest = max(one.rate for one in tried)
    return min((one for one in tried if one.rate * GAIN >= highest), key=lambda one: one.jobs)


def try_jobs(config: Config, jobs: int) -> Tried:
    """So many processes that train side by side, with the threads that runs of a study get. None
    begins before all are ready."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tried.yaml"
        path.write_text(dump_yaml(config), encoding="utf-8")
        words = [sys.executable, "-m", __name__, str(path), str(SECONDS)]
        processes = [
            subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment_of_run(threads_of(jobs)),
            )
            for _ in range(jobs)
        ]
        try:
            threads = [int(_answer(process)) for process in processes]
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            return Tried(jobs, threads[0], sum(float(_answer(process)) for process in processes))
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _answer(process: subprocess.Popen) -> str:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if not line:
        last = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"--jobs auto: a trial training ended ({last}): give a number of runs")
    return json.loads(line)


def _train(path: str, seconds: float) -> None:
    """Says its threads when it is ready, waits for a line, and says its steps a second."""
    import torch

    from yolact.study.train.estimate import WARM_UP, training_steps

    with training_steps(load_config(path), "cpu") as step:
        for _ in range(WARM_UP):
            step()
        print(json.dumps(torch.get_num_threads()), flush=True)
        sys.stdin.readline()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            step()
            count += 1
        print(json.dumps(count / (time.perf_counter() - began)), flush=True)


if __name__ == "__main__":
    _train(sys.argv[1], float(sys.argv[2]))
