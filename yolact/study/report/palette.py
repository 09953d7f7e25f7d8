"""The colours of reports, in light and dark, and how verdicts look: a colour, a sign and a marker
each, so that none rests on colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from yolact.study.statistics.comparison import FAILED
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, IDENTICAL, NONE, UNDECIDED, WORSE

# {name: (light, dark)}; figures are drawn in light, and the page puts variables in their place
COLOURS = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1b1f24", "#e6e9ed"),
    "quiet": ("#5a626b", "#a4adb7"),
    "line": ("#9a9a9a", "#6f7780"),
    "rule": ("#dfe2e6", "#323941"),
    "panel": ("#f4f5f7", "#1d232a"),
    "margin": ("#7f8fa6", "#62748f"),
    "warning": ("#9c3d00", "#ffab73"),
    "better": ("#0064c2", "#62b0ff"),
    "worse": ("#ad4600", "#ff9442"),
    "equivalent": ("#35246f", "#e9dcff"),
    "undecided": ("#666b70", "#9aa1a8"),
    "arm1": ("#0072b2", "#4db5ea"),
    "arm2": ("#d55e00", "#f58a3c"),
    "arm3": ("#009e73", "#2fc89c"),
    "arm4": ("#b8558f", "#e394c2"),
    "arm5": ("#3d2fd9", "#7d83ff"),
    "arm6": ("#258fc4", "#8fd0f5"),
    "arm7": ("#a07400", "#d9ab2f"),
    "arm8": ("#8c564b", "#c2968c"),
    "arm9": ("#5f8f00", "#9cc93f"),
    "arm10": ("#d63b70", "#f583a8"),
}
PHOTO = {  # outlines on photographs, by kind of error, light or dark alike
    "right": "#62b0ff",
    "wrong-place": "#ffd23f",
    "class": "#e394c2",
    "duplicate": "#b78ae6",
    "background": "#ff7a2f",
}
ARMS = [name for name in COLOURS if name.startswith("arm")]
LIGHT = {name: pair[0] for name, pair in COLOURS.items()}
LINES = [LIGHT[name] for name in ARMS]  # for figures beside those of reports
INK, PAPER, GREY = LIGHT["ink"], LIGHT["paper"], LIGHT["line"]


@dataclass(frozen=True)
class Look:
    """A verdict's: name of its colour, the sign before its word, the marker of its dot
    (matplotlib's)."""

    colour: str
    sign: str
    marker: str

    @property
    def light(self) -> str:
        return LIGHT[self.colour]


VERDICTS = {
    BETTER: Look("better", "▲", "^"),
    WORSE: Look("worse", "▼", "v"),
    EQUIVALENT: Look("equivalent", "■", "s"),
    UNDECIDED: Look("undecided", "○", "o"),
    IDENTICAL: Look("undecided", "≡", "_"),
    NONE: Look("undecided", "–", "."),
    FAILED: Look("warning", "✕", "x"),
}


def css() -> str:
    """The colours as variables: light, dark where the reader's system is, and what the page's own
    switch chose."""
    light, dark = (
        ";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1)
    )
    verdicts = "".join(
        f".verdict.{css_class(name)}{{color:var(--{look.colour})}}"
        f'.verdict.{css_class(name)}::before{{content:"{look.sign} "}}'
        for name, look in VERDICTS.items()
    )
    outlines = "".join(
        f".photo .{kind}{{stroke:{colour}}}.instance.{kind}{{border-left-color:{colour}}}"
        for kind, colour in PHOTO.items()
    )
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}{verdicts}{outlines}"
    )


def css_class(verdict: str) -> str:
    return verdict.replace(" ", "-")
