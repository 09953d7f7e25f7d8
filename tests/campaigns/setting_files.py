"""Config files and study files that are damaged, at the programs that read them."""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from data.resolve import config_hash, dump_yaml, load_config
from tests.campaigns.runner import Door, Silent
from tests.campaigns.values import damaged, damaged_bytes
from yolact.cli import run

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "configs" / "sweeps" / "assigners_small.yaml"


def damaged_yaml(text: str, rng: random.Random) -> bytes:
    """A YAML file with one or two entries that are others, or of which some bytes are."""
    if rng.random() < 0.2:
        return damaged_bytes(text.encode(), rng)
    content = damaged(yaml.safe_load(text), rng)
    if content and rng.random() < 0.3:
        content = damaged(content, rng)
    return yaml.safe_dump(content, allow_unicode=True).encode()


def config(files: Any, here: Path, rng: random.Random) -> Callable[[], int]:
    """A config file, resolved, and read again from what it was written as."""
    path = here / "config.yaml"
    path.write_bytes(damaged_yaml(files.config.read_text(), rng))

    def read(_: Namespace) -> None:
        found = load_config(path)
        again = here / "again.yaml"
        again.write_text(dump_yaml(found))
        if config_hash(load_config(again)) != config_hash(found):
            raise Silent("it is another config once written and read")

    return partial(run, read, Namespace(traceback=False))


def study(files: Any, here: Path, rng: random.Random) -> Callable[[], int]:
    """A study file, for the commands of its runs."""
    from yolact.commands.sweep import program

    path = here / "study.yaml"
    path.write_bytes(damaged_yaml(STUDY.read_text(encoding="utf-8"), rng))
    return partial(program, [str(path), "--print", f"--runs_root={here / 'runs'}"])


DOORS: dict[str, Door] = {"config": config, "study": study}
