"""Values that no file should hold, and places to put them."""

from __future__ import annotations

import copy
import random
from typing import Any

WRONG: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2.5,
    99,
    10**30,
    -(10**9),
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x",
    "NaN",
    "../..",
    "a" * 300,
    [],
    [1, "a", None],
    [[[[[[]]]]]],
    {},
    {"x": 1},
    {0: {0: 0}},
    b"\x00\xff",
)


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The path of every entry of nested dicts and lists."""
    found = []
    entries = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, (list, tuple))
        else ()
    )
    for key, value in entries:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def changed(content: Any, path: tuple, change: Any) -> Any:
    """A copy of nested dicts and lists in which change(mapping or list, key) was done at a path;
    the values themselves are shared."""
    if len(path) == 1:
        new = copy.copy(content) if isinstance(content, dict) else list(content)
        change(new, path[0])
    else:
        new = copy.copy(content) if isinstance(content, dict) else list(content)
        new[path[0]] = changed(content[path[0]], path[1:], change)
    return tuple(new) if isinstance(content, tuple) else new


def damaged(content: Any, rng: random.Random, wrong: tuple[Any, ...] = WRONG) -> Any:
    """A copy with one entry removed, renamed or replaced, a place at a depth drawn first: most
    entries lie in long lists."""
    depths: dict[int, list[tuple]] = {}
    for path in places(content):
        depths.setdefault(len(path), []).append(path)
    path = rng.choice(depths[rng.choice(sorted(depths))])
    kind = rng.choice(("remove", "rename", "replace", "replace", "replace"))
    value = copy.deepcopy(rng.choice(wrong))

    def change(holder: Any, key: Any) -> None:
        if kind == "remove":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[rng.choice(("x", 7, f"{key} "))] = holder.pop(key)
        else:
            holder[key] = value

    return changed(content, path, change)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A copy with some bytes flipped, zeroed, cut off, doubled or added."""
    data = bytearray(content)
    at = rng.randrange(len(data))
    kind = rng.choice(("flip", "flip", "flip", "many", "zero", "cut", "double", "more"))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "many":
        for _ in range(rng.randrange(2, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "zero":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "cut":
        del data[at:]
    elif kind == "double":
        data[at:at] = data[at : at + 200]
    else:
        data += rng.randbytes(64)
    return bytes(data)
