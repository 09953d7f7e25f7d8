"""A figure of a report with its words, as the files beside the page and the page itself have it."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """figure: drawn, or a JPEG's bytes; None where it could not be made, and the caption says
    why."""

    key: str
    title: str
    figure: Figure | bytes | None
    caption: str

    @property
    def file(self) -> str:
        """Its name beside the page."""
        return f"{self.key}.{'jpg' if isinstance(self.figure, bytes) else 'png'}"
