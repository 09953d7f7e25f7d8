"""What is wrong, where, and what to do: three fields that travel apart and meet only in print.

Code that needs a part takes the field. Nobody splits the sentence: a folder may hold ": " or ". ".
"""

from __future__ import annotations

from dataclasses import dataclass, replace


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
