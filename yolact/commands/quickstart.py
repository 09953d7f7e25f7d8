"""The whole way in minutes on a plain CPU: make a small set, train YOLACT++ on it, evaluate, and
draw what it learned.

    yolact quickstart [key=value ...]

Generates 256 px pictures of cigarette butts (runs/quickstart_data), trains the config `quickstart`
(deformable convolutions and mask re-scoring included) and leaves everything in runs/quickstart/<n>:
metrics, AP, curves.png, gallery.jpg, weights.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from yolact import cli
from yolact.run_files import BEST, GALLERY_PICTURE, METRICS

IMAGES = {"train": 1600, "val": 100}
SIZE, MAX_INSTANCES = 256, 4
FASTER = "train.precision=auto"  # than float32, where bf16 is


def main(arguments: Namespace) -> None:
    from data.cigarettes.generate import generate
    from data.generated import ANNOTATION_FILE
    from data.resolve import load_config
    from yolact.analysis.curves import draw_curves
    from yolact.engine.train import train

    start = time.perf_counter()
    cfg = load_config("quickstart", [FASTER, *arguments.overrides])
    data = Path(cfg.data.root)
    images = {"train": arguments.train_images, "val": arguments.val_images}
    if (data / "train" / ANNOTATION_FILE).is_file():  # written last
        check_pictures(data, images)
        print(f"1/3  pictures are in {data} already")
    else:
        print(
            f"1/3  making {images['train']} training and {images['val']} validation pictures in "
            f"{data}"
        )
        generate(data, **images, size=SIZE, max_instances=MAX_INSTANCES)
    print("2/3  training and evaluating")
    trained = time.perf_counter()
    run = train(cfg).path
    print(f"     {(time.perf_counter() - trained) / 60:.1f} minutes")
    print("3/3  drawing the curves")
    curves = draw_curves([run], run / "curves.png")
    print(
        f"\ndone in {(time.perf_counter() - start) / 60:.1f} minutes; look at\n  "
        f"{run / GALLERY_PICTURE}\n  {curves}\n  {run / METRICS}\n  tensorboard "
        f"--logdir {run}\nnext: yolact eval --trained_model={run / BEST} --image=IN.jpg:OUT.jpg"
    )


def check_pictures(data: Path, images: dict[str, int]) -> None:
    """ValueError unless `data` holds the pictures that this script makes: their number, size, and
    most objects in one."""
    from collections import Counter

    from data.annotations import read_sound
    from data.generated import ANNOTATION_FILE

    try:
        content = {split: read_sound(data / split / ANNOTATION_FILE) for split in images}
    except ValueError as error:
        raise ValueError(
            f"{data} holds other pictures than the quickstart's ({error}): delete that folder"
        ) from None
    counts = {split: len(part.images) for split, part in content.items()}
    sizes = {
        (image["width"], image["height"])
        for part in content.values()
        for image in part.images.values()
    }
    in_each = Counter(
        (split, a["image_id"]) for split, part in content.items() for a in part.annotations
    )
    if (counts, sizes, max(in_each.values(), default=0)) != (images, {(SIZE, SIZE)}, MAX_INSTANCES):
        raise ValueError(
            f"{data} holds other pictures than the quickstart's ({images['train']} + "
            f"{images['val']} of {SIZE} px, with up to {MAX_INSTANCES} butts): delete that folder "
            "to make them anew, or name another with data.root=FOLDER; to train on these, use "
            f"train.py --config=quickstart data.root={data}"
        )


def parser() -> cli.Parser:
    flags = cli.Parser(usage="%(prog)s [flags] [key=value ...]", description=__doc__)
    for split, count in IMAGES.items():
        flags.add_argument(
            f"--{split}_images", type=int, default=count, help=f"pictures to make (default {count})"
        )
    return flags


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, parser().parse(argv))
