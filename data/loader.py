"""Batches: in an order that depends on (seed, step) alone, in worker processes, with errors that
say what is wrong.

Epochs are shuffled one by one (or not at all, with train.shuffle=false) and laid end to end. Step t
takes the next batch_size images of that sequence, rank r a contiguous slice of them, micro-batch by
micro-batch. So a run can be continued at any step, without reading what came before.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.annotations import Id
from data.coco import CocoDataset, Sample
from data.repeats import repeat_factors, seen_in_round
from data.schema import Config, DataConfig
from data.transforms import eval_transform, train_transform
from data.workers import Failure, Loader, Parcel, handed_over
from layers.losses.plugins import load_plugins
from layers.targets import ExtraKey, Targets

ORDER_STREAM, REPEAT_STREAM = 2, 3  # see data.coco.AUGMENTATION_STREAM
# of loader processes: fork shares the annotation table; spawn copies it, and is safe everywhere
START = "fork" if sys.platform == "linux" else "spawn"
MOST_EPOCHS = 1 << 40  # above every epoch that a training comes to


@dataclass
class Batch:
    """images (B,3,S,S), uint8 in training and float32 0..255 in evaluation; one entry an image in
    every list, `targets` among them.

    The instances of all images travel as one Targets, image after image with counts[i] of image i,
    and `targets` are views of it: every tensor that a worker hands over takes a file descriptor, of
    which a process has 1024 by default, and every copy to a device takes time.
    """

    images: Tensor
    instances: Targets
    counts: list[int]
    image_ids: list[Id]
    original_sizes: list[tuple[int, int]]
    indices: list[int]

    @cached_property
    def targets(self) -> list[Targets]:
        return split_targets(self.instances, self.counts)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        return self._with(
            self.images.to(device, non_blocking=non_blocking),
            self.instances.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        return self._with(self.images.pin_memory(), self.instances.pin_memory())

    def _with(self, images: Tensor, instances: Targets) -> Batch:
        return Batch(
            images, instances, self.counts, self.image_ids, self.original_sizes, self.indices
        )


def join_targets(targets: list[Targets]) -> Targets:
    """The instances of several images, which carry the same masks and extras, one after another."""
    first = targets[0]
    masks = [t.masks for t in targets if t.masks is not None]
    assert len(masks) in (0, len(targets)), "every image carries masks, or none does"
    return Targets(
        torch.cat([t.boxes for t in targets]),
        torch.cat([t.labels for t in targets]),
        torch.cat([t.crowd for t in targets]),
        torch.cat(masks) if masks else None,
        {size: torch.cat([t.reduced[size] for t in targets]) for size in first.reduced},
        {key: torch.cat([t.extras[key] for t in targets]) for key in first.extras},
    )


def split_targets(joined: Targets, counts: list[int]) -> list[Targets]:
    """What join_targets() joined, as views; counts: the instances of each image."""
    boxes, labels, crowd = (
        joined.boxes.split(counts),
        joined.labels.split(counts),
        joined.crowd.split(counts),
    )
    masks: Sequence[Tensor | None] = (
        [None] * len(counts) if joined.masks is None else joined.masks.split(counts)
    )
    reduced = {size: maps.split(counts) for size, maps in joined.reduced.items()}
    extras = {key: values.split(counts) for key, values in joined.extras.items()}
    return [
        Targets(
            boxes[i],
            labels[i],
            crowd[i],
            masks[i],
            {size: maps[i] for size, maps in reduced.items()},
            {key: values[i] for key, values in extras.items()},
        )
        for i in range(len(counts))
    ]


class Items(Protocol):
    """What the loader reads: samples by (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int], /) -> Sample: ...


class _Guarded(Dataset):
    """Turns a user's mistake in a sample into a Failure; raised in a worker, it would reach the
    user wrapped in a long traceback."""

    def __init__(self, dataset: Items) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Sample | Failure:
        try:
            return self.dataset[key]
        except (ValueError, OSError) as error:
            return Failure(str(error))


