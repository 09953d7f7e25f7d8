"""Stands in for train.py in tests of sweeps: the same command line, files, signals and exit codes,
without the training.

Every step is a line of STUB_JOURNAL, and so is every start, with the step that it starts from.
While the file STUB_HOLD exists, no step after the second is made. An arm whose mask loss contains
STUB_FAIL fails at step 2.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def note(folder, step):
    with open(os.environ["STUB_JOURNAL"], "a") as journal:
        journal.write(f"{folder.parent.name}/{folder.name} {os.getpid()} {step}\n")


def main():
    flags = argparse.ArgumentParser()
    for name in ("config", "run_dir", "resume", "device"):
        flags.add_argument(f"--{name}")
    given = flags.parse_args()
    folder = Path(given.run_dir or given.resume)
    config = yaml.safe_load(Path(given.config).read_text())
    checkpoint, metrics = folder / "weights" / "last.pth", folder / "metrics.jsonl"
    if given.run_dir and (metrics.exists() or checkpoint.exists()):
        sys.exit("error: already holds a run")
    checkpoint.parent.mkdir(exist_ok=True)
    if not (folder / "env.json").exists():
        (folder / "env.json").write_text('{"code": "stub"}')
    step = int(checkpoint.read_text()) if given.resume else 0
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    metrics.write_text(
        "".join(
            line + "\n"
            for line in lines
            if '"kind": "train"' in line and json.loads(line)["step"] <= step
        )
    )
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    fail, hold = os.environ.get("STUB_FAIL"), Path(os.environ.get("STUB_HOLD", "-"))
    note(folder, step)
    while step < config["train"]["iterations"]:
        while step >= 2 and hold.exists() and not stop:
            time.sleep(0.01)
        if stop:
            sys.exit(128 + signal.SIGTERM)
        step += 1
        if fail and fail in config["loss"]["mask"] and step == 2:
            print("error: step 2: mask = nan")
            sys.exit(2)
        note(folder, step)
        with metrics.open("a") as file:
            file.write(
                json.dumps({"kind": "train", "step": step, "images_per_s": 10.0, "skipped": 0})
                + "\n"
            )
        checkpoint.with_suffix(".part").write_text(str(step))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "records.npz").touch()
    mask = config["loss"]["mask"]
    # dice likes a large one, the others a small one
    weight = (config["loss"]["mask_weight"] - 6.125) * (1 if mask == "dice" else -1)
    ap = {"ap": (config["train"]["seed"] % 1000 + len(mask) + weight / 10) / 100}
    with metrics.open("a") as file:
        file.write(
            json.dumps({"kind": "validation", "step": step, "best": True, "bbox": ap, "segm": ap})
            + "\n"
        )


if __name__ == "__main__":
    main()
