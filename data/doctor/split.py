"""One split of a data set, as its annotation file lists it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.annotations import SoundContent
from data.rules import Id
from data.schema import DataConfig


@dataclass
class Split:
    """Its sound images by id, and its usable annotations: those without a finding of level
    error."""

    name: str
    images_dir: Path
    path: Path
    images: dict[Id, dict[str, Any]] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    zero_area: list[dict[str, Any]] = field(default_factory=list)  # left out of annotations
    unusable: int = 0  # annotations of the file that cannot be read
    missing: set[str] = field(default_factory=set)  # file names that the image folder lacks
    truth: bool = True  # whether the file holds annotations

    @classmethod
    def of(cls, data: DataConfig, name: str) -> Split | None:
        """The split of a data section, not read yet; None where the section names no files."""
        images, annotations = getattr(data, f"{name}_images"), getattr(data, f"{name}_annotations")
        if not images or not annotations:
            return None
        truth = name != "val" or data.val_truth
        return cls(name, Path(data.root) / images, Path(data.root) / annotations, truth=truth)

    def take(self, sound: SoundContent) -> None:
        """Fills the split."""
        self.images, self.categories = sound.images, sound.categories
        self.unusable = len(sound.left_out)
        for annotation in sound.annotations:
            _, _, width, height = annotation["bbox"]
            (self.annotations if width and height else self.zero_area).append(annotation)

    def file(self, image: dict[str, Any]) -> Path:
        return self.images_dir / image["file_name"]
