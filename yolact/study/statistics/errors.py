"""What kind of error each detection is, and which instances are missed, at the scores that a run
would be used with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolact.engine.records import Records
from yolact.study.statistics.quality import olrp

RIGHT, PLACE, CLASS, DUPLICATE, BACKGROUND, MISSED = (
    "right",
    "wrong place",
    "class",
    "duplicate",
    "background",
    "missed",
)
WRONG = (PLACE, CLASS, DUPLICATE, BACKGROUND, MISSED)
UNCOUNTED = ""  # below the threshold, or of what is ignored
FOREGROUND, TOUCHES = 0.5, 0.1  # IoU, as TIDE has them


@dataclass(frozen=True)
class Judged:
    """The detections of a run at the score thresholds of its oLRP.

    kind    (D,) str: what each is; UNCOUNTED below its class's threshold, and on crowds
    missed  (G,) bool: instances that count, and that no kept detection finds. What one of them
            has in the wrong place or class is that error alone, as in TIDE. None for records of
            older versions, which do not say which instance was matched
    counts  {kind: (images,)}: errors of each image
    """

    kind: np.ndarray
    missed: np.ndarray | None
    counts: dict[str, np.ndarray]


def judge_detections(records: Records, shape: str) -> Judged:
    """Kinds of errors at IoU .50, after Bolya et al., TIDE, ECCV 2020.

    Unlike TIDE's, they are counted at one score threshold a class, that of oLRP. Wrong place: IoU
    .1 to .5 with an instance of its class. Class: IoU of .1 or more with one of another class
    alone. Duplicate: IoU of .5 or more with an instance that another detection has. Background:
    what is left. Records of older versions do not tell class from background, and count as
    background.
    """
    found, truth = records.found[shape], records.truth
    kept = kept_detections(records, shape) & ~found.ignored[0, 0]
    wrong = kept & ~found.right[0, 0]
    own = found.best_iou
    kind = np.full(len(own), UNCOUNTED, "<U11")
    kind[kept & found.right[0, 0]] = RIGHT
    kind[wrong] = BACKGROUND
    if found.any_iou is not None:
        kind[wrong & (found.any_iou >= TOUCHES)] = CLASS
    kind[wrong & (own >= TOUCHES)] = PLACE
    if found.any_iou is not None:
        kind[wrong & (own < FOREGROUND) & (found.any_iou >= FOREGROUND)] = CLASS
    kind[wrong & (own >= FOREGROUND)] = DUPLICATE
    images, counted = len(records.image_ids), ~truth.ignored[0]
    counts = {name: np.bincount(found.image[kind == name], minlength=images) for name in WRONG}
    missed = None
    if found.matched is not None and found.any_match is not None:
        missed = counted.copy()
        missed[found.matched[0, kept & (found.matched[0] >= 0)]] = False
        near = found.any_match[np.isin(kind, (PLACE, CLASS))]
        missed[near[near >= 0]] = False
        counts[MISSED] = np.bincount(truth.image[missed], minlength=images)
    else:
        right = np.bincount(found.image[kind == RIGHT], minlength=images)
        counts[MISSED] = np.bincount(truth.image[counted], minlength=images) - right
    return Judged(kind, missed, counts)


def kept_detections(records: Records, shape: str) -> np.ndarray:
    """(D,) bool: at or above the score threshold of the oLRP of their class. None of a class where
    nothing is right."""
    threshold = olrp(records, shape).per_class[:, 4]
    with np.errstate(invalid="ignore"):
        return records.found[shape].score >= threshold[records.found[shape].label]
