"""Detections of pictures and folders, and the drawings of them. Videos are in video.py."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.images import DIM, DIM_FIX, IMAGE_SUFFIXES, read_upright
from data.schema import Config
from data.transforms import eval_transform, normalize
from layers.problems import DataWarning, few
from yolact.cli import say
from yolact.draw import draw_detections
from yolact.engine.folding import prepared
from yolact.engine.found import FoundFiles
from yolact.engine.precision import Choice, autocast, choose
from yolact.files import write_image
from yolact.finite import refuse_diverged
from yolact.model import Yolact
from yolact.outputs import Detections, Predictions
from yolact.postprocess import Instances, detect, suppress

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

    def batch(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of each (h,w,3) uint8 RGB image, from one forward pass. The images may differ
        in size."""
        return self.detect(
            self.forward(self.preprocess(images)), [image.shape[:2] for image in images]
        )

    def preprocess(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B,3,S,S) float32, 0..255, on the device. ValueError for anything but (h,w,3) uint8."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"an image is {image.shape} {image.dtype}: convert it to (height, width, 3) "
                    "uint8 RGB"
                )
        return torch.stack([self.transform(np.ascontiguousarray(image)) for image in images]).to(
            self.device
        )

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
    return _predict_pixels(
        predictor,
        Path(source).name,
        image,
        output,
        files=files,
        score_threshold=score_threshold,
        top_k=top_k,
        **drawing,
    )


def _predict_pixels(
    predictor: Predictor,
    name: str,
    image: np.ndarray,
    output: str | Path | None,
    *,
    files: FoundFiles | None = None,
    **drawing,
) -> Detections:
    (detections,) = predictor.batch([image])
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
    progress: bool = True,
    **options,
) -> list[Path]:
    """Draw every picture of a folder into another, under its own name; returns the pictures that
    were read. The rest is as of predict_image.

    Files that are no pictures, or that cannot be read, are skipped and named on stderr. ValueError
    where the folder does not exist, holds no readable picture, or is the output folder itself.
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
    read, dim = [], []
    for path in tqdm(pictures, unit="image", disable=not progress):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DataWarning)
                image = read_upright(path)
        except ValueError as error:
            skipped.append(f"{path.name} ({error})")
            continue
        dim += [path.name] * any(issubclass(one.category, DataWarning) for one in caught)
        _predict_pixels(
            predictor,
            path.name,
            image,
            None if output is None else output / path.name,
            score_threshold=score_threshold,
            top_k=top_k,
            **options,
        )
        read.append(path)
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
