"""Train a model: python train.py --config NAME_or_FILE [key=value ...]"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from data.config import NOTES
from data.resolve import dump_yaml, load_config
from data.schema import Config
from yolact import cli, legacy_flags
from yolact.commands import catalogue

DESCRIPTION = """Train YOLACT or YOLACT++ on a COCO-format data set. A run is one folder,
runs/<config>/<n>.

  python train.py --config yolact_plus_small_cigarettes loss.mask="bce + 0.5*mse"
  python train.py --resume                      continue the latest run
  torchrun --nproc_per_node=2 train.py --config yolact_base"""


def parser() -> cli.Parser:
    flags = cli.Parser(
        usage="%(prog)s --config NAME_or_FILE [flags] [key=value ...]", description=DESCRIPTION
    )
    flags.add_argument(
        "--config",
        help="a name of data/config.py, a YAML file, or a run's config.yaml (default: yolact_base)",
    )
    flags.switch("--print_config", help="print every setting, and stop")
    flags.add_argument("--list", choices=catalogue.KINDS, help="list what can be chosen, and stop")
    flags.optional_value(
        "--resume",
        implied="latest",
        metavar="RUN",
        help="continue a run: its folder, a checkpoint of it, or nothing (also 'interrupt') for "
        "the config's latest run",
    )
    flags.add_argument(
        "--run_dir", type=Path, help="folder of this run (default: runs/<config>/<n>)"
    )
    flags.add_argument("--device", help=cli.DEVICE_HELP)
    flags.switch("--cuda", default=None, help="--cuda=False trains on the CPU")
    legacy_flags.add(flags, legacy_flags.TRAIN)
    return flags


def main(arguments: Namespace) -> None:
    if arguments.list:
        catalogue.show(arguments.list)
        return
    legacy_flags.explain(arguments, legacy_flags.TRAIN, quiet=not speaks())
    root = arguments.save_folder or Path("runs")
    resume: str | Path | None
    resume, changes = legacy_flags.resumed(arguments.resume, arguments.start_iter)
    changes = [*changes, *legacy_flags.train_settings(arguments), *arguments.overrides]
    source: Path | str = arguments.config or "yolact_base"
    if resume is not None and arguments.config is None:
        from yolact.engine.rundir import find_config_file

        source = find_config_file(resume, root)
        resume = str(source.parent) if resume == "latest" else resume
    if arguments.print_config:
        print_config(source, changes)
        return
    config = load_config(source, changes)
    if arguments.validation_epoch is not None:
        every = legacy_flags.validation_interval(config, arguments.validation_epoch)
        config = load_config(source, [*changes, f"train.validate_every={every}"])
    explain_autoscale(config, source, changes)
    from yolact.engine.train import train

    train(
        config,
        run_dir=arguments.run_dir,
        resume=resume,
        device=legacy_flags.device(arguments),
        runs_root=root,
    )


def print_config(source: str | Path, changes: list[str]) -> None:
    config = load_config(source, changes, check_names=False)
    if source in NOTES and not changes:  # a change may make it untrue
        print(f"# {NOTES[str(source)]}")
    print(dump_yaml(config), end="")


def explain_autoscale(config: Config, source: str | Path, changes: list[str]) -> None:
    """Say what another batch size than 8 did to the schedule."""
    plain = load_config(source, [*changes, "train.autoscale=false"], check_names=False).train
    scaled = [
        f"{key} {getattr(plain, key):.7g} -> {getattr(config.train, key):.7g}"
        for key in ("lr", "iterations")
        if getattr(plain, key) != getattr(config.train, key)
    ]
    if scaled and speaks():
        cli.note(
            f"scaled for batch {config.train.batch_size} (--no_autoscale leaves them): "
            f"{', '.join(scaled)}"
        )


def speaks() -> bool:
    """Whether this process speaks for all of a torchrun."""
    return os.environ.get("RANK", "0") == "0"


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
