"""What scripts/bench.py measures of comparisons."""

from __future__ import annotations

import time

from yolact.study.statistics.resample import resample
from yolact.testing.synthetic import synthetic_records


def resample_seconds(seconds: float) -> dict[str, float]:
    """{"images x classes": seconds} of two runs, resampled from their records as a comparison does
    it the first time. With a second or more to measure also 37,000 instances and 190,000
    detections of 80 classes."""
    sizes: dict[str, tuple[int, int, float, float]] = {"200 x 1": (200, 1, 4, 8)}
    if seconds >= 1:
        sizes["5000 x 80"] = (5000, 80, 7.3, 30)
    taken = {}
    for name, (count, classes, truths, wrong) in sizes.items():
        pair = [
            synthetic_records(count, classes=classes, truths=truths, wrong=wrong, run_seed=seed)
            for seed in range(2)
        ]
        start = time.perf_counter()
        for records in pair:
            resample(records)
        taken[name] = time.perf_counter() - start
    return taken
