"""What is wrong, where, and what to do: three fields that travel apart and meet only in print.

Code that needs a part takes the field. Nobody splits the sentence: a folder may hold ": " or ". ".
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

LONGEST = 1500  # characters of a message
# classes of characters that turn the direction of those behind them
_TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 6
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80
_BRIEF.maxlevel = 3


def shown(value: object) -> str:
    """repr() of a value of a file, in few words: long lists and texts are cut."""
    return _BRIEF.repr(value)


def printable(text: str, most: int = LONGEST) -> str:
    """The text as a terminal or a table may get it: what is no printable character (line breaks,
    escape sequences, marks that turn the direction, halves of characters) as its escape, and the
    middle of more than `most` characters left out."""
    if len(text) > most:
        text = f"{text[: 2 * most // 3]} ... {text[-(most // 3) :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_line(text: str) -> bool:
    """Whether a text may stand in a line of a table: no line breaks, no control characters, no
    marks that turn the direction, no halves of characters."""
    return text.isprintable() or not any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(c) in _TURNS
        for c in text
    )


def number_of(count: int, word: str) -> str:
    """'1 image', '2 images', '0 classes': a number with its noun."""
    ending = "" if count == 1 else "es" if word.endswith("s") else "s"
    return f"{count} {word}{ending}"


def few(items: Sequence[Any], most: int = 3) -> str:
    """The first of many items, for a message."""
    some = ", ".join(printable(str(item), 120) for item in items[:most])
    return some + (", ..." if len(items) > most else "")


class DataWarning(UserWarning):
    """Something in a user's files that costs accuracy; the programs print it as one line."""


@dataclass(frozen=True)
class Problem:
    """where: the file, folder or setting at fault ("image a.png"). what: what it is, has or lacks
    ("is empty"). fix: what to do ("copy it again"). Both `where` and `fix` may be ''.
    """

    what: str
    where: str = ""
    fix: str = ""

    @property
    def statement(self) -> str:
        """The problem without its fix."""
        return f"{self.where} {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.statement}: {self.fix}" if self.fix else self.statement

    def at(self, place: str) -> Problem:
        """The same problem, told from farther away: "screws.json: annotation 7"."""
        return replace(self, where=f"{place}: {self.where}" if self.where else place)


class ProblemError(ValueError):
    """A user's mistake as an error; `problems` keeps the fields of each."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)  # as arguments, so that a pickled error keeps its fields
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems))
