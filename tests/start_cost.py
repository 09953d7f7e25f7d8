"""What a start on a set as large as COCO costs: processor seconds and peak memory of the data check
and of opening the training set, each in a process of its own.

    python -m tests.start_cost FOLDER [--images 118000]

FOLDER gets the made set the first time: 4.3 kB of JSON an image, and empty files for images.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

CLASSES, SHAPES, WIDTH, HEIGHT = 80, 2000, 640, 480


def make(folder: Path, images: int) -> None:
    """Writes train.json, val.json and the image folders; about 7 instances an image, of 25
    points."""
    draw = random.Random(0)
    shapes = [_shape(draw) for _ in range(SHAPES)]
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    for split, count in (("train", images), ("val", 100)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        names = [f"{split}{i:07}.jpg" for i in range(count)]
        for name in names:
            (folder / split / name).touch()
        entries = [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(names)
        ]
        with open(folder / f"{split}.json", "w") as file:
            file.write(f'{{"images": {json.dumps(entries)}, "categories": ')
            file.write(f'{json.dumps(categories)}, "annotations": [')
            number = 0
            for image in range(count):
                first = draw.randrange(SHAPES)
                for offset in range(draw.randint(3, 11)):
                    file.write(", " if number else "")
                    file.write(
                        f'{{"id": {number}, "image_id": {image}, "iscrowd": 0, '
                        f'"category_id": {number % CLASSES + 1}, '
                        f"{shapes[(first + offset) % SHAPES]}}}"
                    )
                    number += 1
            file.write("]}")


def _shape(draw: random.Random) -> str:
    x, y = draw.uniform(0, WIDTH - 100), draw.uniform(0, HEIGHT - 100)
    points = [round(start + draw.uniform(0, 99), 2) for _ in range(25) for start in (x, y)]
    across, down = points[::2], points[1::2]
    box = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    return f'"segmentation": [{points}], "area": {box[2] * box[3] / 2:.4f}, "bbox": {box}'


def start(folder: Path, overrides: list[str]) -> None:
    """One start; prints its cost as JSON."""
    from data.loader import build_dataset
    from data.resolve import load_config
    from yolact.engine.start import check_data

    names = json.dumps([f"class {i}" for i in range(CLASSES)])
    paths = [
        f"data.{s}_{key}={s}{end}"
        for s in ("train", "val")
        for key, end in (("images", ""), ("annotations", ".json"))
    ]
    cfg = load_config(
        "yolact_base", [f"data.root={folder}", f"data.class_names={names}", *paths, *overrides]
    )
    times = [time.process_time()]
    check_data(cfg)
    times.append(time.process_time())
    dataset = build_dataset(cfg, "train")
    times.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    told = {"imports": times[0], "check": times[1] - times[0], "open": times[2] - times[1]}
    told |= {"in all": times[2], "peak GB": peak, "images": len(dataset)}
    print({key: round(value, 2) for key, value in told.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--start", nargs="*", help="one start with these overrides")
    args = parser.parse_args()
    if args.start is not None:
        return start(args.folder, args.start)
    if not (args.folder / "train.json").exists():
        make(args.folder, args.images)
    for name, overrides in (
        ("without cache", ["data.cache=false"]),
        ("first start", []),
        ("second start", []),
    ):
        print(name, end=": ", flush=True)
        command = [sys.executable, "-m", "tests.start_cost", str(args.folder), "--start"]
        subprocess.run([*command, *overrides], check=True)


if __name__ == "__main__":
    main()
