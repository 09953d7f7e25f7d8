"""What is found, as data beside the pictures: COCO results in JSON, masks, crops and a table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.schema import Config
from layers.names import unknown_name
from yolact.files import write_image, writing
from yolact.outputs import Detections

TRACK = "track_ids"  # column of the table where videos are tracked
COLUMNS = ("image_id", "file_name", "width", "height", "count", "area")


@dataclass(frozen=True)
class Wanted:
    """Which files of what is found are wanted, and what they hold.

    json     COCO results: every detection
    masks    folder: a PNG of 16 bits a picture, see Detections.save_masks
    crops    folder: a PNG with alpha a detection
    csv      a row a picture: count, and sum of the areas in pixels
    score    pictures, masks, crops and rows take mask scores from it on
    top_k    pictures show at most so many
    classes  names of those that count; empty = all
    track    rows name the tracks of what they count, for videos
    """

    json: Path | None = None
    masks: Path | None = None
    crops: Path | None = None
    csv: Path | None = None
    score: float = 0.15
    top_k: int = 15
    classes: tuple[str, ...] = ()
    track: bool = False

    @property
    def nothing(self) -> bool:
        return not any((self.json, self.masks, self.crops, self.csv))

    def refuse_clashes(self, sources: Iterable[Path], out: Path | None = None) -> None:
        """ValueError where files would overwrite each other or a source: two folders are one, or
        one holds a source, or a file to write is a folder."""
        folders = {"masks": self.masks, "crops": self.crops, "pictures": out}
        taken = {source.resolve(): "the pictures that are read" for source in sources}
        for name, folder in folders.items():
            if folder is None:
                continue
            other = taken.setdefault(folder.resolve(), name)
            if other != name:
                raise ValueError(f"{folder}: {name} would lie among {other}: give another folder")
        for path in (self.json, self.csv):
            if path is not None and path.is_dir():
                raise ValueError(f"{path} is a folder: name a file")
        if self.json is not None and self.csv is not None:
            if self.json.resolve() == self.csv.resolve():
                raise ValueError(f"{self.json}: JSON and CSV need a file each")


class FoundFiles:
    """Writes what is wanted of the detections of each picture that is given to add().

    JSON and CSV appear whole when the block ends, and not at all where an error ends it.

        with FoundFiles(Wanted(json=Path("found.json")), cfg) as files:
            files.add("a.jpg", image, predictor(image))
    """

    def __init__(self, wanted: Wanted, cfg: Config) -> None:
        names = cfg.data.class_names
        for name in wanted.classes:
            if name not in names:
                raise ValueError(unknown_name("class", name, names))
        self.wanted, self.class_names = wanted, names
        self.labels = torch.tensor([names.index(name) for name in wanted.classes])
        self.categories: dict[int, int | str] = {i: i + 1 for i in range(len(names))}
        for key, label in reversed((cfg.data.label_map or {}).items()):
            self.categories[label] = key
        self.images = self.found = self.kept = self.drawn = 0
        self.tracks: set[tuple[str, int]] = set()  # of each video
        self._stems: set[str] = set()
        self._files: list[_Partial] = []

    def __enter__(self) -> FoundFiles:
        if self.wanted.json is not None:
            self.json = self._open(self.wanted.json)
            self.json.write("[")
        if self.wanted.csv is not None:
            self.csv = csv.writer(self._open(self.wanted.csv))
            self.csv.writerow((*COLUMNS, TRACK) if self.wanted.track else COLUMNS)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.wanted.json is not None:
            self.json.write("\n]\n")
        for file in self._files:
            file.close(keep=kind is None)

    def _open(self, path: Path) -> _Partial:
        self._files.append(_Partial(path))
        return self._files[-1]

    def add(
        self, file_name: str, image: np.ndarray, found: Detections, *, stem: str = ""
    ) -> Detections:
        """Writes what is wanted of the detections of a picture (h,w,3), and returns those of the
        wanted classes, the best mask score first.

        stem: of the names of its masks and crops; by default that of file_name, or all of
        file_name where the stem was taken.
        """
        stem = stem or Path(file_name).stem
        stem = Path(file_name).name if stem in self._stems else stem
        self._stems.add(stem)
        ranked = found.select(torch.tensor(found.ranked(), dtype=torch.long))
        if len(self.labels):
            ranked = ranked.select(torch.isin(ranked.labels.cpu(), self.labels))
        kept = ranked.select(ranked.mask_scores.cpu() >= self.wanted.score)
        if self.wanted.json is not None:
            self._add_json(file_name, ranked)
        self.images += 1
        self.tracks |= {(file_name.partition("#")[0], track) for track in _tracks(kept)}
        self.found, self.kept = self.found + len(ranked), self.kept + len(kept)
        self.drawn += min(len(kept), self.wanted.top_k)
        if self.wanted.csv is not None:
            height, width = kept.runs.size
            area = sum(kept.runs.areas())
            row = self.images, file_name, width, height, len(kept), area
            tracks = " ".join(map(str, _tracks(kept)))
            self.csv.writerow((*row, tracks) if self.wanted.track else row)
        if self.wanted.masks is not None:
            kept.save_masks(self.wanted.masks / f"{stem}.png")
        if self.wanted.crops is not None:
            _write_crops(self.wanted.crops, stem, image, kept)
        return ranked

    def _add_json(self, file_name: str, ranked: Detections) -> None:
        boxes = ranked.to_coco(kind="box", categories=self.categories)
        masks = ranked.to_coco(kind="mask", categories=self.categories)
        ids = None if ranked.track_ids is None else ranked.track_ids.tolist()
        for i, (label, box, mask) in enumerate(
            zip(ranked.labels.tolist(), boxes, masks, strict=True)
        ):
            entry: dict[str, Any] = {
                "image_id": self.images + 1,
                "file_name": file_name,
                "category_id": self.categories[label],
                "category_name": self.class_names[label],
                "bbox": box["bbox"],
                "segmentation": mask["segmentation"],
                "score": box["score"],
                "mask_score": mask["score"],
            }
            if ids is not None:
                entry["track_id"] = ids[i] or None
            self.json.write(f"{self.json.between}\n{json.dumps(entry)}")
            self.json.between = ","

    def told(self, *, pictures: bool = True) -> str:
        """A line on what was drawn, or kept where there are no pictures, and what was found."""
        limit = f"score >= {self.wanted.score:g}"
        classes = f", {', '.join(self.wanted.classes)} only" if self.wanted.classes else ""
        classes += f"; {len(self.tracks)} tracks" if self.wanted.track else ""
        if not pictures:
            return f"{self.kept} kept of {self.found}: {limit}{classes}"
        return f"{self.drawn} drawn of {self.found}: {limit}, top {self.wanted.top_k}{classes}"

    def places(self) -> list[str]:
        """A line on each file or folder that was written."""
        w = self.wanted
        lines = [
            (w.json, f"{self.found} detections"),
            (w.csv, f"{self.images} rows"),
            (w.masks, f"masks of {self.images} pictures"),
            (w.crops, f"crops of {self.kept} detections"),
        ]
        return [f"{what} in {path}" for path, what in lines if path is not None]


def _tracks(kept: Detections) -> list[int]:
    """Ids of tracks, in the order of the detections; empty where nothing was tracked."""
    return [] if kept.track_ids is None else [i for i in kept.track_ids.tolist() if i]


class _Partial:
    """A text file that appears under its name when it is closed to be kept."""

    between = ""  # what separates the next entry from the last

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("w", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        with writing(self.path):
            self.file.write(text)

    def close(self, *, keep: bool) -> None:
        try:
            with writing(self.path):
                self.file.close()
                if keep:
                    os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)


def _write_crops(folder: Path, stem: str, image: np.ndarray, kept: Detections) -> None:
    """A picture (rows,columns,4) of each mask's extent, its ground transparent; none of a mask
    without pixels."""
    for i in range(len(kept)):
        top, left, pixels = kept.runs.window(i)
        if pixels.size:
            rows, columns = pixels.shape
            part = image[top : top + rows, left : left + columns]
            alpha = pixels[..., None].astype(np.uint8) * 255
            write_image(folder / f"{stem}_{i + 1}.png", np.concatenate([part, alpha], 2))
