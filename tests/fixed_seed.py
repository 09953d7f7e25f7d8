"""Losses of 20 training steps at a fixed seed: a change that means no change leaves them bit for
bit.

    python -m tests.fixed_seed --write before.json     # on the commit to compare with
    python -m tests.fixed_seed --against before.json   # on yours, on the same machine

Bits differ from processor to processor and from torch to torch, so compare on one machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from data.resolve import load_config
from yolact.engine.train import train
from yolact.testing.tiny import CLASSES, write_dataset

STEPS = 20
SMALL = ["model.pretrained=none", "train.warmup_iterations=5"]
CONFIGS = {
    "quickstart": [],
    "yolact_plus_small": SMALL,
    "gmayolact_550": [*SMALL, "model.backbone=resnet18", "model.max_size=192"],
}


def losses(folder: Path, name: str) -> list[dict[str, float]]:
    """{loss: value} of every step of a config, on a set that is drawn into `folder`."""
    data = write_dataset(folder / "data", train=16, val=2, side=160)
    paths = [
        f"data.{split}_{what}={data / split}{ending}"
        for split in ("train", "val")
        for what, ending in (("images", ""), ("annotations", ".json"))
    ]
    length = [f"train.iterations={STEPS}", f"train.lr_steps=[{STEPS - 5}]", "train.batch_size=4"]
    quiet = ["train.log_every=1", "train.validate_every=0", "train.num_workers=0"]
    settings = [*paths, f"data.class_names=[{', '.join(CLASSES)}]", "data.root=.", *length, *quiet]
    config = load_config(name, [*settings, "train.autoscale=false", *CONFIGS[name]])
    train(config, device="cpu", run_dir=folder / "run")
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [line["losses"] for line in lines if line["kind"] == "train"]


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--write", type=Path)
    flags.add_argument("--against", type=Path)
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = losses(Path(folder), name)
    if arguments.write:
        arguments.write.write_text(json.dumps(found))
    if arguments.against:
        expected = json.loads(arguments.against.read_text())
        different = [name for name in expected if found[name] != expected[name]]
        print(f"different: {', '.join(different)}" if different else "identical")
        return bool(different)
    return 0


if __name__ == "__main__":
    sys.exit(main())
