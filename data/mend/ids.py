"""EntryIds of one type, found by references of another: 7, 7.0, "7", or whatever a database
exports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from data.rules import Id, is_id


class EntryIds:
    """New ids of the entries of a list, which references find by the old ones.

    values: the old ids. same_as: for each entry the position of the one that stands for it, its own
    where it stands for itself. unfit: those whose id is neither a number nor text.
    """

    def __init__(self, values: Sequence[Any], same_as: Sequence[int]) -> None:
        self._exact: dict[str, set[int]] = {}
        self._loose: dict[str, set[int]] = {}
        for value, position in zip(values, same_as):
            if value is not None:
                self._exact.setdefault(_exact(value), set()).add(position)
                self._loose.setdefault(_loose(value), set()).add(position)
        self.unfit = {at for value, at in zip(values, same_as) if not is_id(value)}
        self._kept = sorted(set(same_as))
        self._new = dict(zip(self._kept, _of_one_type([values[place] for place in self._kept])))

    def positions(self, reference: Any) -> set[int]:
        """The entries that a reference may mean: one, none, or several that share an id."""
        if reference is None:
            return set()
        return self._exact.get(_exact(reference)) or self._loose.get(_loose(reference), set())

    def __getitem__(self, position: int) -> Id:
        """The new id of an entry that stands for itself."""
        return self._new[position]

    def __iter__(self) -> Iterator[int]:
        """The entries that stand for themselves, in order."""
        return iter(self._kept)


def _exact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _loose(value: Any) -> str:
    if not is_id(value):
        return _exact(value)
    return str(int(value)) if isinstance(value, float) else str(value)


def _of_one_type(values: list[Any]) -> list[Id]:
    """The ids themselves where they are of one type and all differ; else as numbers, as text, or
    counted from 1, whichever is the first that can be."""
    texts = [_loose(value) for value in values]
    if all(map(is_id, values)) and len(set(texts)) == len(texts):
        if {*map(type, values)} in ({int}, {str}, set()):
            return values
        numbers = [text for text in texts if _is_whole(text)]
        return [int(text) for text in numbers] if len(numbers) == len(texts) else [*texts]
    return [*range(1, len(values) + 1)]


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20 and str(int(text)) == text


def counted(ids: Sequence[Any]) -> list[Id]:
    """EntryIds that all differ: those that are whole numbers or text of one type stay where they
    come first, and the next free numbers take the place of the others."""
    if all(isinstance(key, str) for key in ids) and len({*ids}) == len(ids):
        return [*ids]
    own: set[int] = {key for key in ids if type(key) is int}
    free = max(own, default=0)
    new: list[Id] = []
    used: set[int] = set()
    for key in ids:
        if type(key) is not int or key in used:
            free += 1
            key = free
        used.add(key)
        new.append(key)
    return new
