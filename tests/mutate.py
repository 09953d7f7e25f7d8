"""Breaks the code on purpose, one line at a time, and tells which breaks no test notices.

    python -m tests.mutate                    # all of tests/mutations.yaml, about half an hour
    python -m tests.mutate layers/nms.py      # those of one file

Each mutation is made in a copy of the tracked files, and its own tests run on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data.yaml_text import read_yaml

ROOT = Path(__file__).parents[1]
LIMIT = 600  # seconds: a mutation that makes tests wait for ever is caught too


@dataclass(frozen=True)
class Mutation:
    """file: where; old: text that stands there once; new: what replaces it; tests: paths and words
    for pytest."""

    file: str
    old: str
    new: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"

    def applied(self, root: Path) -> str:
        """The file's text with the mutation. ValueError where `old` does not stand there once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def mutations() -> list[Mutation]:
    text = (ROOT / "tests" / "mutations.yaml").read_text(encoding="utf-8")
    return [Mutation(**entry) for entry in read_yaml(text)]


def copy_of_tree(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def is_caught(mutation: Mutation, root: Path) -> bool:
    """Whether a test fails on the mutated copy, which is whole again afterwards."""
    place = root / mutation.file
    original = place.read_text(encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *mutation.tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        place.write_text(mutation.applied(root), encoding="utf-8")
        done = subprocess.run(words, cwd=root, env=environment, capture_output=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return True
    finally:
        place.write_text(original, encoding="utf-8")
    if done.returncode not in (0, 1, 2):  # 2: a module that no longer imports
        raise SystemExit(f"{mutation}: pytest ended with {done.returncode}\n{done.stdout.decode()}")
    return done.returncode != 0


def main() -> int:
    chosen = [m for m in mutations() if not sys.argv[1:] or m.file in sys.argv[1:]]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_of_tree(Path(folder))
        for mutation in chosen:
            caught = is_caught(mutation, Path(folder))
            survived += not caught
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutation}", flush=True)
    print(f"{len(chosen)} mutations: {len(chosen) - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
