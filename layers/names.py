"""Did-you-mean: the nearest valid names to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str], *, most: int = 0) -> str:
    """'; did you mean a or b?' for up to three close choices, whatever their case. Where nothing is
    close: '; known: a, b' of at most `most` choices, and '' of more."""
    choices = list(choices)
    lowered = {choice.lower(): choice for choice in choices}
    close = [lowered[hit] for hit in difflib.get_close_matches(name.lower(), lowered, n=3)]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    few = most > 0 and len(choices) <= most
    return f"; known: {', '.join(choices) or 'none'}" if few else ""


def unknown_name(kind: str, name: str, choices: Iterable[str], *, most: int = 12) -> str:
    """One line for a name that is not known: what was asked for, the nearest names, or all of them
    where there are at most `most`."""
    return f"no {kind} is called {name!r}{did_you_mean(name, sorted(choices), most=most)}"
