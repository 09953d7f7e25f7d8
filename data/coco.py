"""COCO-format data set: one sample is an image at network size with its Targets."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from data.compose import Content, draw_chosen, pasted, rotated, tightened, upside_down
from data.draws import Drawn, Viewport
from data.images import read_reduced
from data.rules import Id
from data.segmentation import extent, filled_columns, run_lengths
from data.table import read_table
from data.transforms import EvalTransform, Patch, TrainTransform, View, render_masks
from layers.problems import DataWarning, few
from layers.targets import ExtraKey, Targets

# pixels of an image above which masks are filled in by column, where they are, and not as a whole
LARGE = 1 << 20
AUGMENTATION_STREAM = 1  # data order and augmentation draw from different streams of the run's seed


@dataclass
class Sample:
    """One image: (3,S,S) uint8 in training, float32 0..255 in evaluation, not normalised;
    original_size is (height, width)."""

    image: Tensor
    targets: Targets
    image_id: Id
    original_size: tuple[int, int]
    index: int


class CocoDataset(Dataset):
    """Images and instances of a COCO-format file.

    class_names: foreground classes in label order; label_map: category id -> label, or None to
    match categories by name. keep_empty: images without annotations stay. has_truth: whether
    the file holds annotations; without, it is a list of images. transform: None gives
    images and masks at their original size. seed: the run's seed; what a sample draws depends on
    (seed, epoch, index) alone. mask_sizes, needs_full_masks: the sizes at which Targets carry
    masks, and whether they carry them at input size too. With neither, masks are not rasterised.
    extras: what else they carry of the masks, as the criterion states it. cache: what is read of a
    large annotation file is kept, and mapped the next time. Opening it, or reading a sample, raises
    ValueError naming file, item and fix where something is wrong.
    """

    def __init__(
        self,
        images_dir: str | Path,
        annotation_file: str | Path,
        class_names: tuple[str, ...],
        *,
        label_map: dict[Id, int] | None = None,
        keep_empty: bool = False,
        has_truth: bool = True,
        transform: TrainTransform | EvalTransform | None = None,
        seed: int = 0,
        mask_sizes: Sequence[tuple[int, int]] = (),
        needs_full_masks: bool = True,
        extras: Sequence[ExtraKey] = (),
        cache: bool = True,
    ) -> None:
        self.images_dir, self.annotation_file = Path(images_dir), Path(annotation_file)
        self.class_names, self.transform, self.seed = tuple(class_names), transform, seed
        self.mask_sizes = [(height, width) for height, width in mask_sizes]
        self.needs_full_masks = needs_full_masks
        self.extras = tuple(extras)
        self.has_truth = has_truth
        self.table = read_table(
            annotation_file,
            self.class_names,
            label_map=label_map,
            keep_empty=keep_empty,
            truth=has_truth,
            cache=cache,
        )
        if self.table.zero_area:
            warnings.warn(
                f"{annotation_file}: left out {len(self.table.zero_area)} annotations whose box "
                f"has no width or no height (ids {few(self.table.zero_area)})",
                DataWarning,
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.table.image_ids)

    @property
    def image_ids(self) -> list[Id]:
        return self.table.image_ids

    @property
    def category_of_label(self) -> dict[int, Id]:
        """Label -> the category id of the annotation file (the first that it has, where label_map
        merges several)."""
        return self.table.category_of_label

    def path(self, index: int) -> Path:
        return self.images_dir / self.table.file_names[index]

    def load_image(self, index: int) -> np.ndarray:
        """(h,w,3) uint8 RGB, turned as its EXIF orientation says: see data/images.py."""
        return self._read(index, 1)[0]

    def _read(self, index: int, times: int) -> tuple[np.ndarray, int]:
        """The image, read up to `times` times smaller, and how many times smaller it is."""
        height, width = self.table.size(index)
        image, times = read_reduced(self.path(index), (height, width), times)
        if times == 1 and image.shape[:2] != (height, width):
            swapped = (
                "; they are swapped: the annotations were made on a turned image, or the JSON is "
                "wrong"
                if image.shape[:2] == (width, height)
                else ""
            )
            raise ValueError(
                f"image {self.path(index)} has {image.shape[1]}x{image.shape[0]} pixels, but "
                f"{self.annotation_file} says {width}x{height}{swapped}: correct width and height "
                "there, or put the image back that was annotated"
            )
        return image, times

    def patches(self, rows: list[int], height: int, width: int, view: Viewport) -> list[Patch]:
        """Masks of the given rows of the table, rasterised in an image of height x width by
        pycocotools, as far as they are in view."""
        encoded = [self.table.encoded_mask(row, height, width) for row in rows]
        large = height * width > LARGE
        runs = run_lengths([mask["counts"] for mask in encoded]) if large else [None] * len(rows)
        found = []
        for mask, lengths in zip(encoded, runs, strict=True):
            x, y, w, h = (int(v) for v in extent(mask))
            top, left = max(y, view.top), max(x, view.left)
            bottom = max(top, min(y + h, view.top + view.height))
            right = max(left, min(x + w, view.left + view.width))
            whole = (
                coco_mask.decode(mask)[:, left:right]
                if lengths is None
                else (filled_columns(lengths, height, left, right))
            )
            found.append(Patch(np.ascontiguousarray(whole[top:bottom]), top, left))
        return found

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        index %= len(self)
        if isinstance(self.transform, TrainTransform) and self.transform.augment.composes:
            return self._composed(self.transform, epoch, index)
        height, width = self.table.size(index)
        rows = np.array(self.table.rows(index), np.int64)
        view = self._view(torch.from_numpy(self.table.boxes[rows]), epoch, index)
        kept = rows[view.kept.numpy()]
        targets = Targets(
            boxes=view.boxes / view.boxes.new_tensor([view.size[1], view.size[0]] * 2),
            labels=torch.from_numpy(self.table.labels[kept]),
            crowd=torch.from_numpy(self.table.crowd[kept]),
        )
        if self.mask_sizes or self.needs_full_masks or self.extras:
            targets.masks = render_masks(
                self.patches(kept.tolist(), height, width, view.viewport),
                view.viewport,
                view.size,
            )
            targets = targets.reduce(
                self.mask_sizes, keep_full=self.needs_full_masks, extras=self.extras
            )
        return Sample(view.image, targets, self.table.image_ids[index], (height, width), index)

    def _composed(self, transform: TrainTransform, epoch: int, index: int) -> Sample:
        """A sample that is changed with its masks, see data/compose.py."""
        share, least = transform.augment.copy_paste, transform.augment.min_box_side
        with _own_randomness(self.seed, epoch, index), _one_thread():
            content = self._content(transform, index)
            if share and float(torch.rand(1)) < share:
                other = self._content(transform, int(torch.randint(len(self), (1,))))
                content = pasted(content, other, draw_chosen(other.crowd), least)
        targets = Targets(
            content.boxes / transform.size, content.labels, content.crowd, content.masks
        ).reduce(self.mask_sizes, keep_full=self.needs_full_masks, extras=self.extras)
        size = self.table.size(index)
        return Sample(content.image, targets, self.table.image_ids[index], size, index)

    def _content(self, transform: TrainTransform, index: int) -> Content:
        augment, (height, width) = transform.augment, self.table.size(index)
        rows = np.array(self.table.rows(index), np.int64)
        drawn = transform.draw(height, width, torch.from_numpy(self.table.boxes[rows]))
        view = transform.render(*self._drawn(transform, index, drawn))
        kept = rows[view.kept.numpy()]
        content = Content(
            view.image,
            view.boxes,
            render_masks(
                self.patches(kept.tolist(), height, width, view.viewport), view.viewport, view.size
            ),
            torch.from_numpy(self.table.labels[kept]),
            torch.from_numpy(self.table.crowd[kept]),
        )
        if augment.scale_jitter is not None:
            content = tightened(content, augment.min_box_side)
        if augment.vertical_flip and float(torch.rand(1)) < 0.5:
            content = upside_down(content)
        if augment.rotation:
            degrees = augment.rotation * (2 * float(torch.rand(1)) - 1)
            aspect = view.viewport.width / view.viewport.height
            content = rotated(content, degrees, aspect, transform.fill, augment.min_box_side)
        return content

    def _drawn(
        self, transform: TrainTransform, index: int, drawn: Drawn
    ) -> tuple[np.ndarray, Drawn, int]:
        """An image, what was drawn for it, and how many times smaller it was read."""
        image, times = self._read(index, transform.reduction(drawn))
        return image, drawn, times

    def _view(self, boxes: Tensor, epoch: int, index: int) -> View:
        if isinstance(self.transform, TrainTransform):
            height, width = self.table.size(index)
            with _own_randomness(self.seed, epoch, index), _one_thread():
                drawn = self.transform.draw(height, width, boxes)
                return self.transform.render(*self._drawn(self.transform, index, drawn))
        image = self.load_image(index)
        if self.transform is not None:
            return self.transform.view(image, boxes)
        height, width = image.shape[:2]
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        whole = Viewport(0, 0, height, width)
        return View(pixels, boxes, torch.arange(len(boxes)), whole, (height, width))


@contextlib.contextmanager
def _own_randomness(*key: int) -> Iterator[None]:
    """Inside, torch's CPU generator depends on the key alone; outside, it is untouched (as are the
    devices' generators)."""
    drawn = np.random.SeedSequence([AUGMENTATION_STREAM, *key]).generate_state(1, np.uint64)
    seed = int(drawn[0]) >> 1  # of 63 bits; numpy 1 cannot shift a uint64 by an int
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums (the mean grey of a contrast change) depend on the number of threads, and must not on
    the number of workers."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
