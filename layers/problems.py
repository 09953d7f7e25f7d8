"""What is wrong, where, and what to do: three fields that travel apart and meet only in print.

Code that needs a part takes the field. Nobody splits the sentence: a folder may hold ": " or ". ".
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """what: the fault, in words. where: the file, folder or setting that has it, or ''. fix: what
    to do, or ''."""

    what: str
    where: str = ""
    fix: str = ""

    @property
    def statement(self) -> str:
        """The problem without its fix."""
        return f"{self.where}: {self.what}" if self.where else self.what

    def __str__(self) -> str:
        return f"{self.statement}: {self.fix}" if self.fix else self.statement

    def at(self, where: str) -> Problem:
        """The same problem, found at `where`."""
        return replace(self, where=where)


class ProblemError(ValueError):
    """A user's mistake as an error; `problems` keeps the fields of each."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)  # as arguments, so that a pickled error keeps its fields
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems))
