"""Run a study: python scripts/sweep.py configs/sweeps/NAME.yaml [key=value ...]

  --dry_run     show the arms, how their configs differ, the runs, and what the study will cost;
                with --run NAME that run's config
  --status      how far it is (from any terminal)
  --print       one command a line, to be run anywhere that sees the same files
  --run NAME    train one run of the study, as those commands do
  --slurm       one SLURM job a run: --slurm --sbatch "partition=gpu gpus_per_node=1 time=600"
  --search      look for the best values of the search section instead

Without any of these it trains, on every local device at once. Done runs are skipped, interrupted
ones go on where they stopped; any number of processes may work on one study. key=value changes a
setting of every arm, or a key of the study itself (seeds=3).
"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from data.resolve import ConfigError, dump_yaml
from layers.names import unknown_name
from yolact import cli
from yolact.study.arms import PlannedRun, runs_of
from yolact.study.handle import StudyHandle, load
from yolact.study.train.course import train_one, train_stages
from yolact.study.train.estimate import describe_study, estimate_cost, list_runs, power_of
from yolact.study.train.launch import pasteable, yolact_command
from yolact.study.train.local import Slot, Stopped, local_slots
from yolact.study.train.stages import Plan
from yolact.study.train.status import LiveTable


def _parser() -> cli.Parser:
    flags = cli.Parser(usage="%(prog)s FILE [flags] [key=value ...]", description=__doc__)
    flags.add_argument("--study", help="the study file; may also be given without the flag")
    flags.switch("--dry_run", help="show arms, differences and cost, and stop")
    flags.add_argument(
        "--sd",
        type=float,
        help="with --dry_run and --floor: the power, for this sd of differences over seeds, in "
        "points",
    )
    flags.add_argument(
        "--floor",
        type=float,
        help="with --sd: half-width of the interval that the images alone leave, in points",
    )
    flags.switch("--status", help="show how far the study is, and stop")
    flags.switch("--print", help="print one command a run, and stop")
    flags.add_argument(
        "--run",
        metavar="NAME",
        help="train this run only (with --dry_run: show its config): <arm>/seed<k>-<hash>",
    )
    flags.switch("--slurm", help="submit the runs to SLURM, and stop")
    flags.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="of the jobs: 'partition=gpu gpus_per_node=1 time=600' (minutes)",
    )
    flags.switch(
        "--search", help="search the best values of the search section on a tune split, with Optuna"
    )
    flags.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="runs at a time (default: one for each CUDA device, or one); auto tries on a CPU "
        "whether several at once train more steps",
    )
    flags.add_argument("--device", help="cpu, cuda:N (default: every CUDA device, or the CPU)")
    flags.add_argument(
        "--runs_root",
        type=Path,
        default=Path("runs"),
        help="the study's folder is <runs_root>/<study>",
    )
    flags.switch(
        "--amend",
        help="accept that the file has changed since the study began; its verdicts are then "
        "exploratory",
    )
    return flags


def _main(arguments: Namespace) -> int:
    if (arguments.sd is None) != (arguments.floor is None) or (
        arguments.sd is not None and not arguments.dry_run
    ):
        raise ConfigError("--sd and --floor belong together, and to --dry_run")
    study = load(arguments.study, arguments.overrides, runs_root=arguments.runs_root)
    if arguments.status:
        print(study.status())
        return 0
    # a queued job trains its run: results files were looked at when it was planned
    for line in study.check(external=arguments.run is None):
        cli.note(line)
    if arguments.dry_run:
        _dry_run(study, arguments)
        return 0
    plan = study.begin(amend=arguments.amend)
    for line in study.changes(plan):
        cli.note(line)
    if arguments.print:
        _print_commands(plan, arguments)
        return 0
    if arguments.slurm:
        from yolact.study.train.slurm import submit

        return submit(plan, lambda run: _command(arguments, run), arguments.sbatch, print)
    try:
        return 0 if _train(study, plan, arguments) else 1
    except Stopped:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _train(study: StudyHandle, plan: Plan, arguments: Namespace) -> bool:
    """Whether all that was asked for is done."""
    live = LiveTable(plan.root, plan.study.primary)
    if arguments.run is not None:
        one = [Slot(arguments.device or _default_device(), 0)]
        driver = study.driver(one, live, own_session=False)
        return train_one(plan, _named(arguments.run, plan.runs), driver, live)
    driver = study.driver(_slots(plan, arguments)[0], live)
    print(describe_study(plan.study, plan.arms, plan.current, plan.root), flush=True)
    if arguments.search:
        from yolact.study.train.search import search

        return search(plan, driver, live.say) == 0
    return train_stages(plan, driver, live)


def _slots(plan: Plan, arguments: Namespace) -> tuple[list[Slot], float | None]:
    """(places for runs, how many times as fast as one alone they are together, where that was
    measured). Under --jobs auto they are those that a trial chose, which is said."""
    jobs = arguments.jobs
    slots = local_slots(None if jobs == "auto" else jobs, arguments.device)
    if jobs != "auto" or slots[0].device != "cpu":
        return slots, None
    from yolact.study.train.jobs import choose_jobs

    runs = plan.reported or runs_of(plan.study, plan.arms, root=plan.root)
    chosen = choose_jobs(runs[0].config)
    print(f"jobs       {chosen.jobs} at a time ({chosen.why})", flush=True)
    return local_slots(chosen.jobs, arguments.device), chosen.gain


def _jobs(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r}: give a number of runs, 1 or more, or auto")
    return int(text)


def _dry_run(study: StudyHandle, arguments: Namespace) -> None:
    plan = study.plan
    # untuned ones cost as much
    runs = plan.reported or runs_of(plan.study, plan.arms, root=plan.root)
    if arguments.run is not None:
        print(dump_yaml(_named(arguments.run, plan.runs).config), end="")
        return
    print(describe_study(plan.study, plan.arms, runs, plan.root))
    if arguments.sd is not None and arguments.floor is not None:
        print(power_of(plan.study, plan.arms, arguments.sd, arguments.floor))
    print(list_runs(plan.runs))
    if not plan.reported:
        print("the reported runs get their names once these trials have chosen their settings")
    slots, gain = _slots(plan, arguments)
    print(
        estimate_cost(
            plan.study,
            runs,
            slots=slots,
            gain=gain,
            trials=len(plan.trials),
            starts=plan.starts_of([*runs, *(trial.run for trial in plan.trials)]),
        )
    )


def _print_commands(plan: Plan, arguments: Namespace) -> None:
    """One command for each run of the stage that is due; a start comes before what trains from it,
    and that waits for it by itself."""
    for run in plan.open(plan.due):
        print(shlex.join(pasteable(_command(arguments, run))))
    if not plan.reported:
        cli.note(
            "these are the tuning trials; when they are done, the same command prints the "
            "reported runs"
        )


def _command(arguments: Namespace, run: PlannedRun) -> list[str]:
    words = ["sweep", str(arguments.study), "--run", run.name]
    if arguments.runs_root != Path("runs"):
        words += ["--runs_root", str(arguments.runs_root)]
    if arguments.device is not None:
        words += ["--device", arguments.device]
    return yolact_command(*words, *arguments.overrides)


def _named(name: str, runs: list[PlannedRun]) -> PlannedRun:
    found = {run.name: run for run in runs}
    if name not in found:
        raise ConfigError(f"--run: {unknown_name('run', name, found)}")
    return found[name]


def _default_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _read(argv: Sequence[str] | None = None) -> Namespace:
    """The command line, with the study file as its first plain word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and "=" not in words[0]:
        words = ["--study", *words]
    flags = _parser()
    arguments = flags.parse(words)
    if arguments.study is None:
        flags.error("name a study file first, such as configs/sweeps/quick_study.yaml")
    return arguments


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of a command line (those of this process); its exit code."""
    return cli.run(_main, _read(argv))
