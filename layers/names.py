"""Did-you-mean: the nearest valid names to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """'; did you mean a or b?' for up to three close choices, or '' where nothing is close."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    if not close:
        lowered = {choice.lower(): choice for choice in choices}
        close = [
            lowered[hit]
            for hit in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)
        ]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> str:
    """One line for a name that is not known: what was asked for, the nearest names, or all of them
    where there are few."""
    choices = sorted(choices)
    hint = did_you_mean(name, choices)
    if not hint and len(choices) <= 12:
        hint = f"; known: {', '.join(choices)}"
    return f"no {kind} is called {name!r}{hint}"
