"""A small COCO-format set of coloured squares on disk, and a model that sees them perfectly."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor, nn

from data.resolve import load_config
from data.schema import Config
from yolact.outputs import Predictions

SIDE = 256
COLOURS = ((220, 40, 40), (40, 200, 60))  # RGB of the squares of each class, on grey


def write_set(
    root: Path,
    squares: list[list[tuple[int, int, int, int]]],
    *,
    image_ids: list,
    category_ids: list,
    size: tuple[int, int] = (SIDE, SIDE),
) -> Path:
    """squares[i] lists (x, y, side, class) of image i, multiples of 4 pixels. Annotation ids start
    at 0. Returns the annotation file."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id, content in zip(image_ids, squares, strict=True):
        pixels = np.full((*size, 3), 128, np.uint8)
        for x, y, side, label in content:
            pixels[y : y + side, x : x + side] = COLOURS[label]
            mask = np.zeros(size, np.uint8, order="F")
            mask[y : y + side, x : x + side] = 1
            encoded = rle.encode(mask)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "iscrowd": 0,
                    "area": side * side,
                    "bbox": [x, y, side, side],
                    "segmentation": {"size": list(size), "counts": encoded["counts"].decode()},
                }
            )
        cv2.imwrite(str(root / "images" / f"{image_id}.png"), pixels[..., ::-1])
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": size[0], "width": size[1]}
        )
    names = ("red", "green")
    path = root / "annotations.json"
    path.write_text(
        json.dumps(
            {
                "images": images,
                "annotations": annotations,
                "categories": [{"id": c, "name": n} for c, n in zip(category_ids, names)],
            }
        )
    )
    return path


def config(root: Path, *overrides: str, base: str = "yolact_plus_tiny") -> Config:
    return load_config(
        base,
        [
            f"data.root={root}",
            "data.val_images=images",
            "data.val_annotations=annotations.json",
            "data.class_names=[red,green]",
            f"model.max_size={SIDE}",
            "train.num_workers=0",
            *overrides,
        ],
    )


class Oracle(nn.Module):
    """Finds the squares of each image by colour, and answers with Predictions that decode to
    exactly them, class scores near 1."""

    mask_iou_net = None

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)  # a part with a mode of its own
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Predictions:
        assert not self.training
        self.seen.append(images)
        found = [self._squares(image) for image in images]
        # (A,4), one of background
        anchors = torch.cat(
            [boxes for boxes, _, _ in found] + [torch.tensor([[0.5, 0.5, 0.1, 0.1]])]
        )
        count, a = len(images), len(anchors)
        logits = torch.zeros(count, a, 1 + len(COLOURS))
        logits[..., 0] = 20
        coefficients = torch.zeros(count, a, a)
        prototypes = torch.zeros(count, SIDE // 4, SIDE // 4, a)
        prototypes[..., -1] = 1
        coefficients[..., -1] = -10
        first = 0
        for i, (boxes, labels, masks) in enumerate(found):
            for row, (label, mask) in enumerate(zip(labels, masks), first):
                logits[i, row] = torch.tensor([0.0] * (1 + len(COLOURS)))
                logits[i, row, 1 + label] = 20
                coefficients[i, row, row] = 20
                prototypes[i, :, :, row] = mask[2::4, 2::4]
            first += len(boxes)
        return Predictions(torch.zeros(count, a, 4), logits, coefficients, prototypes, anchors)

    @staticmethod
    def _squares(image: Tensor) -> tuple[Tensor, list[int], list[Tensor]]:
        boxes, labels, masks = [], [], []
        for label in range(len(COLOURS)):
            # normalised channels
            alone = (image[label] - torch.cat([image[:label], image[label + 1 :]]).amax(0)) > 1
            _, parts, stats, _ = cv2.connectedComponentsWithStats(alone.numpy().astype(np.uint8))
            for x, y, w, h, _ in stats[1:]:
                boxes.append([(x + w / 2) / SIDE, (y + h / 2) / SIDE, w / SIDE, h / SIDE])
                labels.append(label)
            masks += [torch.from_numpy(parts == k).float() for k in range(1, len(stats))]
        return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, masks
