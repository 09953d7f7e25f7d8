"""How scripts/bench.py measures: wall time of repeated calls, and the process's peak memory."""

from __future__ import annotations

import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def time_calls(work, seconds: float, *, warmup: int = 2, least: int = 3) -> list[float]:
    """Seconds of each call, for about `seconds` and at least `least` calls after the warm-up. On
    CUDA, work() must synchronise."""
    for _ in range(warmup):
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def peak_memory_mb() -> float:
    """Largest resident memory that this process has had, in MB."""
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
