"""What mending does, a kind at a time."""

from __future__ import annotations

from layers.problems import few

NAMED, LISTED = 3, 20  # cases that a line names, of what was put right and of what was left out


class Notes:
    """What was put right, then what was left out, each in the order of the first case."""

    def __init__(self) -> None:
        self._done: dict[str, list[str]] = {}
        self._left_out: dict[str, list[str]] = {}

    def done(self, what: str, case: str) -> None:
        self._done.setdefault(what, []).append(case)

    def left_out(self, what: str, case: str) -> None:
        self._left_out.setdefault(what, []).append(case)

    def lines(self) -> list[str]:
        """A line a kind: "boxes computed from their masks: 2 (annotation 3, annotation 4)"."""
        done = [f"{what}: {len(cases)} ({few(cases, NAMED)})" for what, cases in self._done.items()]
        return done + [
            f"LEFT OUT {what}: {len(cases)} ({few(cases, LISTED)})"
            for what, cases in self._left_out.items()
        ]
