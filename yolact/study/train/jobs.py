"""How many runs of a study to train at once on a CPU, by trying: one that has every core, or
several that share them.

    python -m yolact.study.train.jobs FILE.yaml THREADS SECONDS

is one of the processes that are timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from data.generated import usable_cores
from data.resolve import dump_yaml, load_config
from data.schema import Config

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


def choose_jobs(config: Config) -> tuple[int, str]:
    """Runs at once on this machine's CPU, and why. ValueError where a trial cannot train."""
    cores = usable_cores()
    if cores == 1:
        return 1, "one core"
    counts = sorted({1, 2, cores}) if cores % 2 == 0 else [1, cores]
    tried = [try_jobs(config, jobs, cores // jobs) for jobs in counts]
    best = best_of(tried)
    return best.jobs, f"measured: {', '.join(map(str, tried))}"


def best_of(tried: list[Tried]) -> Tried:
    """The highest rate; of those near it the fewest runs at once."""
    highest = max(one.rate for one in tried)
    return min((one for one in tried if one.rate * GAIN >= highest), key=lambda one: one.jobs)


def try_jobs(config: Config, jobs: int, threads: int) -> Tried:
    """So many processes that train side by side, none of which begins before all are ready."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tried.yaml"
        path.write_text(dump_yaml(config), encoding="utf-8")
        words = [sys.executable, "-m", __name__, str(path), str(threads), str(SECONDS)]
        processes = [
            subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            for _ in range(jobs)
        ]
        try:
            for process in processes:
                _answer(process)
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            return Tried(jobs, threads, sum(float(_answer(process)) for process in processes))
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


def _train(path: str, threads: int, seconds: float) -> None:
    """Says that it is ready, waits for a line, and says its steps a second."""
    import torch

    from yolact.study.train.estimate import WARM_UP, training_steps

    torch.set_num_threads(threads)
    with training_steps(load_config(path), "cpu") as step:
        for _ in range(WARM_UP):
            step()
        print(json.dumps("ready"), flush=True)
        sys.stdin.readline()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            step()
            count += 1
        print(json.dumps(count / (time.perf_counter() - began)), flush=True)


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
