"""A study of three arms and three seeds, and what tests do with its report."""

import csv
import io
from pathlib import Path

from yolact.commands import report
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
