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
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.resolve import ConfigError, dump_yaml
from data.yaml_text import read_yaml
from yolact import cli
from yolact.files import write_whole
from yolact.study.arms import PlannedRun, check_losses, runs_of
from yolact.study.folder.kept import kept_study
from yolact.study.folder.layout import study_file
from yolact.study.plan import Study, dump_study, load_study, read_study
from yolact.study.train.estimate import describe_study, estimate_cost, list_runs, power_of
from yolact.study.train.local import Driver, Slot, Stopped, local_slots
from yolact.study.train.stages import Plan, plan_of, tuned, write_tune_splits
from yolact.study.train.status import LiveTable, table

# keys of a study that may change once it has begun
ROOT = Path(__file__).resolve().parents[2]
FREE = {"description", "added_seeds", "amended", "search"}


def parser() -> cli.Parser:
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
        "--jobs", type=int, help="runs at a time (default: one for each CUDA device, or one)"
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


def main(arguments: Namespace) -> int:
    study = with_changes(load_study(arguments.study), arguments.overrides, arguments.study)
    root = arguments.runs_root
    plan = plan_of(study, root)
    if arguments.status:
        print(table(root, plan.due, study.primary))
        return 0
    for line in check_losses(study, plan.arms):
        cli.note(line)
    if (arguments.sd is None) != (arguments.floor is None) or (
        arguments.sd is not None and not arguments.dry_run
    ):
        raise ConfigError("--sd and --floor belong together, and to --dry_run")
    if arguments.dry_run:
        dry_run(plan, arguments)
        return 0
    begin(study, root, amend=arguments.amend)
    write_tune_splits(plan)
    if arguments.print:
        print_commands(plan, arguments)
        return 0
    if arguments.slurm:
        from yolact.study.train.slurm import submit

        return submit(plan, lambda run: command(arguments, run), arguments.sbatch, print)
    slots = (
        [Slot(arguments.device or default_device(), 0)]
        if arguments.run
        else local_slots(arguments.jobs, arguments.device)
    )
    live = LiveTable(root, study.primary)
    driver = Driver(
        root,
        slots,
        tick=live,
        say=live.say,
        own_session=arguments.run is None,
        code=code_of_today(),
    )
    try:
        if arguments.run is not None:
            return train_one(plan, named(arguments.run, plan.runs), driver, live)
        print(describe_study(study, plan.arms, plan.current, root), flush=True)
        if arguments.search:
            from yolact.study.train.search import search

            return first_stage(plan, driver, live) or search(plan, driver, live.say)
        return train(plan, driver, live)
    except Stopped:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def train(plan: Plan, driver: Driver, live: LiveTable) -> int:
    """Trains stage after stage. 0 if all is done, 1 if some runs failed."""
    if plan.open(plan.current) and (code := first_stage(plan, driver, live)):
        return code
    while True:
        live.runs = plan.current
        if not driver.drive(plan.current) and not plan.reported:
            live.say(table(plan.root, plan.current, plan.study.primary))
            print(
                "error: the tuning is not complete, so no reported run was started", file=sys.stderr
            )
            return 1
        if plan.reported:
            break
        plan = plan_of(plan.study, plan.root, plan.arms)
        live.say(
            "tuned: " + "; ".join(f"{arm}: {words}" for arm, words in tuned_words(plan).items())
        )
    live.say(table(plan.root, plan.reported, plan.study.primary))
    return 1 if driver.failed else 0


def first_stage(plan: Plan, driver: Driver, live: LiveTable) -> int:
    """Trains what every run starts from. 0 if it is there."""
    if plan.start is None or plan.done(plan.start):
        return 0
    live.runs = plan.due
    if driver.drive([plan.start]):
        return 0
    print(
        "error: the checkpoint that every run starts from could not be trained: "
        f"{driver.failed[plan.start.folder]}",
        file=sys.stderr,
    )
    return 1


def train_one(plan: Plan, run: PlannedRun, driver: Driver, live: LiveTable) -> int:
    if run != plan.start and not plan.done(run) and (code := first_stage(plan, driver, live)):
        return code
    live.runs = [run]
    return 0 if driver.drive([run]) else 1


def tuned_words(plan: Plan) -> dict[str, str]:
    """{label: what its tuning chose}"""
    chosen = tuned(plan.study, plan.trials, plan.root) or {}
    return {
        label: ", ".join(f"{key}={value}" for key, value in settings.items())
        for label, settings in chosen.items()
    }


