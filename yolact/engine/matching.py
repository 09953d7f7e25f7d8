"""COCO's matching and its precision, number for number as pycocotools has them, in less time:
detections and instances stand in columns, and what pairs of an image and a class have in common is
done for all of them at once.

T thresholds, R ranges of areas, N detections and G instances of the whole set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

NO_MATCH = 0  # ids count from 1
CHUNK_ELEMENTS = 1 << 21  # of tables (pairs, R, T, instances of a pair)


@dataclass(frozen=True)
class Columns:
    """Detections or instances by class, then image, then falling score or as given.

    items    as the data set holds them
    pair     (n,) class index * images + image index, rising
    rank     (n,) place within the pair
    """

    items: list[dict]
    pair: np.ndarray
    rank: np.ndarray

    def numbers(self, name: str, kind: type = np.float64) -> np.ndarray:
        """(n,) a field of every item."""
        return np.array([item[name] for item in self.items], kind)

    def slices(self, pairs: int) -> np.ndarray:
        """(pairs + 1,) where each pair starts."""
        return np.searchsorted(self.pair, np.arange(pairs + 1))


@dataclass(frozen=True)
class PairMatches:
    """The D detections of one class on one image, by falling score.

    ids     of the detections, in a list; scores (D,)
    matched (R,T,D) ids of the instances they are matched to, 0 for none
    ignored (R,T,D) bool: neither right nor wrong
    """

    ids: list[int]
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray


class Evaluator(COCOeval):
    """COCOeval of boxes or masks by class. evaluate() matches, accumulate() leaves in eval what
    COCOeval's leaves there. of_pair() replaces evalImgs; ious holds pairs that have both detections
    and instances."""

    def evaluate(self) -> None:
        """Matches every class of every image."""
        parameters = self.params
        assert parameters.useCats and parameters.iouType in ("bbox", "segm")
        parameters.imgIds = list(np.unique(parameters.imgIds))
        parameters.catIds = list(np.unique(parameters.catIds))
        parameters.maxDets = sorted(parameters.maxDets)
        self._prepare()
        self.truths = self._columns(self._gts, None)
        self.found = self._columns(self._dts, parameters.maxDets[-1])
        self.scores = self.found.numbers("score")
        low, high = np.array(parameters.areaRng, np.float64).T[:, :, None]  # (R,1) each
        areas = self.truths.numbers("area")
        self.not_counted = (
            self.truths.numbers("ignore", bool) | (areas < low) | (areas > high)
        )  # (R,G)
        self.partner = self._partners()  # (R,T,N) row of truths, -1 for none
        areas = self.found.numbers("area")
        outside = (areas < low) | (areas > high)  # (R,N)
        # (R,G+1): the last stands for no partner
        counted_out = np.pad(self.not_counted, ((0, 0), (0, 1)))
        of_ignored = np.stack(
            [row[partner] for row, partner in zip(counted_out, self.partner, strict=True)]
        )
        self.ignored = of_ignored | ((self.partner < 0) & outside[:, None])  # (R,T,N)
        self._starts = self.found.slices(len(parameters.catIds) * len(parameters.imgIds))
        self._truth_ids = np.append(self.truths.numbers("id", np.int64), NO_MATCH)

    def of_pair(self, c: int, i: int) -> PairMatches | None:
        """What was found of class index c on image index i; None where nothing was."""
        pair = c * len(self.params.imgIds) + i
        own = slice(self._starts[pair], self._starts[pair + 1])
        if own.start == own.stop:
            return None
        return PairMatches(
            [item["id"] for item in self.found.items[own]],
            self.scores[own],
            self._truth_ids[self.partner[..., own]],
            self.ignored[..., own],
        )

    def _columns(self, by_pair: dict, limit: int | None) -> Columns:
        """The items of all pairs. With a limit: so many of the highest scores of each."""
        images = len(self.params.imgIds)
        rows: list[dict] = []
        pairs: list[int] = []
        for c, category in enumerate(self.params.catIds):
            for i, image in enumerate(self.params.imgIds):
                there = by_pair.get((image, category))
                if there:
                    rows += there
                    pairs += [c * images + i] * len(there)
        pair = np.array(pairs, np.int64)
        order = np.arange(len(rows))
        if limit is not None:  # of equal scores the first
            order = np.lexsort((-np.array([row["score"] for row in rows], np.float64), pair))
        rank = np.arange(len(rows)) - np.searchsorted(pair, pair)
        if limit is not None:
            order, pair, rank = order[rank < limit], pair[rank < limit], rank[rank < limit]
        return Columns([rows[k] for k in order], pair, rank)

    def _partners(self) -> np.ndarray:
        """(R,T,N) row of the instance that each detection is matched to, -1 for none."""
        thresholds = np.minimum(self.params.iouThrs, 1 - 1e-10)
        partner = np.full((len(self.not_counted), len(thresholds), len(self.found.pair)), -1)
        self.ious: defaultdict = defaultdict(list)
        crowd = self.truths.numbers("iscrowd", bool)
        near = [p for p in self._overlaps(crowd) if p.overlaps.max() >= thresholds.min()]
        for part in _chunks(near, len(self.not_counted) * len(thresholds)):
            _match(part, thresholds, self.not_counted, crowd, partner)
        return partner

    def _overlaps(self, crowd: np.ndarray) -> Iterator[_Pair]:
        """The pairs that have both detections and instances."""
        key = "bbox" if self.params.iouType == "bbox" else "segmentation"
        images, classes = self.params.imgIds, self.params.catIds
        both = np.intersect1d(self.found.pair, self.truths.pair)
        ends = len(images) * len(classes)
        of_found, of_truths = self.found.slices(ends), self.truths.slices(ends)
        for pair in both.tolist():
            own, there = (
                slice(int(starts[pair]), int(starts[pair + 1])) for starts in (of_found, of_truths)
            )
            overlaps = rle.iou(
                [item[key] for item in self.found.items[own]],
                [item[key] for item in self.truths.items[there]],
                crowd[there].astype(int).tolist(),
            )
            category, image = divmod(pair, len(images))
            self.ious[images[image], classes[category]] = overlaps
            yield _Pair(own.start, there.start, overlaps)

    def accumulate(self, p: Any = None) -> None:
        """Precision and recall over all images, of every class, range of areas and limit."""
        assert p is None, "parameters are those of evaluate()"
        parameters = self.params
        limits, points = parameters.maxDets, np.asarray(parameters.recThrs)
        counts = [len(parameters.iouThrs), len(points), len(parameters.catIds)]
        counts += [len(parameters.areaRng), len(limits)]
        precision = -np.ones(counts)
        scores, recall = precision.copy(), precision[:, 0].copy()
        images = len(parameters.imgIds)
        edges = np.arange(len(parameters.catIds) + 1) * images
        of_found, of_truths = (np.searchsorted(x.pair, edges) for x in (self.found, self.truths))
        for c in range(len(parameters.catIds)):
            own = slice(of_found[c], of_found[c + 1])
            counted = (~self.not_counted[:, of_truths[c] : of_truths[c + 1]]).sum(1)  # (R,)
            order = own.start + np.argsort(-self.scores[own], kind="stable")
            for m, limit in enumerate(limits):
                kept = order[self.found.rank[order] < limit]
                for r in np.flatnonzero(counted):
                    recall[:, c, r, m], precision[:, :, c, r, m], scores[:, :, c, r, m] = _curves(
                        self.scores[kept],
                        self.partner[r][:, kept] >= 0,
                        self.ignored[r][:, kept],
                        counted[r],
                        points,
                    )
        self.eval = {
            "params": parameters,
            "counts": counts,
            "precision": precision,
            "recall": recall,
            "scores": scores,
        }


@dataclass(frozen=True)
class _Pair:
    """Where the detections and instances of a pair start, and their overlaps (D,G)."""

    found: int
    truths: int
    overlaps: np.ndarray


def _chunks(pairs: list[_Pair], rows: int) -> Iterator[list[_Pair]]:
    """Pairs of about as many instances, as many as CHUNK_ELEMENTS holds."""
    part: list[_Pair] = []
    for pair in sorted(pairs, key=lambda p: p.overlaps.shape[1]):
        if part and (len(part) + 1) * rows * pair.overlaps.shape[1] > CHUNK_ELEMENTS:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def _match(
    pairs: list[_Pair],
    thresholds: np.ndarray,
    not_counted: np.ndarray,
    crowd: np.ndarray,
    partner: np.ndarray,
) -> None:
    """Fills in partner (R,T,N): in turn of their scores, detections take the free instance of
    highest IoU, of equals the last. Instances that do not count (R,G) come after all others, and
    crowds (G,) stay free. The first detections of all pairs go first, then the second ones."""
    most = max(pair.overlaps.shape[1] for pair in pairs)

    def padded(rows: Callable[[_Pair], np.ndarray], fill: Any) -> np.ndarray:
        """Arrays (...,G) of every pair -> (pairs,...,most)."""
        return np.stack(
            [
                np.pad(
                    value := rows(pair),
                    [(0, 0)] * (value.ndim - 1) + [(0, most - value.shape[-1])],
                    constant_values=fill,
                )
                for pair in pairs
            ]
        )

    def own(pair: _Pair) -> slice:
        return slice(pair.truths, pair.truths + pair.overlaps.shape[1])

    # at a time; a detection that is near nothing has no turn
    turns = [np.flatnonzero(pair.overlaps.max(1) >= thresholds.min()) for pair in pairs]
    last = padded(lambda pair: not_counted[:, own(pair)], True)  # (pairs,R,most)
    preferred = np.where(last, 0, most)[:, :, None]
    is_crowd = padded(lambda pair: crowd[own(pair)], False)
    free = np.ones((len(pairs), len(not_counted), len(thresholds), most), bool)
    for turn in range(max(map(len, turns))):
        here = np.array([p for p, own_turns in enumerate(turns) if turn < len(own_turns)])
        rows = [turns[p][turn] for p in here]
        iou = np.full((len(here), most), -1.0)
        for line, p, row in zip(iou, here, rows, strict=True):
            line[: pairs[p].overlaps.shape[1]] = pairs[p].overlaps[row]
        rank = np.argsort(np.argsort(iou, axis=1, kind="stable"), axis=1) + 1
        near = iou[:, None, None] >= thresholds[:, None]  # (here,1,T,most)
        choice = np.where(free[here] & near, rank[:, None, None] + preferred[here], 0)
        best = choice.argmax(3)  # (here,R,T)
        matched = np.take_along_axis(choice, best[..., None], 3)[..., 0] > 0
        first = np.array([pairs[p].truths for p in here])
        columns = np.array([pairs[p].found for p in here]) + rows
        found = np.where(matched, best + first[:, None, None], -1)
        partner[:, :, columns] = found.transpose(1, 2, 0)
        k, r, t = np.nonzero(matched & ~is_crowd[here[:, None, None], best])
        free[here[k], r, t, best[k, r, t]] = False


def _curves(
    scores: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
    counted: int,
    points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of D detections by falling score (D,), matched and ignored (T,D), where `counted` instances
    count: recall (T,), and precision and score at each of the recall points (T,points)."""
    right = (matched & ~ignored).cumsum(1).astype(np.float64)  # (T,D)
    wrong = (~matched & ~ignored).cumsum(1).astype(np.float64)
    reached = right / counted
    exact = right / (wrong + right + np.spacing(1))
    falling = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
    precision = np.zeros((len(right), len(points)))
    score = np.zeros_like(precision)
    for t, row in enumerate(reached):
        place = np.searchsorted(row, points, side="left")
        place = place[place < len(row)]
        precision[t, : len(place)] = falling[t, place]
        score[t, : len(place)] = scores[place]
    return reached[:, -1] if len(scores) else np.zeros(len(right)), precision, score
