"""One run of a study as a `yolact train` process: its folder, its command, and what its end means.
Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from data.resolve import dump_yaml
from yolact.files import write_whole, writing
from yolact.run_files import CONFIG, ENV, LAST, LOG, METRICS, NOTE
from yolact.study.arms import PlannedRun
from yolact.study.folder.locks import release
from yolact.study.folder.progress import is_done, shared_weights
from yolact.study.folder.reading import has_checkpoint, read_env, read_metrics, write_note
from yolact.study.train.launch import environment_of_run, yolact_command

KEPT = {LOG, NOTE}  # of a run that left no checkpoint

INHERITS = os.name == "posix"  # else a worker's locks are held by who started it
KILLED = 9  # SIGKILL, which Windows' signal does not name


@dataclass
class Worker:
    """A training that this process started."""

    run: PlannedRun
    folder: Path
    process: subprocess.Popen
    log: IO[bytes]
    locks: list[int] = field(default_factory=list)  # where processes inherit no descriptors

    def stop(self) -> None:
        """Asks it to save and end; twice ends it at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def start(
    root: Path,
    run: PlannedRun,
    *,
    device: str,
    locks: list[int],
    threads: int | None = None,
    own_session: bool = True,
) -> Worker:
    """Starts or resumes the run. locks: descriptors that the training holds from now on, this
    process' share of them is given up.

    own_session: a terminal's Ctrl-C reaches the worker only through whoever started it, and it
    outlives that one. A scheduler's job must not have that: whoever ends the job ends all of its
    process group.
    """
    folder = root / run.folder
    kept: list[int] = []
    try:
        command = prepare_run(folder, run, device, shared_weights(root, run))
        write_note(folder, state="running", host=platform.node(), device=device)
        with writing(folder / LOG):
            log = (folder / LOG).open("ab")
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment_of_run(threads),
            start_new_session=own_session,
            pass_fds=locks if INHERITS else (),
        )
        kept = [] if INHERITS else locks
    finally:
        for lock in locks:
            if lock not in kept:
                release(lock)
    return Worker(run, folder, process, log, kept)


def prepare_run(
    folder: Path, run: PlannedRun, device: str, weights: Path | None = None
) -> list[str]:
    """The command that goes on with the run, or starts it in an emptied folder that holds its
    config.yaml. weights: finished ones of another run, which it only evaluates."""
    config = folder / CONFIG
    resume = has_checkpoint(folder)
    if not resume:
        for leftover in folder.iterdir() if folder.is_dir() else ():
            if leftover.name not in KEPT:
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
    with writing(config):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(config, dump_yaml(run.config))
    if weights is not None and not resume:
        _take_training(weights, folder)
        resume = True
    where = ["--resume", str(folder)] if resume else ["--run_dir", str(folder)]
    return yolact_command("train", "--config", str(config), *where, "--device", device)


def _take_training(weights: Path, folder: Path) -> None:
    """Gives a run the finished training of another: its weights, the training lines of its metrics,
    and its environment, which says so. Validations are of other settings, so what goes on from here
    evaluates, once. The weights come last: without them it starts again."""
    source = weights.parents[1]
    lines = [line for line in read_metrics(source) if line["kind"] == "train"]
    write_whole(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    env = {**read_env(source), "weights_of": "/".join(source.parts[-2:])}
    write_whole(folder / ENV, json.dumps(env, indent=2) + "\n")
    target = folder / LAST
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        shutil.copyfile(weights, partial)
        os.replace(partial, target)


def finish(worker: Worker) -> str:
    """What became of a worker that has ended: done, failed, or lost (a signal ended it; what it
    saved can be resumed)."""
    code = worker.process.wait()
    worker.log.close()
    for lock in worker.locks:
        release(lock)
    if is_done(worker.folder, worker.run.config) and code == 0:
        state = "done"
    elif code < 0 or code in (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + KILLED):
        state = "lost"
    else:
        state = "failed"
    why = {} if state == "done" else {"exit": code, "error": last_words(worker.folder / LOG)}
    write_note(worker.folder, state=state, **why)
    return state


def last_words(log: Path) -> str:
    """The last error line of a log, or else its last line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = [
            line.strip()
            for line in file.read().decode(errors="replace").splitlines()
            if line.strip()
        ]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1][:500]
