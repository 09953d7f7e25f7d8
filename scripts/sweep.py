"""Run a study: python scripts/sweep.py configs/sweeps/NAME.yaml [key=value ...]

  --dry_run     show the arms, how their configs differ, and what the study will cost
  --status      how far it is (from any terminal)
  --print       one command a line, to be run anywhere that sees the same files
  --run NAME    train one run of the study, as those commands do

Without any of these it trains, on every local device at once. Done runs are skipped, interrupted ones go on where they stopped; any
number of processes may work on one study. key=value changes a setting of every arm, or a key of the study itself (seeds=3).
"""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data import cli  # noqa: E402  (runs from any folder, installed or not)
from data.arms import Run, check_losses, expand, init_run, runs_of  # noqa: E402
from data.files import write_whole  # noqa: E402
from data.resolve import ConfigError  # noqa: E402
from data.study import Study, dump_study, load_study, read_study  # noqa: E402
from data.yaml_text import read_yaml  # noqa: E402
from scripts.sweep_local import Driver, Slot, Stopped, local_slots  # noqa: E402
from scripts.sweep_plan import describe, estimate  # noqa: E402
from scripts.sweep_state import folder_of, is_done  # noqa: E402
from scripts.sweep_table import LiveTable, table  # noqa: E402

FREE = {"description", "added_seeds", "amended", "search"}  # keys of a study that may change once it has begun


def parser() -> cli.Parser:
    flags = cli.Parser(usage="sweep.py FILE [flags] [key=value ...]", description=__doc__)
    flags.add_argument("--study", help="the study file; may also be given without the flag")
    flags.switch("--dry_run", help="show arms, differences and cost, and stop")
    flags.switch("--status", help="show how far the study is, and stop")
    flags.switch("--print", help="print one command a run, and stop")
    flags.add_argument("--run", metavar="NAME", help="train this run only: <arm's folder>/seed<k>-<hash>")
    flags.add_argument("--jobs", type=int, help="runs at a time (default: one for each CUDA device, or one)")
    flags.add_argument("--device", help="cpu, cuda:N (default: every CUDA device, or the CPU)")
    flags.add_argument("--runs_root", type=Path, default=Path("runs"), help="the study's folder is <runs_root>/<study>")
    flags.switch("--amend", help="accept that the file has changed since the study began; its verdicts are then exploratory")
    return flags


def main(arguments: Namespace) -> int:
    study = with_changes(load_study(arguments.study), arguments.overrides, arguments.study)
    root = arguments.runs_root
    arms = expand(study)
    if arguments.status:
        print(table(root, runs_of(study, arms, root=root), study.primary))
        return 0
    notes = check_losses(study, arms)
    for line in notes:
        cli.note(line)
    runs = runs_of(study, arms, root=root)
    if arguments.dry_run:
        print(describe(study, arms, runs, root))
        slots = local_slots(arguments.jobs, arguments.device)
        print(estimate(study, runs, root=root, device=slots[0].device, slots=len(slots)))
        return 0
    begin(study, root, amend=arguments.amend)
    if arguments.print:
        print_commands(study, runs, arguments)
        return 0
    slots = [Slot(arguments.device or default_device(), 0)] if arguments.run else local_slots(arguments.jobs, arguments.device)
    live = LiveTable(root, study.primary)
    driver = Driver(root, slots, tick=live, say=live.say)
    if arguments.run is None:
        print(describe(study, arms, runs, root), flush=True)
    return train(study, runs, root, driver, live, only=arguments.run)


def train(study: Study, runs: list[Run], root: Path, driver: Driver, live: LiveTable, *, only: str | None) -> int:
    """Trains the shared start, then the runs. 0 if all are done, 1 if some failed, 130 after a signal."""
    first = init_run(study, root)
    if only is not None:
        runs = [named(only, [*runs, *([first] if first else [])])]
    try:
        if first is not None and runs != [first] and not all(is_done(folder_of(root, run), run.config) for run in runs):
            live.runs = [first]
            if not driver.drive([first]):
                print(f"error: the checkpoint that every run starts from could not be trained: {driver.failed[first.folder]}",
                      file=sys.stderr)
                return 1
        live.runs = runs
        driver.drive(runs)
    except Stopped:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    if not live.live or only is None:
        live.say(table(root, runs, study.primary))
    return 1 if driver.failed else 0


# --------------------------------------------------------------------------------------------------------------- the file

def with_changes(study: Study, overrides: list[str], origin: str) -> Study:
    """The study with key=value changes: a dotted key is a setting of every arm, a plain one a key of the study."""
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
    """Writes down the study before its first run, in <root>/<study>/study.yaml, and refuses another one there later.

    What was decided is not changed after results were seen; added_seeds may grow, and --amend records what else was changed."""
    path = root / study.name / "study.yaml"
    if path.exists():
        old = load_study(path)
        changed = [key for key in Study.model_fields if key not in FREE and getattr(old, key) != getattr(study, key)]
        if changed and not amend:
            what = "; ".join(f"{key}: {brief_change(getattr(old, key), getattr(study, key))}" for key in changed)
            hint = "write more seeds as added_seeds:, " if changed == ["seeds"] else ""
            raise ConfigError(f"{path} was begun with other settings ({what}): {hint}give this study another name:, or accept the change "
                              "with --amend, which marks its verdicts as exploratory")
        amended = (*old.amended, *(key for key in changed if key not in old.amended))
        if not changed and old.added_seeds == study.added_seeds:
            return
        study = study.model_copy(update={"amended": amended})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_study(study))


def brief_change(old, new) -> str:
    text = f"{old} -> {new}"
    return text if len(text) <= 120 else "changed"


# -------------------------------------------------------------------------------------------------------------- commands

def print_commands(study: Study, runs: list[Run], arguments: Namespace) -> None:
    """One command for each run that is not done; the shared start comes first, and the others wait for it by themselves."""
    first = init_run(study, arguments.runs_root)
    for run in ([first] if first else []) + runs:
        if not is_done(folder_of(arguments.runs_root, run), run.config):
            print(command(arguments, run))


def command(arguments: Namespace, run: Run) -> str:
    words = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(arguments.study), "--run", run.name]
    if arguments.runs_root != Path("runs"):
        words += ["--runs_root", str(arguments.runs_root)]
    return shlex.join([*words, *arguments.overrides])


def named(name: str, runs: list[Run]) -> Run:
    from data.names import unknown_name
    found = {run.name: run for run in runs}
    if name not in found:
        raise ConfigError(f"--run: {unknown_name('run', name, found)}")
    return found[name]


def default_device() -> str:
    import torch
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def read_arguments(argv: list[str] | None = None) -> Namespace:
    """The command line, with the study file as its first plain word."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and "=" not in words[0]:
        words = ["--study", *words]
    flags = parser()
    arguments = flags.parse(words)
    if arguments.study is None:
        flags.error("name a study file first, such as configs/sweeps/quick_study.yaml")
    return arguments


if __name__ == "__main__":
    sys.exit(cli.run(main, read_arguments()))
