"""The network's input as the published transforms make it: in evaluation, and in training with
every random part switched off."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.schema import AugmentConfig, Config, ModelConfig
from data.transforms import Patch, TrainTransform, eval_transform, normalize, render_masks
from yolact.testing.reference_cases import Case

RESNET = ModelConfig()
DARKNET = ModelConfig(backbone="darknet53", pixel_mean=(0, 0, 0), pixel_std=(255, 255, 255))
SIZE = 138
NOTHING_RANDOM = AugmentConfig(
    photometric=False, zoom_out=False, iou_crop=False, flip=False, min_box_side=0
)
# The published training pipeline keeps float pixels, this one uint8, resized in two passes that
# each round: one grey level in all.
ROUNDING = 1 / min(RESNET.pixel_std)
# A float32 source position of up to 300 px is off by up to 2e-5 px; torch's kernels for one and for
# more threads differ by that.
RESIZE = 1e-5


def cases(root: Path) -> list[Case]:
    path = Path(root) / "preprocess" / "preprocess.npz"
    if not path.exists():
        return []
    held = set(np.load(path).files)
    found = []
    for image in ("img0", "img1", "img2"):
        for variant, model, size in (
            ("resnet", RESNET, SIZE),
            ("darknet", DARKNET, SIZE),
            ("550", RESNET, 550),
        ):
            for key in sorted(k for k in held if k.startswith(f"{image}_{variant}_fast_chw_s")):
                found.append(
                    Case(
                        f"preprocess/{image}_{variant}",
                        partial(eval_error, path, f"{image}_bgr", key, model, size),
                        RESIZE,
                    )
                )
    for name in ("train0", "train1"):
        if f"{name}_out_masks" in held:
            found += [
                Case(f"preprocess/{name}_image", partial(train_image_error, path, name), ROUNDING),
                Case(f"preprocess/{name}_boxes", partial(train_box_error, path, name), 1e-6),
                Case(f"preprocess/{name}_labels", partial(train_label_mismatches, path, name), 0),
                Case(f"preprocess/{name}_masks", partial(train_mask_flips, path, name), 1e-3),
            ]
    filtered = path.with_name("eval_gt_filter.json")
    if filtered.exists():
        found.append(Case("preprocess/boxes_kept", partial(dropped_boxes, filtered), 0))
    return found


def eval_error(path: Path, image: str, key: str, model: ModelConfig, size: int) -> float:
    data, stride = np.load(path), int(key.rsplit("_s", 1)[1])
    cfg = Config(name="reference", model=model.model_copy(update={"max_size": size}))
    resized = eval_transform(cfg)(np.ascontiguousarray(data[image][..., ::-1]))
    ours = normalize(resized[None], model.pixel_mean, model.pixel_std)[0, :, ::stride, ::stride]
    return float(np.abs(ours.numpy() - data[key]).max())


def _train_view(path: Path, name: str):
    data = np.load(path)
    image = np.ascontiguousarray(data[f"{name}_img_bgr"][..., ::-1])
    height, width = image.shape[:2]
    transform = TrainTransform(
        Config(
            name="reference",
            model=RESNET.model_copy(update={"max_size": SIZE}),
            augment=NOTHING_RANDOM,
        )
    )
    pixels = torch.from_numpy(
        (data[f"{name}_boxes"] * [width, height, width, height]).astype(np.float32)
    )
    return data, (height, width), transform(image, pixels)


def train_image_error(path: Path, name: str) -> float:
    data, _, view = _train_view(path, name)
    ours = normalize(view.image[None], RESNET.pixel_mean, RESNET.pixel_std)[0].permute(1, 2, 0)[
        ::2, ::2
    ]
    return float(np.abs(ours.numpy() - data[f"{name}_out_img_s2"]).max())


def train_box_error(path: Path, name: str) -> float:
    data, _, view = _train_view(path, name)
    return float(np.abs(view.boxes.numpy() / SIZE - data[f"{name}_out_boxes"]).max())


def train_label_mismatches(path: Path, name: str) -> float:
    data, _, view = _train_view(path, name)
    return float((data[f"{name}_labels"][view.kept.numpy()] != data[f"{name}_out_labels"]).sum())


def train_mask_flips(path: Path, name: str) -> float:
    """Largest share of an instance's input pixels that differ."""
    data, (height, width), view = _train_view(path, name)
    masks = np.unpackbits(data[f"{name}_masks"], axis=1)[:, : height * width].reshape(
        -1, height, width
    )
    expected = (
        np.unpackbits(data[f"{name}_out_masks"], axis=1)[:, : SIZE * SIZE]
        .reshape(-1, SIZE, SIZE)
        .astype(bool)
    )
    ours = render_masks(
        [Patch(mask, 0, 0) for mask in masks[view.kept.numpy()]], view.viewport, view.size
    ).numpy()
    return float((ours != expected).mean(axis=(1, 2)).max())


def dropped_boxes(path: Path) -> float:
    """Number of ground-truth boxes that evaluation loses. The published code drops those thinner
    than 4/550; that is a fault."""
    boxes = torch.tensor(json.loads(path.read_text())["boxes_in"], dtype=torch.float32) * 550
    view = eval_transform(Config(name="reference")).view(np.zeros((550, 550, 3), np.uint8), boxes)
    return float(len(boxes) - len(view.boxes))
