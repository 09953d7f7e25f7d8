"""Studies of known truth: AP is a mean over images, every effect is Gaussian, seeds and images are
crossed as in a real study."""

from __future__ import annotations

import numpy as np

from yolact.study.statistics.resample import image_weights

IMAGES, DRAWS = 100, 400


def simulate(
    studies: int,
    seeds: int,
    *,
    truth=(0.0,),
    seed_sd=(1.0,),
    baseline_sd: float = 1.0,
    image_sd: float = 0.0,
    noise: float = 5.0,
    draw_per_seed: bool = False,
    start_sd: float = 0.0,
    start_per_seed: bool = False,
    images: int = IMAGES,
    draws: int = DRAWS,
    rng_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(differences (studies, K, S), the same on resampled images (studies, K, draws, S)) of K =
    len(truth) arms.

    truth     true differences; seed_sd (K,) and baseline_sd: of a run's AP over seeds
    image_sd  of an arm's own effect on an image, the same at every seed: I = image_sd^2 * 2 /
              images where every arm has one
    noise     of one run on one image
    start_sd  of what a start adds to an arm's difference, over starts; start_per_seed: every seed
              has a start of its own, else all have one
    draw_per_seed  a mistake, for the tests to notice: other images are drawn for each seed
    """
    rng, arms = np.random.default_rng(rng_seed), len(truth)
    sds = np.array([baseline_sd, *np.broadcast_to(seed_sd, arms)])
    weights = image_weights(range(images), draws) / images
    spread = image_sd * rng.standard_normal((images, studies, 1 + arms, 1), dtype=np.float32)
    scores = (
        noise * rng.standard_normal((images, studies, 1 + arms, seeds), dtype=np.float32) + spread
    )
    scores += (
        sds[:, None] * rng.standard_normal((studies, 1 + arms, seeds))
        + np.array([0, *truth])[:, None]
    )
    starts = rng.standard_normal((studies, arms, seeds if start_per_seed else 1))
    scores[:, :, 1:] += start_sd * starts
    values = scores[:, :, 1:] - scores[:, :, :1]  # (images, studies, K, S)
    if draw_per_seed:
        other = [
            image_weights([f"{s}-{i}" for i in range(images)], draws) / images for s in range(seeds)
        ]
        found = np.stack([np.tensordot(w, values[..., s], 1) for s, w in enumerate(other)], -1)
    else:
        found = np.tensordot(weights.astype(np.float32), values, 1)
    return values.mean(0), np.moveaxis(found, 0, -2)
