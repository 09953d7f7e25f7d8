"""Detections of a large image by tiles that overlap: each goes through the network alone, and what
two tiles see of one object becomes one detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolact.engine.predict import Predictor
from yolact.outputs import Detections
from yolact.rle import MaskRuns

SAME = 0.5  # mask IoU, inside the part that two tiles share, from which two detections are one
LINKS = 0.5  # share of the weaker score that a part needs to make one of two groups


@dataclass(frozen=True)
class _Part:
    """A detection in pixels of the image: its tile (top, left, bottom, right), label, scores, box
    and the smallest window of its mask, at (top, left)."""

    tile: tuple[int, int, int, int]
    label: int
    score: float
    mask_score: float
    box: tuple[float, ...]
    top: int
    left: int
    pixels: np.ndarray  # (rows,columns) bool


class TiledPredictor(Predictor):
    """A Predictor that looks at tiles of an image in place of the whole.

    tile     side of a tile in pixels of the image; each is resized to the network's input
    overlap  share of a tile that the next one sees too, 0 to 0.9

    An image without a side above `tile` goes through whole. eval.max_dets holds for each tile. The
    memory is that of the image, a few tiles, and the runs of all masks.
    """

    def __init__(self, predictor: Predictor, tile: int, overlap: float = 0.2) -> None:
        if tile < 32:
            raise ValueError(f"--tile {tile}: a tile is 32 pixels or more")
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"--overlap {overlap:g} must lie between 0 and 0.9")
        self.__dict__.update(vars(predictor))
        self.tile, self.overlap = tile, overlap

    def input(self, image: np.ndarray) -> Tensor:
        """Nothing: tiles are made when they are looked at."""
        return torch.empty(0) if max(image.shape[:2]) > self.tile else super().input(image)

    def batch(
        self, images: Sequence[np.ndarray], inputs: Sequence[Tensor] | None = None
    ) -> list[Detections]:
        """Detections of each image (h,w,3) uint8 RGB, by its tiles; images without any go through
        the network together. inputs: what input() made of each, where that was done before."""
        whole = [i for i, image in enumerate(images) if max(image.shape[:2]) <= self.tile]
        made = None if inputs is None else [inputs[i] for i in whole]
        alone = super().batch([images[i] for i in whole], made) if whole else []
        found = dict(zip(whole, alone, strict=True))
        return [found[i] if i in found else self._by_tiles(image) for i, image in enumerate(images)]

    def _by_tiles(self, image: np.ndarray) -> Detections:
        size = image.shape[:2]
        tiles = [
            (top, left, min(top + self.tile, size[0]), min(left + self.tile, size[1]))
            for top in starts(size[0], self.tile, self.overlap)
            for left in starts(size[1], self.tile, self.overlap)
        ]
        parts: list[_Part] = []
        for first in range(0, len(tiles), self.at_once):
            some = tiles[first : first + self.at_once]
            pixels = [np.ascontiguousarray(image[t[0] : t[2], t[1] : t[3]]) for t in some]
            for tile, found in zip(some, super().batch(pixels), strict=True):
                parts += _parts(tile, found)
        merged = [_merged(group) for group in _groups(parts)]
        merged.sort(key=lambda part: -part.score)
        return _detections(merged, (size[0], size[1]), self.device)


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side: evenly, the last ending with the side, neighbours sharing at
    least `overlap` of a tile."""
    if length <= tile:
        return [0]
    count = 1 + int(np.ceil((length - tile) / max(1.0, tile * (1 - overlap))))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _parts(tile: tuple[int, int, int, int], found: Detections) -> list[_Part]:
    top, left = tile[:2]
    boxes = (found.boxes.cpu() + torch.tensor([left, top, left, top])).tolist()
    columns = (found.labels.tolist(), found.scores.tolist(), found.mask_scores.tolist(), boxes)
    parts = []
    for i, (label, score, mask_score, box) in enumerate(zip(*columns, strict=True)):
        row, column, pixels = found.runs.window(i)
        place = (row + top, column + left, pixels)
        parts.append(_Part(tile, label, score, mask_score, tuple(box), *place))
    return parts


