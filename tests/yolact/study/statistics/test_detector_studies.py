"""300 whole studies of a synthetic detector whose true AP is known: records, resampled AP,
intervals and verdicts together. Slow."""

import numpy as np
import pytest

from yolact.study.statistics.ap import weighted_ap
from yolact.study.statistics.inference import crossed, two_sided_p
from yolact.study.statistics.resample import image_weights
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, WORSE, judge
from yolact.testing.synthetic import synthetic_records

pytestmark = pytest.mark.slow

STUDIES, SEEDS, IMAGES, DRAWS = 300, (3, 5, 10), 120, 200
# of a run's skill, and of an arm's own skill on an image, in logits of IoU
SEED_SD, IMAGE_SD = 0.10, 0.35


def mask_ap(records, weights):
    return 100 * weighted_ap(records, "mask", weights).values[:, 0]


def arm_runs(study, arm, skill, count, images, image_sd):
    """The runs of one arm: seeds differ in skill and in what they draw, the arm's images are the
    same for all."""
    rng = np.random.default_rng([study, arm, 7])
    own = image_sd * rng.standard_normal(images)
    return [
        synthetic_records(
            images,
            truths=3,
            wrong=5,
            set_seed=study,
            run_seed=100 * arm + s,
            skill=skill + SEED_SD * rng.standard_normal(),
            image_skill=own,
        )
        for s in range(count)
    ]


def true_ap(skill, image_sd):
    """The mean over seeds of AP on 30,000 images."""
    ones = np.ones((1, 30_000))
    return np.mean(
        [mask_ap(records, ones)[0] for records in arm_runs(10**6, 5, skill, 12, 30_000, image_sd)]
    )


@pytest.fixture(
    scope="module",
    params=[(0.0, 0.0), (0.0, IMAGE_SD), (0.15, IMAGE_SD)],
    ids=["copies", "equal", "better"],
)
def studies(request):
    """(true difference, differences (studies, 10), the same on resamples (studies, DRAWS, 10))."""
    skill, image_sd = request.param
    truth = true_ap(skill, image_sd) - true_ap(0.0, image_sd) if skill else 0.0
    weights = np.vstack([np.ones((1, IMAGES), int), image_weights(range(IMAGES), DRAWS)])
    found = np.empty((STUDIES, 1 + DRAWS, max(SEEDS)))
    for study in range(STUDIES):
        base, arm = (
            arm_runs(study, k, s, max(SEEDS), IMAGES, image_sd) for k, s in enumerate((0.0, skill))
        )
        found[study] = np.stack(
            [mask_ap(a, weights) - mask_ap(b, weights) for a, b in zip(arm, base)], 1
        )
    return truth, found[:, 0], found[:, 1:]


@pytest.mark.parametrize("seeds", SEEDS)
def test_coverage_and_verdicts(studies, seeds):
    truth, differences, draws = studies
    d, s2, image = crossed(differences[:, :seeds], draws[..., :seeds])
    covered = (two_sided_p(d - truth, s2 / seeds, image, seeds - 1) >= 0.05).mean()
    judged = judge(
        d[:, None], s2[:, None], image[:, None], seeds, margin=max(0.5, abs(truth))
    ).verdict[:, 0]
    wrong = {BETTER, WORSE} if truth == 0 else {WORSE, EQUIVALENT}
    rate = np.isin(judged, list(wrong)).mean()
    print(
        f"S={seeds} truth={truth:.2f} D={d.mean():.2f} covered={covered:.3f} wrong={rate:.3f} "
        f"better={(judged == BETTER).mean():.2f} s2/S={np.mean(s2 / seeds):.3f} "
        f"I={image.mean():.3f} Var(D)={d.var():.3f}"
    )
    error = np.sqrt(0.05 * 0.95 / STUDIES)  # of a rate over so many studies
    assert 0.935 - 2 * error <= covered <= 0.985 + 2 * error and rate <= 0.06 + 2 * error
