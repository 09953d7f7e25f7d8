"""Annotations, results and pictures that are damaged, at the programs that read them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data.resolve import dump_yaml
from tests.campaigns.mutations import damage_picture, mutated_text
from tests.campaigns.runner import judged
from yolact.testing import tiny

SPLITS, INSTANCES = ("train", "val"), 120


class Files:
    """A tiny data set, its config, results on it, and a trained model, made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = tiny.write_dataset(root / "data", train=3, val=2)
        config = tiny.config(self.data, augment=True, iterations=1, batch_size=2)
        self.config = root / "config.yaml"
        self.config.write_text(dump_yaml(config))
        self.annotations = {s: json.loads((self.data / f"{s}.json").read_text()) for s in SPLITS}
        self._grow()
        self.results = self._results()
        (root / "results.json").write_text(json.dumps(self.results))

    def _grow(self) -> None:
        """More instances, so that one damaged is left out and the rest are read; some masks as
        compressed counts, one as numbers."""
        from data.segmentation import encoded

        for split, content in self.annotations.items():
            first = content["annotations"]
            shapes = [first[i % len(first)] for i in range(INSTANCES)]
            content["annotations"] = grown = [
                _moved(annotation, i) for i, annotation in enumerate(shapes)
            ]
            for one in grown[::3]:
                mask = encoded(one["segmentation"], 72, 72)
                one["segmentation"] = {"size": [72, 72], "counts": mask["counts"].decode()}
            counts = [100, 300, 72 * 72 - 400]
            grown[1] |= {"iscrowd": 1, "segmentation": {"size": [72, 72], "counts": counts}}
            (self.data / f"{split}.json").write_text(json.dumps(content))

    def _results(self) -> list[dict]:
        mask = self.annotations["val"]["annotations"][0]["segmentation"]
        return [
            {
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "score": 0.5 + 0.01 * i,
                "segmentation": mask,
            }
            for i, a in enumerate(self.annotations["val"]["annotations"][:8])
        ]

    def train(self) -> None:
        """A model, for doors that predict."""
        from yolact.commands.train import program

        words = [f"--config={self.config}", f"--run_dir={self.root / 'run'}", "--device=cpu"]
        assert judged(lambda: program(words))[0] == "accepted"


def _moved(annotation: dict, number: int) -> dict:
    """A copy under another id, a little to the right."""
    by = number / (10 * INSTANCES)
    x, *rest = annotation["bbox"]
    polygons = [
        [v + by * (i % 2 == 0) for i, v in enumerate(polygon)]
        for polygon in annotation["segmentation"]
    ]
    return {**annotation, "id": number, "bbox": [x + by, *rest], "segmentation": polygons}


def check(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """check_data.py on mutated annotations."""
    from yolact.commands.check_data import program

    split = rng.choice(SPLITS)
    (here / "a.json").write_bytes(mutated_text(files.annotations[split], rng))
    words = [f"data.{split}_annotations={here / 'a.json'}"]
    if rng.random() < 0.2:
        images = str(files.data / split)
        return partial(program, ["--annotations", str(here / "a.json"), "--images", images])
    return partial(program, [str(files.config), *words, *["--fast"] * (rng.random() < 0.5)])


def mend(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """check_data.py --write of mutated annotations; a copy that is written holds no flaw."""
    from data.annotations import read_coco, sort_content
    from yolact.commands.check_data import program

    split, out = rng.choice(SPLITS), here / "out.json"
    (here / "a.json").write_bytes(mutated_text(files.annotations[split], rng))
    words = ["--annotations", str(here / "a.json"), "--images", str(files.data / split), "--fast"]
    words += rng.choice([[], ["--clear_crowd"], ["--drop_missing"], ["--scale", "percent"]])

    def written() -> int:
        code = program([*words, "--write", str(out)])
        flaws = sort_content(read_coco(out)).flaws if out.exists() else []
        assert not flaws, flaws[0].problem
        return code

    return written


def train(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """train.py on mutated annotations, one step and a validation."""
    from yolact.commands.train import program

    split = rng.choice(SPLITS)
    (here / "a.json").write_bytes(mutated_text(files.annotations[split], rng))
    words = [f"--config={files.config}", f"--run_dir={here / 'run'}", "--device=cpu"]
    return partial(program, [*words, f"data.{split}_annotations={here / 'a.json'}"])


def compare(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """compare.py on mutated results, or mutated ground truth."""
    from yolact.commands.compare import program

    found, truth = files.root / "results.json", files.data / "val.json"
    if rng.random() < 0.7:
        (here / "b.json").write_bytes(mutated_text(files.results, rng))
    else:
        shutil.copy(found, here / "b.json")
        truth = here / "gt.json"
        truth.write_bytes(mutated_text(files.annotations["val"], rng))
    return partial(program, [str(found), str(here / "b.json"), f"--gt={truth}"])


def evaluate(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """eval.py on stored results of which one file is mutated."""
    from yolact.commands.eval import program

    names = {kind: here / f"{kind}.json" for kind in ("bbox", "mask")}
    for path in names.values():
        shutil.copy(files.root / "results.json", path)
    if rng.random() < 0.2:
        ids = [image["id"] for image in files.annotations["val"]["images"]]
        (here / "bbox.images.json").write_bytes(mutated_text(ids, rng))
    else:
        rng.choice([*names.values()]).write_bytes(mutated_text(files.results, rng))
    words = [f"--{kind}_det_file={path}" for kind, path in names.items()]
    return partial(program, [f"--config={files.config}", "--resume", *words])


def pictures(files: Files, here: Path, rng: random.Random) -> Callable[[], int]:
    """check_data.py, train.py or eval.py --images on a data set with a damaged picture."""
    from yolact.commands.check_data import program as check_program
    from yolact.commands.eval import program as eval_program
    from yolact.commands.train import program as train_program

    split = rng.choice(SPLITS)
    shutil.copytree(files.data / split, here / split)
    chosen = rng.choice(sorted((here / split).iterdir()))
    damage_picture(chosen, rng)
    words = [f"data.{split}_images={here / split}"]
    door = rng.randrange(4)
    if door == 0:
        options = [f"--config={files.config}", f"--run_dir={here / 'run'}", "--device=cpu"]
        return partial(train_program, [*options, *words])
    if door == 1:
        options = [f"--trained_model={files.root / 'run'}", "--no_bar", "--cuda=False"]
        return partial(eval_program, [*options, f"--images={here / split}:{here / 'out'}"])
    if door == 2:
        options = [f"--trained_model={files.root / 'run'}", "--no_bar", "--cuda=False"]
        return partial(eval_program, [*options, f"--image={chosen}:{here / 'out.png'}"])
    return partial(check_program, [str(files.config), *words])


DOORS = {door.__name__: door for door in (check, mend, train, compare, evaluate, pictures)}
