"""A figure as PNG, and as SVG inside a page: its colours are the page's variables, and what belongs
to an arm or a run says so."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from markupsafe import Markup, escape  # noqa: E402
from matplotlib.artist import Artist  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from yolact.study.report.palette import INK, LIGHT, LINES  # noqa: E402

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text: small, and a reader can search it
        "axes.prop_cycle": plt.cycler(color=LINES),
        "text.parse_math": False,  # a label with $ in it is a label
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }
)
_NAMES = {colour: name for name, colour in LIGHT.items()}
_HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
_XMLNS = re.compile(r' xmlns(:xlink)?="[^"]*"| version="[^"]*"')
_SIZE = re.compile(r'<svg width="([\d.]+)pt" height="[\d.]+pt"')
_MARK = re.compile(r'<g id="arm:(\d+):(\d*):\d+">')
_OTHER_IDS = re.compile(r'<g id="[^"]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"(font: [^;\"]*px)[^;\"]*")
_NUMBERS = count()


@contextmanager
def of_arm(axes: Axes, arm: int) -> Iterator[None]:
    """Marks what is drawn inside as an arm's, counted from 0."""
    before = set(axes.get_children())
    yield
    for artist in axes.get_children():
        if artist not in before and artist.get_gid() is None:
            artist.set_gid(f"arm:{arm}::{next(_NUMBERS)}")


def of_run(artist: Artist, arm: int, seed: int) -> None:
    """Marks the dot of a run."""
    artist.set_gid(f"arm:{arm}:{seed}:{next(_NUMBERS)}")


def drawn(figure: Figure) -> Figure:
    """A figure that is whole: pyplot forgets it, and it can still be printed."""
    plt.close(figure)
    return figure


def png(figure: Figure, dpi: int = 130) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def svg(figure: Figure, title: str, salt: str) -> Markup:
    """The element for a page. salt: tells its inner names from those of the page's other
    figures."""
    content = io.StringIO()
    with plt.rc_context({"svg.hashsalt": salt}):
        figure.savefig(content, format="svg")
    text = _XMLNS.sub("", _HEAD.sub("", content.getvalue())).replace("xlink:href", "href")
    text = _MARK.sub(_marked, text)
    text = _OTHER_IDS.sub("<g", text)
    text = _COLOUR.sub(
        lambda found: f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0], text
    )
    text = _FAMILY.sub(r"\1 sans-serif", text)
    head = rf'<svg role="img" aria-label="{escape(title)}" style="width:\1pt" '
    # the text is matplotlib's, which escapes labels
    return Markup(_SIZE.sub(head, text, count=1).strip())


def _marked(found: re.Match) -> str:
    seed = f' data-seed="{found[2]}" tabindex="0"' if found[2] else ""
    return f'<g data-arm="{found[1]}"{seed}>'