def collate(read: list[Sample | Failure]) -> Batch | Failure | Parcel:
    """Stacks samples of equal size, ready to leave a loader process; the first Failure among them
    takes the place of the batch."""
    samples: list[Sample] = []
    for sample in read:
        if isinstance(sample, Failure):
            return sample
        samples.append(sample)
    targets = [s.targets for s in samples]
    return handed_over(
        Batch(
            torch.stack([s.image for s in samples]),
            join_targets(targets),
            [len(t) for t in targets],
            [s.image_id for s in samples],
            [s.original_size for s in samples],
            [s.index for s in samples],
        )
    )


class TrainOrder(Sampler):
    """Endless micro-batches of (epoch, index) keys for one rank, from step start_step on."""

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        shuffle: bool = True,
        factors: np.ndarray | None = None,
    ) -> None:
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"train.batch_size={batch_size} cannot be split over {world_size} devices x "
                f"{accumulate} micro-batches: use a multiple of {world_size * accumulate}"
            )
        self.seed, self.start_step, self.shuffle, self.factors = seed, start_step, shuffle, factors
        self.length = length if factors is None else round(float(factors.sum()))
        self.batch_size, self.accumulate, self.rank = batch_size, accumulate, rank
        self.share = batch_size // world_size  # images of one rank in a step
        self._shuffled: tuple[int, list[int]] = (-1, [])
        self._seen: tuple[int, list[tuple[int, int]]] = (-1, [])

    def key(self, position: int) -> tuple[int, int]:
        """(epoch, index) of an image by its position in the endless sequence. An image that an
        epoch lists again is augmented anew: for that it counts as of another epoch."""
        epoch, offset = divmod(position, self.length)
        place = self._order(epoch)[offset] if self.shuffle else offset
        if self.factors is None:
            return epoch, place
        if self._seen[0] != epoch:
            entropy = np.random.SeedSequence([REPEAT_STREAM, self.seed, epoch])
            start = float(np.random.default_rng(entropy).random())
            self._seen = (epoch, seen_in_round(self.factors, start))
        index, time = self._seen[1][place]
        return epoch + time * MOST_EPOCHS, index

    def _order(self, epoch: int) -> list[int]:
        if self._shuffled[0] != epoch:
            entropy = np.random.SeedSequence([ORDER_STREAM, self.seed, epoch])
            drawn = entropy.generate_state(1, np.uint64)
            seed = int(drawn[0]) >> 1  # of 63 bits; numpy 1 cannot shift a uint64 by an int
            generator = torch.Generator().manual_seed(seed)
            self._shuffled = (epoch, torch.randperm(self.length, generator=generator).tolist())
        return self._shuffled[1]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, micro = self.start_step, self.share // self.accumulate
        while True:
            first = step * self.batch_size + self.rank * self.share
            for begin in range(first, first + self.share, micro):
                yield [self.key(position) for position in range(begin, begin + micro)]
            step += 1