def _groups(parts: list[_Part]) -> list[list[_Part]]:
    """The parts of each object, one of a tile at most. By falling score, each joins the group that
    it agrees with best. It joins two groups, as the middle of a long object does, only where its
    score is not far below theirs: a weak part that spans two objects makes them no one."""
    parts = sorted(parts, key=lambda part: -part.score)
    groups: list[list[int]] = []  # of each part; those of one object are the same list
    for number, agreeing in enumerate(_agreeing(parts)):
        own = [number]
        groups.append(own)
        for _, i in sorted(agreeing, reverse=True):
            other = groups[i]
            if {parts[k].tile for k in own} & {parts[k].tile for k in other}:
                continue
            weaker = min(max(parts[k].score for k in group) for group in (own, other))
            if len(own) > 1 and parts[number].score < LINKS * weaker:
                continue
            own += other
            for k in other:
                groups[k] = own
    found = {id(group): [parts[k] for k in group] for group in groups}
    return list(found.values())


def _agreeing(parts: list[_Part]) -> list[list[tuple[float, int]]]:
    """Of each part, (mask IoU, place) of the earlier ones that are the same where their tiles
    overlap."""
    found: list[list[tuple[float, int]]] = [[] for _ in parts]
    members: dict[tuple[int, int, int, int], list[int]] = {}
    for i, part in enumerate(parts):
        members.setdefault(part.tile, []).append(i)
    tiles, places = np.array([*members]).reshape(-1, 4), [*members.values()]  # (T,4)
    boxes = np.array([part.box for part in parts]).reshape(-1, 4)  # (P,4)
    labels = np.array([part.label for part in parts])
    for a, mine in enumerate(places):
        for b in np.flatnonzero(_meet(tiles[a : a + 1], tiles[a + 1 :])[0]) + a + 1:
            theirs = places[b]
            near = _meet(boxes[mine], boxes[theirs]) & (labels[mine][:, None] == labels[theirs])
            for i, j in np.argwhere(near):
                first, second = sorted((mine[i], theirs[j]))
                iou = _agreement(parts[first], parts[second])
                if iou >= SAME:
                    found[second].append((iou, first))
    return found


def _meet(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(A,B) bool: which of (A,4) boxes overlap which of (B,4)."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return (low < high).all(2)


def _agreement(one: _Part, other: _Part) -> float:
    """Mask IoU of two parts inside the part that their tiles share; 0 where neither reaches it."""
    top, left = (max(a, b) for a, b in zip(one.tile[:2], other.tile[:2]))
    bottom, right = (min(a, b) for a, b in zip(one.tile[2:], other.tile[2:]))
    seen = [_cut(part, (top, left, bottom, right)) for part in (one, other)]
    union = int((seen[0] | seen[1]).sum())
    return int((seen[0] & seen[1]).sum()) / union if union else 0.0


def _cut(part: _Part, window: tuple[int, int, int, int]) -> np.ndarray:
    """The part's mask inside a window of the image, bool."""
    top, left, bottom, right = window
    out = np.zeros((bottom - top, right - left), bool)
    rows, columns = part.pixels.shape
    y0, y1 = max(top, part.top), min(bottom, part.top + rows)
    x0, x1 = max(left, part.left), min(right, part.left + columns)
    if y0 < y1 and x0 < x1:
        seen = part.pixels[y0 - part.top : y1 - part.top, x0 - part.left : x1 - part.left]
        out[y0 - top : y1 - top, x0 - left : x1 - left] = seen
    return out


def _merged(group: list[_Part]) -> _Part:
    """One detection of several: the union of masks and boxes, the scores of the best."""
    if len(group) == 1:
        return group[0]
    top, left = min(part.top for part in group), min(part.left for part in group)
    bottom = max(part.top + part.pixels.shape[0] for part in group)
    right = max(part.left + part.pixels.shape[1] for part in group)
    whole = (top, left, bottom, right)
    union = np.logical_or.reduce([_cut(part, whole) for part in group])
    best = max(group, key=lambda part: part.mask_score)
    low = [min(part.box[k] for part in group) for k in (0, 1)]
    high = [max(part.box[k] for part in group) for k in (2, 3)]
    scores = max(part.score for part in group), best.mask_score
    return _Part(whole, best.label, *scores, (*low, *high), top, left, union)


def _detections(parts: list[_Part], size: tuple[int, int], device: torch.device) -> Detections:
    windows = ((part.top, part.left, torch.from_numpy(part.pixels)[None]) for part in parts)
    boxes = torch.tensor([part.box for part in parts]).reshape(-1, 4)
    return Detections(
        boxes.to(device),
        torch.tensor([part.label for part in parts], dtype=torch.int64, device=device),
        torch.tensor([part.score for part in parts], device=device),
        torch.tensor([part.mask_score for part in parts], device=device),
        MaskRuns.collect(windows, size),
    )
