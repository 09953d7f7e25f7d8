"""Run folders as finished trainings leave them, without a training: configs, environments, metrics
and per-image records by code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask

from data.loader import build_dataset
from data.resolve import dump_yaml, load_config
from yolact.engine.evaluate import write_results
from yolact.engine.records import Records, write_records
from yolact.study.arms import arms_of, runs_of
from yolact.study.plan import dump_study, read_study
from yolact.testing.synthetic import synthetic_records

ENV = {
    "started": "2026-01-01T00:00:00+00:00",
    "commit": "c0ffee",
    "code": "0123456789abcdef",
    "argv": ["/home/somebody/train.py"],
    "seed": 0,
    "device": "cpu (x86_64)",
    "threads": 2,
    "platform": "Linux",
    "versions": {"torch": "2.8.0", "torchvision": "0.23.0"},
}

# a study of three losses, whose runs few_run() writes
FEW = """
name: few
base: yolact_plus_tiny_cigarettes
arms: [bce, dice, mse]
baseline: bce
seeds: 3
budget: 50
margin: 3
"""


def make_study(
    root: Path,
    content: dict,
    skills: dict[str, float],
    *,
    images: int = 40,
    set_seed: int = 0,
    pictures: bool = False,
) -> Path:
    """Writes <root>/<study> with every run finished. skills {label: logits that its detections are
    better by}; a seed adds its own.

    pictures: also the detections of the validation images, which the study's data set must then
    have."""
    study = read_study(content)
    folder = root / study.name
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(dump_study(study))
    for number, run in enumerate(runs_of(study, arms_of(study), root=root)):
        skill = skills[run.arm.label] + 0.25 * np.sin(7 * run.seed)
        write_run(root / run.folder, run.config, skill, number, images=images, set_seed=set_seed)
        if pictures:
            write_detections(root / run.folder, run.config, skill, number)
    return folder


def write_run(
    place: Path,
    config,
    skill: float,
    number: int,
    *,
    images: int,
    set_seed: int = 0,
    env: dict | None = None,
) -> None:
    (place / "results").mkdir(parents=True)
    (place / "weights").mkdir()
    (place / "weights" / "last.pth").write_bytes(bytes(1000))
    (place / "config.yaml").write_text(dump_yaml(config))
    (place / "env.json").write_text(json.dumps({**ENV, "seed": config.train.seed, **(env or {})}))
    made = synthetic_records(images, skill=skill, set_seed=set_seed, run_seed=number)
    note = {
        "step": config.train.iterations,
        "weights": "last.pth",
        "eval": config.eval.model_dump(mode="json"),
        "split": "val",
        "precision": "float32",
        "data": config.data.name,
    }
    write_records(
        place / "results" / "records.npz",
        Records(
            made.image_ids,
            made.category_ids,
            made.class_names,
            made.max_dets,
            made.truth,
            {"mask": made.found["mask"], "box": made.found["mask"]},
            note,
        ),
    )
    write_metrics(place / "metrics.jsonl", config, skill, number)


def few_run(
    folder,
    seed,
    *,
    skill=0.0,
    images=40,
    iterations=50,
    step=50,
    skipped=0,
    settings=(),
    loss="bce",
    code="c0de",
):
    """A finished run folder with made-up records, of the config that FEW resolves for the
    loss."""
    records = synthetic_records(images, run_seed=100 * seed + int(10 * skill), skill=skill)
    records.note.update({"step": step, "weights": "last.pth", "eval": {"nms": "fast"}})
    write_records(folder / "results" / "records.npz", records)
    config = load_config(
        "yolact_plus_tiny_cigarettes",
        [
            f"train.seed={seed}",
            f"train.iterations={iterations}",
            f"loss.mask={loss}",
            "train.on_nonfinite=skip",
            "train.autoscale=False",
            *settings,
        ],
    )
    (folder / "env.json").write_text(json.dumps({"code": code, "versions": {}}))
    (folder / "config.yaml").write_text(dump_yaml(config))
    lines = [{"kind": "train", "step": 25, "skipped": skipped}, {"kind": "validation", "step": 50}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{half")
    return folder


def write_metrics(path: Path, config, skill: float, number: int, lines: int = 400) -> None:
    rng, train = np.random.default_rng(number), config.train
    unit = 1 + sum(map(ord, config.loss.mask)) % 7
    found = []
    for step in (
        np.linspace(train.iterations / lines, train.iterations, lines).round().astype(int).tolist()
    ):
        part = step / train.iterations
        noise = np.exp(0.12 * rng.standard_normal(3))
        shapes = [unit * np.exp(-(2 + skill) * part), 3 * np.exp(-1.5 * part), 2 + 4 * (1 - part)]
        losses = dict(zip(("mask", "box", "class"), (noise * shapes).tolist()))
        found.append(
            {
                "kind": "train",
                "step": step,
                "epoch": part,
                "loss": sum(losses.values()),
                "losses": losses,
                "terms": {"bce": 1.0},
                "grad_norm": 1.0,
                "skipped": 0,
                "lr": train.lr,
                "images_per_s": 20.0,
                "time": 0.0,
            }
        )
        if step in (train.iterations // 4, train.iterations // 2, train.iterations):
            ap = {
                "ap": 0.5 * part + 0.02 * skill,
                "ap50": part * 0.8,
                "per_class": {"class 0": 0.5 * part},
            }
            found.append(
                {
                    "kind": "validation",
                    "step": step,
                    "best": True,
                    "images": 40,
                    "seconds": 1.0,
                    "bbox": ap,
                    "segm": ap,
                }
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in found))


def write_detections(place: Path, config, skill: float, number: int) -> None:
    """Detections beside the ground truth of the validation set: shifted, and now and then
    missed."""
    rng, dataset = (
        np.random.default_rng(number),
        build_dataset(config, "val", needs_full_masks=True),
    )
    boxes, masks = [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        height, width = dataset.load_image(index).shape[:2]
        for box, label, mask in zip(
            sample.targets.boxes, sample.targets.labels.tolist(), sample.targets.masks
        ):
            if rng.random() < 0.15:
                continue
            resized = (
                torch.nn.functional.interpolate(mask[None, None].float(), (height, width))[0, 0]
                .bool()
                .numpy()
            )
            shift = rng.integers(-6, 7, 2) * (2 if skill < 0 else 1)
            x1, y1, x2, y2 = (box * torch.tensor([width, height, width, height])).tolist()
            rle = coco_mask.encode(
                np.asfortranarray(np.roll(resized, shift, (0, 1)).astype(np.uint8))
            )
            about = {"image_id": sample.image_id, "category_id": dataset.category_of_label[label]}
            score = float(rng.beta(5, 2))
            boxes.append(
                {
                    **about,
                    "bbox": [x1 + float(shift[1]), y1 + float(shift[0]), x2 - x1, y2 - y1],
                    "score": score,
                }
            )
            masks.append(
                {
                    **about,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "score": 0.9 * score,
                }
            )
    write_results(
        place / "results" / "bbox_detections.json",
        place / "results" / "mask_detections.json",
        boxes,
        masks,
    )
