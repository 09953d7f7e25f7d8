"""The whole way in minutes on a plain CPU: make a small set, train YOLACT++ on it, evaluate, and draw what it learned.

    python scripts/quickstart.py [key=value ...]

Generates 256 px pictures of cigarette butts (runs/quickstart_data), trains the config `quickstart` (deformable convolutions and mask
re-scoring included) and leaves everything in runs/quickstart/<n>: metrics, AP, curves.png, gallery.jpg, weights.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TRAIN_IMAGES, VAL_IMAGES, SIZE, MAX_INSTANCES = 800, 100, 256, 4
GALLERY_PICTURES = 12


def main() -> int:
    try:
        quickstart(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def quickstart(overrides: list[str]) -> None:
    from data.cigarettes import generate
    from data.resolve import load_config
    from scripts.plot_run import plot
    from yolact.engine.train import train

    start = time.perf_counter()
    cfg = load_config("quickstart", overrides)
    data = Path(cfg.data.root)
    if not (data / "train" / "coco_annotations.json").is_file():  # written last
        print(f"1/4  making {TRAIN_IMAGES} training and {VAL_IMAGES} validation pictures in {data}")
        generate(data, train=TRAIN_IMAGES, val=VAL_IMAGES, size=SIZE, max_instances=MAX_INSTANCES)
    else:
        print(f"1/4  pictures are in {data} already")
    print("2/4  training and evaluating")
    trained = time.perf_counter()
    run = train(cfg)
    print(f"     {(time.perf_counter() - trained) / 60:.1f} minutes")
    print("3/4  drawing the curves")
    curves = plot([run], run / "curves.png")
    print("4/4  drawing predictions beside ground truth")
    pictures = draw_gallery(cfg, run)
    print(f"\ndone in {(time.perf_counter() - start) / 60:.1f} minutes; look at\n  {pictures}\n  {curves}\n  {run / 'metrics.jsonl'}\n"
          f"  tensorboard --logdir {run}\nnext: python eval.py --trained_model={run / 'weights' / 'best.pth'} --image=IN.jpg:OUT.jpg")


def draw_gallery(cfg, run: Path) -> Path:
    """Writes gallery.jpg: validation pictures, predictions left, ground truth right."""
    import cv2
    import torch

    from data.loader import build_dataset
    from yolact import build_model, load_weights
    from yolact.draw import gallery
    from yolact.engine.pictures import prediction_pictures

    model = build_model(cfg)
    load_weights(model, run / "weights" / "best.pth")
    dataset = build_dataset(cfg, "val", mask_sizes=[], needs_full_masks=True)
    pictures = prediction_pictures(model.eval(), cfg, dataset, torch.device("cpu"), count=GALLERY_PICTURES)
    out = run / "gallery.jpg"
    cv2.imwrite(str(out), cv2.cvtColor(gallery(list(pictures.values()), columns=3), cv2.COLOR_RGB2BGR))
    return out


if __name__ == "__main__":
    sys.exit(main())
