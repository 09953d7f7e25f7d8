"""What the doctor finds: problems, each with how grave it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from layers.problems import Problem, number_of, printable

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = get_args(Level)
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Finding:
    """level: 'error' stops training, 'warning' costs accuracy, 'note' is worth knowing."""

    level: Level
    problem: Problem

    def __str__(self) -> str:
        return str(self.problem)


class Findings:
    """Collects findings; iterates over them, the gravest first."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def error(self, what: str, where: object = "", fix: str = "") -> None:
        self.add("error", Problem(what, str(where), fix))

    def warning(self, what: str, where: object = "", fix: str = "") -> None:
        self.add("warning", Problem(what, str(where), fix))

    def note(self, what: str, where: object = "") -> None:
        self.add("note", Problem(what, str(where)))

    def add(self, level: Level, *problems: Problem) -> None:
        self._found += [Finding(level, problem) for problem in problems]

    def take(self, others: Findings) -> None:
        """Adds what others found, in the order it was found."""
        self._found += others._found

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self._found if finding.level == "error"]

    def to_lists(self) -> list[list[str]]:
        """Plain data, in the order it was found; of_lists() reads it."""
        return [[f.level, f.problem.what, f.problem.where, f.problem.fix] for f in self._found]

    @classmethod
    def of_lists(cls, lists: list[list[Any]]) -> Findings:
        found = cls()
        for level, *problem in lists:
            found.add(level, Problem(*problem))
        return found

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self._found, key=lambda finding: LEVELS.index(finding.level)))


def listing(found: Iterable[Finding]) -> str:
    """All findings as text: statement and fix on lines of their own, then the counts."""
    found = list(found)
    lines = []
    for finding in found:
        mark = "ERROR" if finding.level == "error" else finding.level
        lines.append(f"{mark:<7}  {printable(finding.problem.statement)}")
        lines += [f"         fix: {printable(finding.problem.fix)}"] if finding.problem.fix else []
    counts = {level: sum(f.level == level for f in found) for level in LEVELS}
    lines.append(", ".join(number_of(count, level) for level, count in counts.items()))
    return "\n".join(lines)
