"""What lies where: names in the folder of a study, and of the studies that are kept. Those in a
run's are in yolact/run_files.py.

A run of a study is <root>/<study>/<arm>/seed<k>-<hash8>. Folders of a study that hold no arm begin
with an underscore.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

# of a study
STUDY, CHOSEN, REPORT, RUNS = "study.yaml", "tune.json", "report", "runs"
BOUNDS = "bounds.json"  # what masks of the arms' kinds can reach on the validation set
INIT_FOLDER, TUNE_FOLDER, SEARCH_FOLDER, SLURM_FOLDER = "_init", "_tune", "_search", "_slurm"
EXTERNAL_FOLDER = "_external"  # records of results files of others
ASIDE = (INIT_FOLDER, TUNE_FOLDER, SEARCH_FOLDER)  # hold runs that are not reported
JOURNAL = f"{SEARCH_FOLDER}/journal.log"  # what a search has tried
JOBS = f"{SLURM_FOLDER}/jobs.json"  # what was submitted

# of a root of runs
LOCKS, UNPACKED = ".locks", ".kept"

ANY_SEED = "seed*-*"
_SEED = re.compile(r"seed(\d+)-")


def run_folder(seed: int, digest: str) -> str:
    """The name of a run's folder. digest: of its config."""
    return f"seed{seed}-{digest}"


def seed_of(folder: str | Path) -> int | None:
    """The seed in the name of a run's folder; None where the name is another."""
    found = _SEED.match(Path(folder).name)
    return int(found[1]) if found else None


def records_of_external(folder: Path, label: str) -> Path:
    """Where the records of an external row's results are, in a study's folder."""
    name = re.sub(r"[^A-Za-z0-9.+=_-]+", "-", label).strip("-._")[:40]
    return folder / EXTERNAL_FOLDER / f"{name}-{hashlib.sha256(label.encode()).hexdigest()[:6]}.npz"


def study_file(folder: Path) -> Path:
    """The plan in a study's folder."""
    return folder / STUDY
