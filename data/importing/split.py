"""Training and validation images: those of the source where it tells them apart, else by lot.

Near-duplicates, as frames of one film, stay on one side. A difference hash finds them: 256 bits, a
bit for each pair of neighbours of a 17x16 grey thumbnail (the left one is the brighter).
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np

from data.images import read_annotated
from data.importing.records import Picture
from layers.problems import Problem, ProblemError

SIDE = 16  # rows and bits a row of a hash
NEAR = 7  # bits in which hashes of near-duplicates may differ
_BANDS = NEAR + 1  # of which one is equal in both, where NEAR bits differ


def split_pictures(
    pictures: Sequence[Picture], *, val_share: float, seed: int
) -> tuple[list[Picture], list[Picture], list[str]]:
    """(training images, validation images, what was done). ProblemError where there are not two
    images that differ."""
    of: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        of[picture.split].append(picture)
    train, val, test = of["train"] + of[""], of["val"], of["test"]
    lines = []
    same = bool(train and val) and _files(train) == _files(val)
    if same:
        lines.append("warning: train and val are the same images: split anew")
    if test:
        lines.append(f"test images left out: {len(test)}")
    if train and val and not same:
        return train, val, [*lines, "split of the source kept"]
    whole = train or val or test
    if whole is test:
        lines = ["only test images: split as others"]
    _refuse_repeated(whole)
    train, val, together = _drawn(whole, val_share, seed)
    lines.append(f"split by lot (seed {seed}, {val_share:g} for validation)")
    if together:
        lines.append(f"near-duplicates kept on one side: {together} images")
    return train, val, lines


def _files(pictures: Sequence[Picture]) -> set[str]:
    return {os.path.realpath(picture.path) for picture in pictures}


def _refuse_repeated(pictures: Sequence[Picture]) -> None:
    seen: set[str] = set()
    for picture in pictures:
        file = os.path.realpath(picture.path)
        if file in seen:
            fix = "keep one of its label files"
            raise ProblemError(Problem("has labels in two files", f"image {picture.path}", fix))
        seen.add(file)


def _drawn(
    pictures: Sequence[Picture], val_share: float, seed: int
) -> tuple[list[Picture], list[Picture], int]:
    """Groups of near-duplicates in an order that depends on names and seed; those that fill the
    share go to validation. Also: how many images have a near-duplicate."""
    groups = near_duplicates([picture_hash(picture) for picture in pictures])
    if len(groups) < 2:
        what = f"has {len(pictures)} images that do not differ, so that none is left to validate on"
        raise ProblemError(Problem(what, "the source", "add images"))
    # far larger groups than the share stay in training
    random.Random(seed).shuffle(groups)
    wanted = max(1, round(val_share * len(pictures)))
    largest = max(map(len, groups))
    chosen: set[int] = set()
    for group in groups:
        room = wanted - len(chosen)
        if room > 0 and (len(group) <= room or not chosen) and len(group) < max(2, largest):
            chosen |= set(group)
    if not chosen:  # groups of one size, larger than one
        chosen = set(groups[0])
    train = [picture for at, picture in enumerate(pictures) if at not in chosen]
    together = sum(len(group) for group in groups if len(group) > 1)
    return train, [pictures[at] for at in sorted(chosen)], together


def picture_hash(picture: Picture) -> np.ndarray:
    """(SIDE, SIDE) bool: the difference hash of a picture. ProblemError where it cannot be read."""
    grey = cv2.cvtColor(read_annotated(picture.path, picture.size), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    return small[:, :-1] > small[:, 1:]


def near_duplicates(hashes: Sequence[np.ndarray]) -> list[list[int]]:
    """Positions in groups: two whose hashes differ in at most NEAR bits are in one group, and so
    are those that a chain of such pairs joins."""
    bits = np.stack(hashes).reshape(len(hashes), -1)
    parent = list(range(len(bits)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for band in np.array_split(np.packbits(bits, axis=1), _BANDS, axis=1):
        alike: dict[bytes, list[int]] = defaultdict(list)
        for at, part in enumerate(band):
            alike[part.tobytes()].append(at)
        for places in alike.values():
            for number, at in enumerate(places[:-1]):
                others = np.array(places[number + 1 :])
                near = others[(bits[others] != bits[at]).sum(1) <= NEAR]
                for other in near.tolist():
                    parent[root(other)] = root(at)
    groups: dict[int, list[int]] = defaultdict(list)
    for at in range(len(bits)):
        groups[root(at)].append(at)
    return list(groups.values())
