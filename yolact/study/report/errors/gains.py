"""What mending one kind of error alone would gain: the dAP of Bolya et al., TIDE, ECCV 2020."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from data.annotations import Id
from yolact.engine.records import Found, Records
from yolact.study.statistics import FinishedRun
from yolact.study.statistics.ap import weighted_ap
from yolact.study.statistics.errors import (
    BACKGROUND,
    CLASS,
    DUPLICATE,
    FOREGROUND,
    MISSED,
    PLACE,
    TOUCHES,
)
from yolact.study.statistics.resample import image_weights

BOTH, FALSE_POSITIVES, FALSE_NEGATIVES = "class and place", "all false", "all not found"
KINDS = (CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND, MISSED)
GAINS = (*KINDS, FALSE_POSITIVES, FALSE_NEGATIVES)
DRAWS = 500  # resamples of the images: AP of each is taken once for every kind
AP50 = 1  # column of weighted_ap


@dataclass(frozen=True)
class Wrong:
    """kind (D,) str: of each wrong detection, empty for the others; of (D,): the row of Truth that
    one of the wrong class or place should have found, else -1; missed (G,) bool: instances that no
    detection finds, nor has in the wrong class or place."""

    kind: np.ndarray
    of: np.ndarray
    missed: np.ndarray


def wrong_detections(records: Records, shape: str) -> Wrong | None:
    """The errors at IoU .50, whatever the score, each of one kind, in the order of the paper's
    code: wrong place, IoU .1 to .5 with an instance of the class; class, .5 or more with one of
    another; duplicate, of an instance that is found; background, .1 at most with any; else class
    and place. None for records of older versions, which do not tell them apart; of one class alone
    they do."""
    nearest = _nearest(records, shape)
    if nearest is None:
        return None
    found, truth = records.found[shape], records.truth
    assert found.matched is not None and found.any_iou is not None
    own_match, other_iou, other_match = nearest
    own = found.best_iou
    wrong = ~found.right[0, 0] & ~found.ignored[0, 0]
    kind = np.full(len(own), "", "<U15")
    kind[wrong] = BOTH
    kind[wrong & (found.any_iou <= TOUCHES)] = BACKGROUND
    kind[wrong & (own > FOREGROUND)] = DUPLICATE
    kind[wrong & (other_iou >= FOREGROUND)] = CLASS
    kind[wrong & (own >= TOUCHES) & (own <= FOREGROUND)] = PLACE
    of = np.where(kind == PLACE, own_match, np.where(kind == CLASS, other_match, -1))
    missed = ~truth.ignored[0]
    missed[found.matched[0, found.right[0, 0]]] = False
    missed[of[of >= 0]] = False
    return Wrong(kind, of, missed)


def _nearest(records: Records, shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(row of the nearest instance of the class, IoU with the nearest of another, its row)."""
    found = records.found[shape]
    if found.matched is None or found.any_match is None:
        return None
    if found.own_match is not None and found.other_iou is not None:
        assert found.other_match is not None
        return found.own_match, found.other_iou, found.other_match
    if len(records.category_ids) > 1:
        return None
    none = np.full(len(found.image), -1)
    return found.any_match, np.zeros(len(none)), none


def mended(records: Records, shape: str, wrong: Wrong, kind: str) -> Records:
    """The records as if errors of one kind were mended, for AP50 alone.

    A detection of the wrong class or place becomes a right one of its instance; where the instance
    is found, or another with a higher score is mended to it, it goes. Duplicates, background, and
    class and place go. Instances that are missed are not counted, so that precision is as good on
    them as on the others."""
    found, truth = records.found[shape], records.truth
    keep, right, label = np.ones(len(found.image), bool), found.right[0, 0].copy(), found.label
    counted = ~truth.ignored[0]
    if kind in (PLACE, CLASS):
        taken = np.zeros(len(truth.image), bool)
        assert found.matched is not None
        taken[found.matched[0, right]] = True
        rows = np.flatnonzero(wrong.kind == kind)
        keep[rows] = False
        rows = rows[np.argsort(-found.score[rows], kind="stable")]
        rows = rows[~taken[wrong.of[rows]]]
        first = rows[np.sort(np.unique(wrong.of[rows], return_index=True)[1])]
        keep[first] = right[first] = True
        label = label.copy()
        label[first] = truth.label[wrong.of[first]]
    elif kind == FALSE_POSITIVES:
        keep = wrong.kind == ""
    elif kind == MISSED:
        counted = counted & ~wrong.missed
    elif kind == FALSE_NEGATIVES:
        assert found.matched is not None
        seen = np.zeros(len(truth.image), bool)
        seen[found.matched[0, right]] = True
        counted = counted & seen
    else:
        keep = wrong.kind != kind
    return for_ap50(records, shape, keep, right, label, counted)


