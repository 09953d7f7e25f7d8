"""AP of a run on resampled images: the same image weights for every run on a set, and one cached
table of metrics a run."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.annotations import Id
from yolact.engine.records import Records, read_records, write_npz
from yolact.study.statistics.ap import metric_names, weighted_ap

RESAMPLES = 2000
_METHOD = 2  # a change of how the numbers are made changes this, and so discards caches


@dataclass(frozen=True)
class Resampled:
    """Metrics of one run, in AP points (percent).

    point    {metric: AP on the images as they are}
    draws    {metric: (B,) AP on each resample}, NaN where a resample holds no ground truth that
             defines it
    dropped  share of (class, resample) pairs in which a class of the set has no ground truth and
             drops out of the mean
    """

    point: dict[str, float]
    draws: dict[str, np.ndarray]
    dropped: float


def image_weights(image_ids: Sequence[Id], count: int = RESAMPLES) -> np.ndarray:
    """(count, n): how often each of n images is drawn, n with replacement. The generator's seed is
    a digest of the sorted ids, so that every run, arm and seed on a set gets the same draws;
    columns are in the order of image_ids."""
    order = sorted(
        range(len(image_ids)), key=lambda i: (isinstance(image_ids[i], str), image_ids[i])
    )
    digest = hashlib.sha256(json.dumps([image_ids[i] for i in order]).encode()).digest()
    generator, n = np.random.default_rng(int.from_bytes(digest, "big")), len(image_ids)
    weights = np.empty((count, n), np.int32)
    for row in weights:
        row[order] = np.bincount(generator.integers(n, size=n), minlength=n)
    return weights


def resample(records: Records, count: int = RESAMPLES) -> Resampled:
    """Every AP of a run, on its images and on `count` resamples of them."""
    weights = np.vstack(
        [np.ones((1, len(records.image_ids)), np.int32), image_weights(records.image_ids, count)]
    )
    point, draws, dropped = {}, {}, 0.0
    for shape in records.found:
        found = weighted_ap(records, shape, weights)
        # nothing drops out of the images as they are
        dropped = found.dropped * len(weights) / max(1, count)
        for name, column in zip(metric_names(shape), 100 * found.values.T):
            point[name], draws[name] = float(column[0]), column[1:]
    return Resampled(point, draws, dropped)


def cached_resample(records_file: Path, count: int = RESAMPLES) -> tuple[Records, Resampled]:
    """Records and resampled metrics of a records file. The latter are kept beside it, where that
    can be written, until it changes."""
    records = read_records(records_file)
    digest = hashlib.sha256(records_file.read_bytes() + f" {_METHOD} {count}".encode()).hexdigest()
    cache = records_file.with_name(f"{records_file.stem}.resampled.npz")
    kept = _read(cache, digest)
    if kept is None:
        kept = resample(records, count)
        try:
            write_npz(
                cache,
                digest=np.array(digest),
                names=np.array(list(kept.point)),
                point=np.array(list(kept.point.values())),
                draws=np.stack(list(kept.draws.values()), 1),
                dropped=np.array(kept.dropped),
            )
        # an archive that is only read, a full disk: the next comparison computes them again
        except OSError:
            pass
    return records, kept


def _read(cache: Path, digest: str) -> Resampled | None:
    try:
        with np.load(cache, allow_pickle=False) as file:
            if str(file["digest"]) != digest:
                return None
            names = [str(name) for name in file["names"]]
            return Resampled(
                dict(zip(names, file["point"].tolist())),
                dict(zip(names, file["draws"].T)),
                float(file["dropped"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
