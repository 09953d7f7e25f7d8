"""Ids that instances keep across the frames of a video, by ByteTrack of the package trackers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from yolact.outputs import Detections

KEPT_SECONDS = 1.0  # an instance that is not found for so long loses its id
LOWEST = 0.1  # scores below it are not looked at, as in the paper


def tracking_package() -> tuple[Any, Any]:
    """The modules trackers and supervision. ValueError where they are not installed."""
    try:
        import supervision
        import trackers
    except ImportError as error:
        raise ValueError(
            f"--track needs the package trackers ({error}): pip install "
            '"yolact-loss-lab[track]", or leave --track out'
        ) from error
    return trackers, supervision


class Tracks:
    """Numbers the instances of one video: tracks(found) for each frame in order.

    fps    frames a second among those given
    score  mask scores from it on begin a track; lower ones, from 0.1 on, can only continue
           one

    Boxes are matched by IoU with those that a Kalman filter predicts. Each class is followed on its
    own: NMS works within classes, so that two classes may share a box. An instance has its id from
    its second frame on. ByteTrack is that of Zhang et al., "ByteTrack: Multi-Object Tracking by
    Associating Every Detection Box", ECCV 2022.
    """

    def __init__(self, fps: float, score: float) -> None:
        trackers, self.supervision = tracking_package()
        self.lowest = min(score, LOWEST)
        self.trackers: defaultdict[int, Any] = defaultdict(
            lambda: trackers.ByteTrackTracker(
                lost_track_buffer=round(30 * KEPT_SECONDS),  # in frames of a video of 30 a second
                frame_rate=fps,
                track_activation_threshold=score,
                high_conf_det_threshold=score,
            )
        )
        self.ids: dict[tuple[int, int], int] = {}  # of a class and the number of its tracker

    def __call__(self, found: Detections) -> Detections:
        """Sets track_ids of the detections of the next frame, and returns them."""
        labels, scores = found.labels.cpu(), found.mask_scores.cpu()
        ids = torch.zeros(len(found), dtype=torch.int64)
        for label in sorted(
            {*self.trackers, *labels.tolist()}
        ):  # none of a class: lost ones grow older
            chosen = ((labels == label) & (scores >= self.lowest)).nonzero()[:, 0]
            given = self.supervision.Detections(
                xyxy=found.boxes.cpu()[chosen].numpy(),
                confidence=scores[chosen].numpy(),
                data={"index": chosen.numpy()},
            )
            tracked = self.trackers[label].update(given)
            for i, number in zip(tracked.data.get("index", ()), tracked.tracker_id):
                if number >= 0:
                    key = label, int(number)
                    ids[int(i)] = self.ids.setdefault(key, len(self.ids) + 1)
        found.track_ids = ids.to(found.boxes.device)
        return found