def dry_run(plan: Plan, arguments: Namespace) -> None:
    study, root = plan.study, plan.root
    runs = plan.reported or runs_of(study, plan.arms, root=root)  # untuned ones cost as much
    if arguments.run is not None:
        print(dump_yaml(named(arguments.run, plan.runs).config), end="")
        return
    print(describe_study(study, plan.arms, runs, root))
    if arguments.sd is not None and arguments.floor is not None:
        print(power_of(study, plan.arms, arguments.sd, arguments.floor))
    print(list_runs(plan.runs))
    if not plan.reported:
        print("the reported runs get their names once these trials have chosen their settings")
    slots = local_slots(arguments.jobs, arguments.device)
    print(
        estimate_cost(
            study,
            runs,
            root=root,
            device=slots[0].device,
            slots=len(slots),
            trials=len(plan.trials),
        )
    )


# ----------------------------------------------------------------------------------------- the file


def with_changes(study: Study, overrides: list[str], origin: str) -> Study:
    """The study with key=value changes: a dotted key is a setting of every arm, a plain one a key
    of the study."""
    if not overrides:
        return study
    content = study.model_dump()
    for text in overrides:
        key, _, value = text.partition("=")
        target = content["settings"] if "." in key or key == "dataset" else content
        try:
            target[key] = read_yaml(value) if key not in ("loss.mask", "assign.name") else value
        except ValueError as error:
            raise ConfigError(f"{text}: {error}") from None
    return read_study(content, f"{origin} with {' '.join(overrides)}")


def begin(study: Study, root: Path, *, amend: bool) -> None:
    """Writes down the study before its first run, in <root>/<study>/study.yaml, and refuses another
    one later, there or among those kept.

    What was decided is not changed after results were seen; added_seeds may grow, and --amend
    records what else was changed."""
    path = study_file(root / study.name)
    kept = study_file(kept_study(study.name))
    begun = next((place for place in (path, kept) if place.exists()), None)
    if begun is not None:
        old = load_study(begun)
        changed = [
            key
            for key in Study.model_fields
            if key not in FREE and getattr(old, key) != getattr(study, key)
        ]
        if changed and not amend:
            what = "; ".join(
                f"{key}: {brief_change(getattr(old, key), getattr(study, key))}" for key in changed
            )
            hint = "write more seeds as added_seeds:, " if changed == ["seeds"] else ""
            raise ConfigError(
                f"{begun} was begun with other settings ({what}): {hint}give this study another "
                "name:, or accept the change with --amend, which marks its verdicts as exploratory"
            )
        amended = (*old.amended, *(key for key in changed if key not in old.amended))
        if begun == path and not changed and old.added_seeds == study.added_seeds:
            return
        study = study.model_copy(update={"amended": amended})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_study(study))


def brief_change(old, new) -> str:
    text = f"{old} -> {new}"
    return text if len(text) <= 120 else "changed"


# ----------------------------------------------------------------------------------------- commands


def print_commands(plan: Plan, arguments: Namespace) -> None:
    """One command for each run of the stage that is due; the shared start comes first, and the
    others wait for it by themselves."""
    for run in plan.open(plan.due):
        print(shlex.join(command(arguments, run)))
    if not plan.reported:
        cli.note(
            "these are the tuning trials; when they are done, the same command prints the "
            "reported runs"
        )


def command(arguments: Namespace, run: PlannedRun) -> list[str]:
    words = [
        sys.executable,
        str(ROOT / "scripts" / "sweep.py"),
        str(arguments.study),
        "--run",
        run.name,
    ]
    if arguments.runs_root != Path("runs"):
        words += ["--runs_root", str(arguments.runs_root)]
    if arguments.device is not None:
        words += ["--device", arguments.device]
    return [*words, *arguments.overrides]


def named(name: str, runs: list[PlannedRun]) -> PlannedRun:
    from layers.names import unknown_name

    found = {run.name: run for run in runs}
    if name not in found:
        raise ConfigError(f"--run: {unknown_name('run', name, found)}")
    return found[name]


def code_of_today() -> str:
    from yolact.engine.log import code_digest

    return code_digest()


def default_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def read_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """The command line, with the study file as its first plain word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and "=" not in words[0]:
        words = ["--study", *words]
    flags = parser()
    arguments = flags.parse(words)
    if arguments.study is None:
        flags.error("name a study file first, such as configs/sweeps/quick_study.yaml")
    return arguments


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of a command line (those of this process); its exit code."""
    return cli.run(main, read_arguments(argv))