def build_dataset(
    cfg: Config,
    split: str,
    *,
    mask_sizes: Sequence[tuple[int, int]] = (),
    needs_full_masks: bool = False,
    extras: Sequence[ExtraKey] = (),
) -> CocoDataset:
    """The data set of a config. split: 'train' (augmented) or 'val' (resized only; images without
    annotations stay).

    mask_sizes, needs_full_masks, extras: as the criterion states them. With none, targets
    carry no masks, as evaluation needs none. ValueError where the set cannot be read or is empty.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    training = split == "train"
    images, annotations = split_paths(cfg.data, split)
    dataset = CocoDataset(
        images,
        annotations,
        cfg.data.class_names,
        label_map=cfg.data.label_map,
        keep_empty=cfg.data.keep_empty or not training,
        has_truth=training or cfg.data.val_truth,
        transform=train_transform(cfg) if training else eval_transform(cfg),
        seed=cfg.train.seed,
        mask_sizes=mask_sizes,
        needs_full_masks=needs_full_masks,
        extras=extras,
        cache=cfg.data.cache,
    )
    if len(dataset) == 0:
        dropped = " with annotations (data.keep_empty=true keeps those without)" if training else ""
        raise ValueError(
            f"the {split} set is empty: {annotations} lists no images{dropped}; correct "
            f"data.{split}_annotations"
        )
    return dataset


def split_paths(data: DataConfig, split: str) -> tuple[Path, Path]:
    """(image folder, annotation file) of a split. ValueError where the config names none."""
    images, annotations = getattr(data, f"{split}_images"), getattr(data, f"{split}_annotations")
    if not images or not annotations:
        raise ValueError(
            f"data set {data.name!r} has no data.{split}_images or no data.{split}_annotations: "
            "set both"
        )
    return Path(data.root) / images, Path(data.root) / annotations


def train_loader(
    cfg: Config,
    dataset: Items,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int | None = None,
    pin_memory: bool | None = None,
) -> Loader:
    """Endless micro-batches of this rank, from step start_step on; train.accumulate of them make a
    step.

    num_workers: cfg.train.num_workers if None. The worker processes live as long as the iterator
    does. pin_memory: batches go to a CUDA device; None = wherever there is one.
    """
    order = TrainOrder(
        len(dataset),
        seed=cfg.train.seed,
        batch_size=cfg.train.batch_size,
        accumulate=cfg.train.accumulate,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        shuffle=cfg.train.shuffle,
        factors=_factors(cfg, dataset),
    )
    workers = cfg.train.num_workers if num_workers is None else num_workers
    return _loader(cfg, dataset, order, workers, pin_memory)


def _factors(cfg: Config, dataset: Items) -> np.ndarray | None:
    """How often each image is seen in a round of the order; None where train.repeat_threshold is
    off. ValueError as of check_repeats()."""
    check_repeats(cfg, dataset)
    if not cfg.train.repeat_threshold or not isinstance(dataset, CocoDataset):
        return None
    return repeat_factors(dataset.table, cfg.train.repeat_threshold)


def check_repeats(cfg: Config, dataset: object) -> None:
    """ValueError where train.repeat_threshold is set, and the classes of a data set are not known
    before its items are read."""
    if cfg.train.repeat_threshold and not isinstance(dataset, CocoDataset):
        raise ValueError(
            f"train.repeat_threshold={cfg.train.repeat_threshold:g} needs a COCO-format training "
            "set, whose classes are known: set it to 0 for a data set of your own"
        )


def eval_loader(
    cfg: Config,
    dataset: Items,
    *,
    limit: int = 0,
    num_workers: int | None = None,
    pin_memory: bool | None = None,
) -> Loader:
    """Batches of eval.batch_size in the order of the annotation file.

    limit: only the first images of the set; 0 = all. num_workers, pin_memory: as in train_loader.
    """
    count = min(limit, len(dataset)) if limit else len(dataset)
    keys = [(0, index) for index in range(count)]
    size = cfg.eval.batch_size
    batches = [keys[begin : begin + size] for begin in range(0, len(keys), size)]
    workers = cfg.train.num_workers if num_workers is None else num_workers
    return _loader(cfg, dataset, batches, min(workers, len(batches)), pin_memory)


def _loader(
    cfg: Config,
    dataset: Items,
    batches: Iterable[list[tuple[int, int]]],
    workers: int,
    pin_memory: bool | None,
) -> Loader:
    options: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available() if pin_memory is None else pin_memory,
        # DataLoader draws a base seed when iteration starts: not from the training generator
        "generator": torch.Generator(),
    }
    if workers:
        options |= {
            "worker_init_fn": partial(_start_worker, plugins=cfg.loss.plugins),
            "multiprocessing_context": START,
            "prefetch_factor": 2,
        }
    name_of = getattr(dataset, "path", lambda index: f"item {index}")
    return Loader(_Guarded(dataset), batches, name_of=name_of, **options)


def _start_worker(_: int, plugins: Sequence[str]) -> None:
    signal.set_wakeup_fd(-1)  # a forked process would tell its parent of its own signals
    load_plugins(plugins)  # a spawned process has not seen their extras yet
    # The workers are the parallelism, and a forked process waits for ever on its parent's thread
    # pool. (OpenCV has a pool as well: even cv2.setNumThreads blocks here. Of OpenCV, the samples
    # use only imdecode, which runs on one thread.)
    torch.set_num_threads(1)
    # out of reach of a terminal's Ctrl-C and torchrun's SIGTERM, which go to whole process groups:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # the step that is to be finished still needs its images
