"""A study of three arms and three seeds, and what tests do with its report."""

import csv
import io
import json
from pathlib import Path

from yolact.commands import report
from yolact.engine.metrics import run_coco
from yolact.engine.records import coco_records, read_records, write_records
from yolact.study.arms import arms_of
from yolact.study.plan import load_study
from yolact.testing import tiny

HYBRID = "bce(outside='charge') + 0.5*mse(region='image', rescale=False)"
SKILLS = {"bce": 0.0, "dice": -1.0, HYBRID: 0.02}
STUDY = {
    "name": "small_study",
    "description": "Which loss? 5 % & <b>",
    "base": "yolact_plus_tiny_cigarettes",
    "arms": list(SKILLS),
    "baseline": "bce",
    "seeds": 3,
    "budget": 1000,
    "margin": 1.5,
}


def run_report(folder, *words):
    return report.program([str(folder), *words])


def read_csv(path):
    return read_csv_text(Path(path).read_text())


def read_csv_text(text):
    return list(csv.DictReader(io.StringIO(text)))


def place(folder, arm, seed):
    slug = next(a.slug for a in arms_of(load_study(folder)) if a.label == arm)
    return next((folder / slug).glob(f"seed{seed}-*"))


def shapes(root):
    """Settings of the discs and bars that write_dataset() puts in a folder."""
    return {
        "data.name": "shapes",
        "data.root": str(root),
        "data.train_images": "train",
        "data.train_annotations": "train.json",
        "data.val_images": "val",
        "data.val_annotations": "val.json",
        "data.class_names": list(tiny.CLASSES),
    }


def evaluated(run, truth):
    """Writes the records of a run's own detections."""
    files = (run / "results" / f"{kind}_detections.json" for kind in ("bbox", "mask"))
    results = [json.loads(file.read_text()) for file in files]
    note = read_records(run / "results" / "records.npz").note
    matched = {
        shape: run_coco(truth, found, kind)
        for shape, kind, found in zip(("box", "mask"), ("bbox", "segm"), results)
    }
    write_records(run / "results" / "records.npz", coco_records(matched, note))
