"""What lies where in a run's folder, as training, evaluation and studies leave it. Paths are
relative to the folder."""

from __future__ import annotations

from pathlib import Path

from data.resolve import RUN_CONFIG

CONFIG, ENV, METRICS = RUN_CONFIG, "env.json", "metrics.jsonl"
GALLERY_PICTURE = "gallery.jpg"  # validation images: what the best weights find, and ground truth
NOTE, LOG = "sweep.json", "log.txt"  # of a study's run: its state, and what it printed

WEIGHTS, RESULTS, PICTURES, TENSORBOARD = "weights", "results", "pictures", "tensorboard"
MLFLOW_RUN, WANDB_RUN = "mlflow_run.txt", "wandb_run.txt"  # the run's name there
LAST, BEST, INTERRUPT = (f"{WEIGHTS}/{name}.pth" for name in ("last", "best", "interrupt"))
CHECKPOINTS = (LAST, INTERRUPT)  # a training goes on from these

BOX_FILE, MASK_FILE = "bbox_detections.json", "mask_detections.json"
BOX_DETECTIONS, MASK_DETECTIONS = f"{RESULTS}/{BOX_FILE}", f"{RESULTS}/{MASK_FILE}"
RECORDS = f"{RESULTS}/records.npz"
DETECTIONS = f"{RESULTS}/detections.npz"  # of a kept run: the masks of its detections
BENCHMARK = f"{RESULTS}/benchmark.json"  # eval.py --benchmark
BOUNDARY = f"{RESULTS}/boundary.json"  # report.py --boundary
GALLERY = f"{RESULTS}/gallery.json"  # of a kept run: detections on the images of the picture


def run_of_records(records: Path) -> Path:
    """The folder of the run whose records these are."""
    return records.parent.parent


def run_of_weights(weights: Path) -> Path | None:
    """The folder of the run whose weights these are, resolved; None for a file elsewhere."""
    place = weights.resolve().parent
    return place.parent if place.name == WEIGHTS else None


def kept_checkpoint(step: int) -> str:
    """A checkpoint that is kept for good, of train.keep_every."""
    return f"{WEIGHTS}/step_{step:08d}.pth"


def kept_checkpoints(run: Path) -> list[Path]:
    """Those of a run, by their steps."""
    return sorted(run.glob(f"{WEIGHTS}/step_*.pth"))
