"""Detections of pictures and folders, and the drawings of them. Videos are in video.py."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.images import DIM, DIM_FIX, IMAGE_SUFFIXES, read_picture, read_upright
from data.schema import Config
from data.transforms import eval_transform, normalize
from layers.problems import DataWarning, few
from yolact.cli import say
from yolact.draw import draw_detections
from yolact.engine.ahead import Behind, read_ahead
from yolact.engine.folding import prepared
from yolact.engine.found import FoundFiles
from yolact.engine.precision import Choice, autocast, choose
from yolact.files import write_image
from yolact.finite import refuse_diverged
from yolact.model import Yolact
from yolact.outputs import Detections, Predictions
from yolact.postprocess import Instances, detect, suppress

AT_ONCE = {"cuda": 8}  # pictures in one forward pass by default; elsewhere 1: more gain nothing
Picture: TypeAlias = str | os.PathLike[str] | np.ndarray


class Predictor:
    """A model in evaluation mode with its preprocessing and detection settings (cfg.eval).

    predictor(picture) returns its Detections. A picture is a path, or an (h,w,3) uint8 RGB array of
    any size. predictor([picture, ...]) returns a list of them, from one forward pass.

    precision and optimize are as of yolact.engine.precision.choose: float32 exactly as published,
    or what is faster on the device, by a copy of the model. choice, which may be given instead,
    says which, and why. Detection itself is float32.

        predictor = yolact.load("runs/quickstart/1")
        found = predictor("a.jpg")
        both = predictor(["a.jpg", "b.jpg"])
    """

    def __init__(
        self,
        model: Yolact,
        cfg: Config,
        device: torch.device | str = "cpu",
        precision: str | None = None,
        optimize: str = "none",
        *,
        choice: Choice | None = None,
    ) -> None:
        self.cfg, self.device = cfg, torch.device(device)
        self.choice = choice or choose(self.device, precision, optimize)
        self.precision = self.choice.precision
        self.model = prepared(model.to(self.device).eval(), self.choice)
        self.transform = eval_transform(cfg)

    @property
    def mask_iou_net(self) -> nn.Module | None:
        """What re-scores masks, where the model has it."""
        return self.model.mask_iou_net

    @property
    def at_once(self) -> int:
        """Pictures of a folder or video in one forward pass, unless told otherwise."""
        return AT_ONCE.get(self.device.type, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What labels are called."""
        return self.cfg.data.class_names

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str as well
        self, picture: Picture
    ) -> Detections: ...

    @overload
    def __call__(self, picture: Sequence[Picture]) -> list[Detections]: ...

    def __call__(self, picture: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """Detections of a picture, or of each of a list. They keep the picture, for .draw().

        Files are turned as their EXIF orientation says. ValueError names a file that cannot be
        read, or an array that is no (h,w,3) uint8.
        """
        if isinstance(picture, (str, os.PathLike, np.ndarray)):
            return self([picture])[0]
        images = [p if isinstance(p, np.ndarray) else read_upright(Path(p)) for p in picture]
        if not images:
            return []
        detections = self.batch(images)
        for found, image in zip(detections, images):
            found.class_names, found.image = self.class_names, image
        return detections

    def batch(
        self, images: Sequence[np.ndarray], inputs: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """Detections of each (h,w,3) uint8 RGB image, from one forward pass. The images may differ
        in size. inputs: what input() made of each, where that was done before."""
        pixels = self.preprocess(images) if inputs is None else torch.stack(list(inputs))
        return self.detect(
            self.forward(pixels.to(self.device)), [image.shape[:2] for image in images]
        )

    def preprocess(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B,3,S,S) float32, 0..255, on the device. ValueError for anything but (h,w,3) uint8."""
        return torch.stack([self.input(image) for image in images]).to(self.device)

    def input(self, image: np.ndarray) -> Tensor:
        """(3,S,S) float32, 0..255, on the host. ValueError for anything but (h,w,3) uint8."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image is {image.shape} {image.dtype}: convert it to (height, width, 3) "
                "uint8 RGB"
            )
        return self.transform(np.ascontiguousarray(image))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Predictions:
        """(B,3,S,S) uint8 or float, 0..255, on the device -> Predictions."""
        images = normalize(images, self.cfg.model.pixel_mean, self.cfg.model.pixel_std)
        if self.choice.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            return self.model(images)

    @torch.no_grad()
    def detect(
        self, predictions: Predictions, sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections on the device, in pixels of images of the given (h,w). Diverged, a ValueError,
        where the predictions are not finite."""
        refuse_diverged(predictions, self.model, self.precision)
        return detect(
            predictions,
            sizes,
            mask_iou_net=self.mask_iou_net,
            crop=self.cfg.eval.crop,
            masks=self.cfg.eval.masks,
            **self._limits(),
        )

    def instances(self, predictions: Predictions, image: int = 0) -> Instances:
        """What detect() assembles the detections of one image of the batch from, in the same
        order. Diverged as of detect()."""
        refuse_diverged(predictions, self.model, self.precision)
        return suppress(predictions, image, **self._limits())

    def _limits(self) -> dict[str, Any]:
        e = self.cfg.eval
        return dict(
            nms=e.nms,
            score_threshold=e.score_threshold,
            iou_threshold=e.iou_threshold,
            top_k=e.top_k,
            max_detections=e.max_dets,
            input_size=self.cfg.model.max_size,
        )


def predict_image(
    predictor: Predictor,
    source: str | Path,
    output: str | Path | None,
    *,
    score_threshold: float = 0.15,
    top_k: int = 15,
    files: FoundFiles | None = None,
    **drawing,
) -> Detections:
    """Draw the detections of a picture into a file; None draws nothing.

    score_threshold and top_k choose what is drawn, of all that is returned; further keywords go to
    draw_detections. files gets the detections too, and what it leaves is drawn.
    """
    image = read_upright(source)
    (detections,) = predictor.batch([image])
    drawing |= {"score_threshold": score_threshold, "top_k": top_k}
    return _keep(predictor, Path(source).name, image, detections, output, files=files, **drawing)


def _keep(
    predictor: Predictor,
    name: str,
    image: np.ndarray,
    detections: Detections,
    output: str | Path | None,
    *,
    files: FoundFiles | None = None,
    **drawing,
) -> Detections:
    """Writes and draws what is wanted of a picture's detections."""
    detections.class_names = predictor.class_names
    if files is not None:
        detections = files.add(name, image, detections)
    if output is not None:  # into the picture: a copy of a large one is felt
        names = predictor.class_names
        write_image(output, draw_detections(image, detections, names, in_place=True, **drawing))
    return detections


def predict_folder(
    predictor: Predictor,
    source: str | Path,
    output: str | Path | None,
    *,
    score_threshold: float = 0.15,
    top_k: int = 15,
    batch_size: int | None = None,
    progress: bool = True,
    **options,
) -> list[Path]:
    """Draw every picture of a folder into another, under its own name; returns the pictures that
    were read. The rest is as of predict_image.

    Threads read and resize pictures before the forward pass of batch_size of them, and draw and
    write behind it, in the order of their names. Files that are no pictures, or that cannot be
    read, are skipped and named on stderr. ValueError where the folder does not exist, holds no
    readable picture, or is the output folder itself.
    """
    source, output = Path(source), None if output is None else Path(output)
    if not source.is_dir():
        raise ValueError(
            f"{source}: this image folder does not exist: check the path"
            if not source.exists()
            else f"{source} is not a folder: use --image for a single picture"
        )
    if output is not None and output.resolve() == source.resolve():
        raise ValueError(
            f"{output}: the pictures would overwrite their originals: give another output folder"
        )
    listed = sorted(path for path in source.iterdir() if path.is_file())
    pictures = [path for path in listed if path.suffix.lower() in IMAGE_SUFFIXES]
    skipped = [f"{path.name} (no picture)" for path in listed if path not in pictures]
    batch_size = batch_size or predictor.at_once
    options |= {"score_threshold": score_threshold, "top_k": top_k}
    read, dim = [], []
    with (
        tqdm(total=len(pictures), unit="image", disable=not progress) as bar,
        closing(read_ahead(_reader(predictor), pictures, ahead=2 * batch_size + 2)) as ahead,
        Behind() as behind,
    ):
        for some in _batches(ahead, batch_size):
            bar.update(len(some))
            skipped += [f"{one.path.name} ({one.error})" for one in some if one.error is not None]
            good = [one for one in some if one.error is None]
            if not good:
                continue
            images = [one.image for one in good]
            found = predictor.batch(images, [one.pixels for one in good])
            for one, detections in zip(good, found, strict=True):
                target = None if output is None else output / one.path.name
                behind(_keep, predictor, one.path.name, one.image, detections, target, **options)
                read.append(one.path)
                dim += [one.path.name] * one.dim
    if skipped:
        say(f"skipped {len(skipped)} of {len(listed)} files: {few(skipped, 20)}", error=True)
    if dim:
        what = f"{len(dim)} pictures, such as {dim[0]}: each {DIM}"
        warnings.warn(f"{what}: {DIM_FIX}", DataWarning, stacklevel=2)
    if not read:
        raise ValueError(
            f"{source}: holds no picture that can be read ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return read


@dataclass(frozen=True)
class _Read:
    """A picture of a folder, its input to the network, and whether it is dim; or why it cannot be
    read."""

    path: Path
    image: np.ndarray
    pixels: Tensor
    dim: bool
    error: ValueError | None = None


def _reader(predictor: Predictor) -> Callable[[Path], _Read]:
    def read(path: Path) -> _Read:
        try:
            image, dim = read_picture(path)
        except ValueError as error:
            return _Read(path, np.empty((0, 0, 3), np.uint8), torch.empty(0), False, error)
        return _Read(path, image, predictor.input(image), dim)

    return read


def _batches(items: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    while some := list(islice(items, size)):
        yield some
