"""Trainings where something runs out: each must end with one line, or go on after one.

    python -m tests.campaigns.exhausted
    python -m tests.campaigns.exhausted "few handles"

File systems are mounted in a namespace of their own, which takes root. Prints how each ended. Exit
1 where one had a traceback, no line, or did not end within a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data.resolve import dump_yaml
from yolact.testing import tiny

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds of a training, besides its start
START = 60.0


@dataclass(frozen=True)
class Case:
    """shell: what is done before; HERE stands for the run's parent. code: the exit code that is
    right; says: words of the message."""

    name: str
    shell: str
    code: int
    says: str
    settings: tuple[str, ...] = ()

    @property
    def mounts(self) -> bool:
        return "mount" in self.shell


def tmpfs(options: str, at: str = "HERE") -> str:
    return f"mount -t tmpfs -o {options} tmpfs {at}"


WORKERS = ("train.num_workers=2",)
CASES = (
    Case("full disk", tmpfs("size=800k"), 2, "No space left on device"),
    Case("limit on file size", "ulimit -f 100", 2, "could not be written"),
    Case("no inodes", tmpfs("nr_inodes=12"), 2, "No space left on device"),
    Case("read-only folder", tmpfs("ro"), 2, "Read-only file system"),
    Case("few handles", "ulimit -n 24", 2, "oo many open files", WORKERS),
    Case(
        "small /dev/shm",
        tmpfs("size=300k", "/dev/shm"),
        0,
        "batches come over through pipes",
        WORKERS,
    ),
    Case("no /dev/shm to write", tmpfs("ro", "/dev/shm"), 2, "they need room in /dev/shm", WORKERS),
)


def ended(case: Case, config: Path, here: Path) -> tuple[int | str, str, str]:
    """(exit code or 'hang', what stdout says, what stderr says) of a training under a case."""
    here.mkdir()
    train = f"exec {sys.executable} train.py --config={config} --run_dir=HERE/run --device=cpu"
    shell = f"{case.shell} && {train} {' '.join(case.settings)}".replace("HERE", str(here))
    words = [*(["unshare", "-m"] if case.mounts else []), "bash", "-c", shell]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=START + LIMIT
        )
    except subprocess.TimeoutExpired as late:
        return "hang", str(late.stdout), str(late.stderr)
    return done.returncode, done.stdout, done.stderr


def judged(case: Case, code: int | str, err: str) -> str:
    """What is wrong with how a case ended, or ''."""
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "warning: "))]
    if "Traceback" in err:
        return "traceback"
    if code != case.code:
        return f"exit {code}"
    return "" if any(case.says in line for line in lines) else "not said"


def two_at_once(config: Path, here: Path) -> tuple[str, str]:
    """(what is wrong, the message) of a second training in one folder."""
    train = [sys.executable, "train.py", f"--config={config}", f"--run_dir={here}", "--device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*train, "train.iterations=300"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    ends = {one.communicate(timeout=10 * LIMIT)[1]: one.returncode for one in both}
    said = next((text.strip() for text, code in ends.items() if code == 2), "")
    right = sorted(ends.values()) == [0, 2] and said.startswith("error: ") and "\n" not in said
    return ("" if right else f"exits {sorted(ends.values())}"), said


def main() -> int:
    chosen, failed = sys.argv[1:], False
    can_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    with tempfile.TemporaryDirectory(prefix="exhausted-") as name:
        folder = Path(name)
        config = folder / "config.yaml"
        cfg = tiny.config(tiny.write_dataset(folder / "data"), iterations=6, save_every=1)
        config.write_text(dump_yaml(cfg))
        for number, case in enumerate(CASES):
            if chosen and case.name not in chosen:
                continue
            if case.mounts and not can_mount:
                print(f"{case.name}: not tried, which takes root")
                continue
            code, _, err = ended(case, config, folder / str(number))
            wrong = judged(case, code, err)
            said = [line for line in err.splitlines() if line.startswith(("error:", "warning:"))]
            print(
                f"{case.name}: {wrong or 'one line'}: {(said or err.splitlines())[-1:]}", flush=True
            )
            failed |= bool(wrong)
        if not chosen or "two at once" in chosen:
            wrong, said_twice = two_at_once(config, folder / "twice")
            print(f"two at once: {wrong or 'one line'}: {said_twice}")
            failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
