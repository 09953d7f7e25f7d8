"""What lies where: names in the folder of a run, of a study, and of the studies that are kept.

A run of a study is <root>/<study>/<arm>/seed<k>-<hash8>. Folders of a study that hold no arm begin
with an underscore.
"""

from __future__ import annotations

import re
from pathlib import Path

# of a run, as training and evaluation leave them
CONFIG, ENV, METRICS = "config.yaml", "env.json", "metrics.jsonl"
WEIGHTS, RESULTS = "weights", "results"
LAST = f"{WEIGHTS}/last.pth"
CHECKPOINTS = (LAST, f"{WEIGHTS}/interrupt.pth")
RECORDS = f"{RESULTS}/records.npz"
BENCHMARK = f"{RESULTS}/benchmark.json"  # eval.py --benchmark
BOUNDARY = f"{RESULTS}/boundary.json"  # report.py --boundary
BOX_DETECTIONS = f"{RESULTS}/bbox_detections.json"
MASK_DETECTIONS = f"{RESULTS}/mask_detections.json"
GALLERY = f"{RESULTS}/gallery.json"  # of a kept run: detections on the images of the picture
# of a run, as a sweep leaves them
NOTE, LOG = "sweep.json", "log.txt"

# of a study
STUDY, CHOSEN, REPORT, RUNS = "study.yaml", "tune.json", "report", "runs"
INIT_FOLDER, TUNE_FOLDER, SEARCH_FOLDER, SLURM_FOLDER = "_init", "_tune", "_search", "_slurm"
ASIDE = (INIT_FOLDER, TUNE_FOLDER, SEARCH_FOLDER)  # hold runs that are not reported
JOURNAL = f"{SEARCH_FOLDER}/journal.log"  # what a search has tried

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


def study_file(folder: Path) -> Path:
    """The plan in a study's folder."""
    return folder / STUDY


def run_of_records(records: Path) -> Path:
    """The folder of the run whose records these are."""
    return records.parent.parent