def for_ap50(
    records: Records,
    shape: str,
    keep: np.ndarray | None = None,
    right: np.ndarray | None = None,
    label: np.ndarray | None = None,
    counted: np.ndarray | None = None,
) -> Records:
    """What AP at IoU .50 of all areas needs; the other thresholds and areas have nothing right, and
    so take no time. None stands for what the records have.

    keep, right (D,) bool: detections that stay, and those that are right; label (D,); counted (G,)
    bool: instances that count."""
    found, truth = records.found[shape], records.truth
    chosen = slice(None) if keep is None else keep
    right = found.right[0, 0] if right is None else right
    rights, ignored = np.zeros_like(found.right), np.ones_like(found.ignored)
    rights[0, 0], ignored[0, 0] = right, found.ignored[0, 0] & ~right
    there = np.ones_like(truth.ignored)
    there[0] = truth.ignored[0] if counted is None else ~counted
    part = Found(
        found.image[chosen],
        (found.label if label is None else label)[chosen],
        found.score[chosen],
        found.area[chosen],
        rights[..., chosen],
        ignored[..., chosen],
        found.iou[:, chosen],
        found.best_iou[chosen],
    )
    return replace(records, truth=replace(truth, ignored=there), found={shape: part})


def gains(records: Records, shape: str, weights: np.ndarray) -> dict[str, np.ndarray] | None:
    """{kind of GAINS: (B,)}: AP50 in points that mending it gains, under B weightings of the images
    (B, images). None for records that do not tell kinds apart."""
    wrong = wrong_detections(records, shape)
    if wrong is None:
        return None
    there = _there(records.truth.image, records.truth.label, ~records.truth.ignored[0], records)
    before = weights @ there > 0  # (B, classes)
    now = _ap50(for_ap50(records, shape), shape, weights, before)
    return {
        kind: _ap50(mended(records, shape, wrong, kind), shape, weights, before) - now
        for kind in GAINS
    }


def _ap50(records: Records, shape: str, weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(B,): the mean over the classes that are there before anything is mended, (B, classes) bool.
    As in the paper's code, one that is left without instances has AP 0, and takes no part where it
    has no detections either."""
    found, truth = records.found[shape], records.truth
    instances = weights @ _there(truth.image, truth.label, ~truth.ignored[0], records) > 0
    counted = ~found.ignored[0, 0]
    detections = weights @ _there(found.image, found.label, counted, records) > 0
    part = (classes & (instances | detections)).sum(1)
    values = weighted_ap(records, shape, weights).values[:, AP50]
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * np.nan_to_num(values) * instances.sum(1) / part


def _there(
    image: np.ndarray, label: np.ndarray, counted: np.ndarray, records: Records
) -> np.ndarray:
    """(images, classes): how many of each class are on each image."""
    counts = np.zeros((len(records.image_ids), len(records.category_ids)), np.float32)
    np.add.at(counts, (image[counted], label[counted]), 1)
    return counts


def gains_of_runs(
    runs: Sequence[FinishedRun], shape: str
) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """{kind: (gain of each run (S,), the same on resamples (B, S))}; None where records of one do
    not tell kinds apart."""
    found = []
    for run in runs:
        records = run.records()
        values = gains(records, shape, first_weights(records))
        if values is None:
            return None
        found.append(values)
    columns = {kind: np.stack([one[kind] for one in found], -1) for kind in GAINS}
    return {kind: (values[0], values[1:]) for kind, values in columns.items()}


def first_weights(records: Records) -> np.ndarray:
    """(1 + DRAWS, images): the images as they are, then the first resamples of statistics."""
    return _drawn(records.image_ids)


@lru_cache(maxsize=1)  # runs of a study are of the same images
def _drawn(image_ids: Sequence[Id]) -> np.ndarray:
    drawn = image_weights(image_ids, DRAWS)
    found = np.vstack([np.ones((1, drawn.shape[1]), drawn.dtype), drawn])
    found.setflags(write=False)
    return found
