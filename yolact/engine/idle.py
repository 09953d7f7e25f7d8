"""Steps in which nothing is learned: no image holds an instance that an anchor takes."""

from __future__ import annotations

from yolact.engine.step import ReadStep

MOST = 50  # such steps in a row before training says so


class IdleSteps:
    """Counts steps in a row whose box and mask losses are exactly 0, as without a positive."""

    def __init__(self, iterations: int) -> None:
        self.limit = max(1, min(MOST, iterations))
        self.count = 0

    def warning(self, step: ReadStep) -> str:
        """A line where this step completes a row of self.limit, else ''."""
        values = [step.losses[name] for name in ("box", "mask") if name in step.losses]
        idle = bool(values) and not step.problem and not any(values)
        self.count = self.count + 1 if idle else 0
        if self.count != self.limit:
            return ""
        return (
            f"warning: {self.count} steps in a row, to step {step.step}, without an instance to "
            "learn from: box and mask losses are 0; scripts/check_data.py says what the "
            "annotations lack"
        )
