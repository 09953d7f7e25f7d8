"""The pictures of a validation set, and the masks of its instances by their rows in the
records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.annotations import read_sound
from data.coco import CocoDataset
from data.images import read_image
from data.loader import build_dataset
from data.rules import Id, size_of
from data.segmentation import encoded
from yolact.engine.evaluate import coco_ground_truth
from yolact.engine.records import Records
from yolact.study.statistics import FinishedRun

SIDES = (640, 480, 360, 240, 160)  # longer sides of pictures, the largest that the budget allows
QUALITY = 80


class ImageSource(ABC):
    """The annotations and pictures that something was evaluated on. ValueError or OSError, when
    asked, for what is not there any more."""

    @property
    @abstractmethod
    def ground_truth(self) -> dict[str, Any]:
        """The annotations that are evaluated on, as COCO's."""

    @abstractmethod
    def image(self, image_id: Id) -> np.ndarray:
        """(h,w,3) uint8 RGB"""

    def masks(self, records: Records, images: Iterable[int]) -> dict[int, dict[str, Any]]:
        """{row of Truth: run lengths} of the instances in some images (rows of image_ids).
        ValueError where the annotations are not those that the records were made of."""
        wanted = {records.image_ids[image]: image for image in images}
        sizes = {one["id"]: size_of(one) for one in self.ground_truth["images"]}
        groups: dict[tuple, list[dict]] = defaultdict(list)
        for annotation in self.ground_truth["annotations"]:
            if annotation["image_id"] in wanted:
                groups[annotation["image_id"], annotation["category_id"]].append(annotation)
        found: dict[int, dict[str, Any]] = {}
        for row in np.flatnonzero(np.isin(records.truth.image, list(wanted.values()))).tolist():
            image = records.image_ids[records.truth.image[row]]
            group = groups[image, records.category_ids[records.truth.label[row]]]
            size = sizes.get(image)
            if not group or size is None:
                raise ValueError("the annotations are others than those that were evaluated on")
            segmentation = group.pop(0).get("segmentation")
            if segmentation:
                found[row] = encoded(segmentation, *size)
        return found

    def pictures(
        self, records: Records, images: Iterable[int], budget: int
    ) -> tuple[dict[int, bytes], dict[int, tuple[int, int]]]:
        """JPEGs of some images, as large as `budget` bytes allow for all of them, and (width,
        height) of the images themselves."""
        made: dict[int, dict[int, bytes]] = {side: {} for side in SIDES}
        sizes: dict[int, tuple[int, int]] = {}
        for image in images:
            picture = self.image(records.image_ids[image])
            sizes[image] = picture.shape[1], picture.shape[0]
            for side in SIDES:
                made[side][image] = _jpeg(picture, side)
        fitting = (one for one in made.values() if sum(map(len, one.values())) <= budget)
        return next(fitting, made[SIDES[-1]]), sizes


@dataclass(frozen=True)
class ValidationSet(ImageSource):
    """What a run was evaluated on."""

    run: FinishedRun

    @cached_property
    def _dataset(self) -> CocoDataset:
        return build_dataset(self.run.config, self.run.note.get("split", "val"))

    @cached_property
    def _index(self) -> dict[Id, int]:
        return {image_id: number for number, image_id in enumerate(self._dataset.image_ids)}

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        return coco_ground_truth(self._dataset, self.run.config)

    def image(self, image_id: Id) -> np.ndarray:
        return self._dataset.load_image(self._index[image_id])


@dataclass(frozen=True)
class TruthFiles(ImageSource):
    """What results files were evaluated on: their annotation file, and the folder of its images,
    None where that is not known."""

    annotations: Path
    images: Path | None = None

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        sound = read_sound(self.annotations)
        return {
            "images": list(sound.images.values()),
            "categories": sound.categories,
            "annotations": sound.annotations,
        }

    @cached_property
    def _names(self) -> dict[Id, str]:
        return {one["id"]: one["file_name"] for one in self.ground_truth["images"]}

    def image(self, image_id: Id) -> np.ndarray:
        assert self.images is not None, "asked where the folder is known"
        return read_image(self.images / self._names[image_id])


def _jpeg(image: np.ndarray, side: int) -> bytes:
    """An RGB image, not larger than it is."""
    factor = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    small = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert done
    return content.tobytes()
