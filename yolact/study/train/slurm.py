"""sweep.py FILE --slurm: one SLURM job a run, through submitit. A job is the command that --print
prints, so it resumes what is there."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.resolve import ConfigError
from data.yaml_text import read_yaml
from yolact.files import write_whole
from yolact.study.arms import PlannedRun
from yolact.study.folder.layout import JOBS, SLURM_FOLDER
from yolact.study.train.launch import python_path
from yolact.study.train.stages import Plan

DAY = 24 * 60  # minutes: a job's limit where the options set none
QUEUED = {"PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING"}


class Resumable:
    """What a job does. Where SLURM is about to end it (time limit, preemption), submitit queues it
    again, and the run goes on."""

    def __init__(self, command: list[str]):
        self.command = command

    def __call__(self) -> int:
        code = subprocess.run(self.command).returncode
        if code:
            # the job shall count as failed
            raise RuntimeError(f"{' '.join(self.command)} ended with {code}: see the run's log.txt")
        return code

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(Resumable(self.command))


def submit(
    plan: Plan, command: Callable[[PlannedRun], list[str]], options: str, say: Callable[[str], None]
) -> int:
    """Submits the runs of the stage that is due: those of one start as one job array behind it,
    and those that share a training behind that.
    Runs that are queued already are left alone, unless the start that they wait for was lost: then
    they are submitted again.

    options: "partition=gpu gpus_per_node=1 time=600", parameters of submitit's SlurmExecutor.
    """
    submitit = _submitit()
    folder = plan.root / plan.study.name
    ids, queued = dict(read_jobs(folder)), queued_jobs(folder)
    missing = plan.missing(plan.current)
    trainings = plan.trainings(plan.current)
    for lost, names in _behind_lost(plan, [*missing, *trainings], queued):
        _cancel([ids[name] for name in names])
        say(
            f"cancelled    {len(names)} jobs that waited for {lost.name}, which is neither "
            "done nor in the queue"
        )
        queued -= set(names)
    waiting = [run for run in plan.open(plan.current) if run.name not in queued]
    if not waiting:
        say("nothing to submit: every run is done or in the queue")
        return 0
    training = [run for run in waiting if plan.training_of(run) is None]
    parameters = read_options(options)

    def send(runs: list[PlannedRun], more: dict[str, Any]) -> None:
        """Submits runs, if any, as one job array."""
        if not runs:
            return
        executor = _executor(submitit, plan, {**parameters, **more})
        with _refusals(), executor.batch():
            jobs = [executor.submit(Resumable(command(run))) for run in runs]
        ids.update({run.name: job.job_id for run, job in zip(runs, jobs, strict=True)})
        write_whole(folder / JOBS, json.dumps(ids, indent=2) + "\n")
        for run in runs:
            say(f"submitted    {run.name} as job {ids[run.name]}")

    # no job waits for a failed start for ever
    extra = {**parameters.get("additional_parameters", {}), "kill_on_invalid_dep": "yes"}
    for start in missing:
        if start.name not in queued:
            send([start], {})
        after = {"dependency": f"afterok:{ids[start.name]}", "additional_parameters": extra}
        send([run for run in training if plan.start_of(run) == start], after)
    send([run for run in training if plan.start_of(run) not in missing], {})
    for one in trainings:
        after = {"dependency": f"afterok:{ids[one.name]}", "additional_parameters": extra}
        send([run for run in waiting if plan.training_of(run) == one], after)
    if not plan.reported:
        say(
            "these are the tuning trials; when they are done, the same command submits the "
            "reported runs"
        )
    say(
        "--status shows how far they are; jobs that were lost are submitted again by the same "
        "command"
    )
    return 0


def _behind_lost(
    plan: Plan, firsts: Sequence[PlannedRun], queued: set[str]
) -> Iterator[tuple[PlannedRun, list[str]]]:
    """(one of the runs that others wait for, the names of those in the queue) where the first is
    not in the queue. queued may shrink meanwhile."""
    for first in (one for one in firsts if one.name not in queued):
        waits = [run.name for run in plan.current if first in (plan.start_of(run), run.shares)]
        if names := [name for name in waits if name in queued]:
            yield first, names


def read_jobs(folder: Path) -> dict[str, str]:
    """{run: job id} of what was submitted of the study in a folder."""
    path = folder / JOBS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def queued_jobs(folder: Path) -> set[str]:
    """Names of the runs of the study in a folder whose job waits or runs."""
    jobs = read_jobs(folder)
    if not jobs:
        return set()
    try:
        found = subprocess.run(
            ["squeue", "--noheader", "--array", "--states=all", "--format=%F_%K %A %T"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"--slurm: squeue does not answer ({error}): is this machine part of a SLURM cluster?"
        ) from None
    live: set[str] = set()
    for line in found.splitlines():
        array, job, state = line.split()[:3]
        if state in QUEUED:
            live |= {array, job}
    return {name for name, job in jobs.items() if job in live}


def _cancel(jobs: list[str]) -> None:
    try:
        subprocess.run(["scancel", *jobs], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"--slurm: scancel {' '.join(jobs)} failed ({error})") from None


def read_options(text: str) -> dict[str, Any]:
    """{parameter: value} of "partition=gpu time=600". ConfigError for a word that is not
    parameter=value."""
    options: dict[str, Any] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise ConfigError(
                f"--sbatch: {word!r} is not parameter=value, such as partition=gpu or time=600 "
                "(minutes)"
            )
        options[key] = read_yaml(value)
    return options


def _executor(submitit: Any, plan: Plan, parameters: dict[str, Any]) -> Any:
    try:
        executor = submitit.SlurmExecutor(folder=plan.root / plan.study.name / SLURM_FOLDER / "%j")
    except RuntimeError as error:
        raise ConfigError(f"--slurm: {error}") from None
    given = {"job_name": plan.study.name, "time": DAY, **parameters}
    path = python_path()
    setup = [f"export PYTHONPATH={shlex.quote(path)}"] if path else []
    try:
        executor.update_parameters(**given, setup=setup)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--sbatch: {error}") from None
    return executor


@contextmanager
def _refusals() -> Iterator[None]:
    """What sbatch says against a job, in one line."""
    import submitit

    try:
        yield
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"--slurm: {str(error).splitlines()[-1]}") from None


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError("--slurm needs submitit: python -m pip install -e '.[slurm]'") from None
    return submitit
