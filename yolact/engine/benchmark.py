"""Where the time of inference goes: per stage, from the picture to full-size masks."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.loader import build_dataset
from data.schema import Config
from yolact import cli
from yolact.engine.evaluate import evaluation_mode
from yolact.engine.precision import Choice, wait_for
from yolact.engine.predict import Predictor
from yolact.engine.records import place_of
from yolact.files import write_whole
from yolact.model import Yolact
from yolact.outputs import Detections
from yolact.postprocess import instance_masks, paste
from yolact.run_files import BENCHMARK, RECORDS, run_of_records

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

STAGES = ("preprocess", "forward", "nms", "masks", "paste")


@dataclass(frozen=True)
class BenchmarkResult:
    """Milliseconds of each stage and of their total, one image at a time.

    preprocess  resize and copy to the device
    forward     normalise and run the network
    nms         decode boxes, suppress
    masks       assemble, crop, re-score
    paste       resize to the picture, threshold, encode
    """

    median_ms: dict[str, float]
    p95_ms: dict[str, float]
    fps: float
    peak_memory_mib: float
    device: str
    precision: str
    torch: str
    input_size: int
    image_size: tuple[int, int]
    detections: float
    iterations: int
    warmup: int

    def table(self) -> str:
        height, width = self.image_size
        lines = [
            f"{self.device}, {self.precision}, torch {self.torch}",
            f"input {self.input_size} px, picture {width}x{height}, {self.detections:.1f} "
            f"detections an image; {self.iterations} images after {self.warmup} of warm-up",
            f"{'stage':<12}{'median ms':>12}{'p95 ms':>12}{'share':>8}",
        ]
        total = self.median_ms["total"]
        lines += [
            f"{stage:<12}{median:>12.2f}{self.p95_ms[stage]:>12.2f}{100 * median / total:>7.0f}%"
            for stage, median in self.median_ms.items()
        ]
        return "\n".join(
            [*lines, f"{self.fps:.2f} images/s, peak memory {self.peak_memory_mib:.0f} MiB"]
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def benchmark(
    model: Yolact,
    cfg: Config,
    *,
    device: torch.device | str,
    precision: str | None = None,
    optimize: str = "none",
    choice: Choice | None = None,
    images: Sequence[np.ndarray] | None = None,
    iterations: int = 100,
    warmup: int = 10,
    progress: bool = True,
) -> BenchmarkResult:
    """Time inference image by image, with the device synchronised around every stage.

    images  (h,w,3) uint8 RGB pictures, taken in turn; None = one of 480x640 noise
    Peak memory is what torch allocated on CUDA, or the whole process's resident memory on a CPU.
    fps is 1 / median total. Raises ValueError for fewer than one iteration or an unknown precision.
    """
    if iterations < 1 or warmup < 0:
        raise ValueError(f"iterations={iterations}, warmup={warmup}: use at least 1 and 0")
    if images is None:
        images = [np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)]
    if not len(images):
        raise ValueError("no images to time: give at least one, or none for noise")
    times, found = [], 0
    with evaluation_mode(model):
        predictor = Predictor(model, cfg, device, precision, optimize, choice=choice)
        for i in tqdm(
            range(-warmup, iterations),
            unit="image",
            desc="timing",
            disable=not progress,
            leave=False,
        ):
            if i == 0 and predictor.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(predictor.device)
            detections, seconds = timed(predictor, images[i % len(images)])
            if i >= 0:
                times.append(seconds)
                found += len(detections)
    milliseconds = 1000 * np.array(times)  # (iterations, stages)
    milliseconds = np.concatenate([milliseconds, milliseconds.sum(1, keepdims=True)], 1)
    median, p95 = (
        dict(zip((*STAGES, "total"), np.percentile(milliseconds, q, axis=0).tolist()))
        for q in (50, 95)
    )
    return BenchmarkResult(
        median,
        p95,
        fps=1000 / median["total"],
        peak_memory_mib=_peak_memory_mib(predictor.device),
        device=device_name(predictor.device),
        precision=predictor.choice.short,
        torch=torch.__version__,
        input_size=cfg.model.max_size,
        image_size=tuple(images[0].shape[:2]),
        detections=found / iterations,
        iterations=iterations,
        warmup=warmup,
    )


def benchmark_images(
    predictor: Predictor, *, count: int = 0, progress: bool = True
) -> BenchmarkResult:
    """benchmark() of a predictor on its validation images, or on noise, with a note, where they
    are not there. count: images timed; 0 = 100."""
    count = count or 100
    images = None
    try:
        dataset = build_dataset(predictor.cfg, "val", mask_sizes=[], needs_full_masks=False)
        images = [dataset.load_image(i) for i in range(min(count, len(dataset), 50))]
    except (ValueError, OSError) as error:
        cli.note(f"timing on noise, not on validation images: {cli.one_line(error)}")
    return benchmark(
        predictor.model,
        predictor.cfg,
        device=predictor.device,
        choice=predictor.choice,
        images=images or None,
        iterations=count,
        progress=progress,
    )


def keep_times(result: BenchmarkResult, weights: Path) -> Path | None:
    """Writes the times of a run's last weights beside its records, for reports, and returns the
    file: results/benchmark.json. None for other weights."""
    records = place_of(weights)
    if records is None or records.name != Path(RECORDS).name:
        return None
    path = run_of_records(records) / BENCHMARK
    write_whole(path, json.dumps(result.to_dict(), indent=2) + "\n")
    return path


def timed(predictor: Predictor, image: np.ndarray) -> tuple[Detections, list[float]]:
    """Detections of one image, and the seconds of each of STAGES."""
    clock = _Clock(predictor.device)
    batch = predictor.preprocess([image])
    clock.lap()
    predictions = predictor.forward(batch)
    clock.lap()
    kept = predictor.instances(predictions)
    clock.lap()
    crop, masks = predictor.cfg.eval.crop, predictor.cfg.eval.masks
    maps, mask_scores = instance_masks(
        kept,
        predictions.prototypes[0],
        mask_iou_net=predictor.mask_iou_net,
        crop=crop,
        masks=masks,
    )
    clock.lap()
    detections = paste(kept, maps, mask_scores, image.shape[:2], crop=crop, masks=masks)
    clock.lap()
    return detections, clock.laps


class _Clock:
    """Seconds between laps, with the device's queue empty at each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[float] = []
        self.last = self._now()

    def lap(self) -> None:
        now = self._now()
        self.laps.append(now - self.last)
        self.last = now

    def _now(self) -> float:
        wait_for(self.device)
        return time.perf_counter()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (
                line.split(":", 1)[1].strip()
                for line in info.read_text().splitlines()
                if line.startswith("model name")
            ),
            name,
        )
    return f"{name}, {torch.get_num_threads()} threads"


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
