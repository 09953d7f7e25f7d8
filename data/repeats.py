"""Repeat-factor sampling: images of rare classes are seen more often (Gupta et al. 2019, LVIS: A
Dataset for Large Vocabulary Instance Segmentation, appendix B.2)."""

from __future__ import annotations

import numpy as np

from data.table import AnnotationTable


def repeat_factors(table: AnnotationTable, threshold: float) -> np.ndarray:
    """(images,) float64: how often each is seen in a round of the order, 1 and above.

    f(c) is the share of images with an instance of class c, r(c) = max(1, sqrt(threshold / f(c))),
    and r of an image the largest of its classes'; 1 of one without instances. Crowds count.
    """
    images = len(table.image_ids)
    owner = np.repeat(np.arange(images), np.diff(table.start))
    pairs = np.unique(np.stack([owner, table.labels[: len(owner)]], 1), axis=0)  # (P,2)
    factors = np.ones(images)
    if not len(pairs):
        return factors
    shares = np.bincount(pairs[:, 1]) / images  # of each class; 0 where it has no image
    of_class = np.sqrt(threshold / np.maximum(shares, 1 / images)).clip(min=1)
    np.maximum.at(factors, pairs[:, 0], of_class[pairs[:, 1]])
    return factors


def seen_in_round(factors: np.ndarray, offset: float) -> list[tuple[int, int]]:
    """(image, how many times it was listed before) of a round, in the order of the images.

    The length is the sum of the factors, rounded, whatever the offset. Factors are scaled to it:
    each image comes floor or ceil of its scaled factor times, and the mean over offsets in 0..1 is
    the scaled factor. Where the length was rounded down, a factor of 1 is a little less, and a
    round may leave that image out.
    """
    length = round(float(factors.sum()))
    bounds = np.floor(np.cumsum(factors) * (length / factors.sum()) + offset + 1e-9)
    bounds[-1] = length + np.floor(offset)  # exact
    counts = np.diff(bounds, prepend=np.floor(offset)).astype(int).tolist()
    return [(image, time) for image, count in enumerate(counts) for time in range(count)]
