"""Trains 20 steps, evaluates and predicts with the versions that are installed.

    python -m tests.smoke

The set is generated, shuffled and read by two workers, as in a real training. It prints the
versions, the AP, the first and the last loss; it fails where a loss is not a number.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import yolact
from data.cigarettes.generate import generate
from yolact.engine.predict import read_upright

STEPS = 20
PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "pydantic", "pyyaml", "pycocotools"),
    *("opencv-python-headless", "matplotlib", "tensorboard", "tqdm", "pillow"),
)


def main() -> None:
    print("python", platform.python_version(), *(f"{name} {version(name)}" for name in PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder, "data"), Path(folder, "run")
        generate(data, train=24, val=4, size=128, max_instances=3, workers=0)
        length = [f"train.iterations={STEPS}", "train.batch_size=4", "train.num_workers=2"]
        quiet = ["train.log_every=1", f"train.validate_every={STEPS}"]
        cfg = yolact.load_config("quickstart", [f"data.root={data}", *length, *quiet])
        yolact.train(cfg, device="cpu", run_dir=run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [sum(line["losses"].values()) for line in lines if line["kind"] == "train"]
        assert len(losses) == STEPS and all(map(math.isfinite, losses)), losses
        predictor = yolact.load(run, device="cpu")
        found = predictor(read_upright(next((data / "val").rglob("*.jpg"))))
        print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; {len(found)} detections in one picture")
        assert losses[-1] < losses[0]


if __name__ == "__main__":
    main()
