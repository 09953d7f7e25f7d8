"""Whether the colours of reports can be read and told apart: WCAG 2 contrast, and CIE Lab distance
in normal sight and in deuteranopia (Machado et al., 2009), light and dark."""

import re
from itertools import combinations

import numpy as np
import pytest

from yolact.study.report.page.render import _file
from yolact.study.report.palette import ARMS, COLOURS, VERDICTS, css

# words stand in these, on paper and on panels
TEXT = ("ink", "quiet", "warning", "better", "worse", "equivalent", "undecided")
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)
WHITE = TO_XYZ.sum(1)


def linear(colour):
    """(3,) linear RGB of #rrggbb."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, two):
    """WCAG 2: from 1 to 21."""
    high, low = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def lab(colour, sight=None):
    rgb = linear(colour) if sight is None else np.clip(sight @ linear(colour), 0, 1)
    ratio = TO_XYZ @ rgb / WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one, two, sight=None):
    return float(np.linalg.norm(lab(one, sight) - lab(two, sight)))


def test_the_formulas_are_the_standards():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # WCAG's own example
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert apart("#ff0000", "#00a000", DEUTERANOPIA) < apart("#ff0000", "#00a000") / 3


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_words_have_a_contrast_of_4_5(name, ground, dark):
    assert contrast(COLOURS[name][dark], COLOURS[ground][dark]) >= 4.5


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("name", ARMS)
def test_lines_of_arms_have_a_contrast_of_3(name, dark):
    """WCAG 1.4.11, of what is no text."""
    assert contrast(COLOURS[name][dark], COLOURS["paper"][dark]) >= 3


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("sight", [None, DEUTERANOPIA], ids=["normal", "deuteranopia"])
def test_verdicts_are_told_apart(dark, sight):
    names = ("better", "worse", "equivalent", "undecided")
    for one, two in combinations(names, 2):
        assert apart(COLOURS[one][dark], COLOURS[two][dark], sight) > 20, (one, two)


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("sight", [None, DEUTERANOPIA], ids=["normal", "deuteranopia"])
def test_the_first_arms_are_told_apart(dark, sight):
    """Of a study of usual size: the baseline and five arms. Beyond, names stand beside."""
    for one, two in combinations(["ink", *ARMS[:5]], 2):
        assert apart(COLOURS[one][dark], COLOURS[two][dark], sight) > 12, (one, two)


def test_no_verdict_rests_on_colour():
    looks = [look for name, look in VERDICTS.items()]
    assert len({look.sign for look in looks}) == len({look.marker for look in looks}) == len(looks)


def test_the_page_has_no_colours_of_its_own():
    """But black and white behind photographs, and shadows."""
    words = _file("page.css") + _file("page.js") + _file("images.js")
    own = set(re.findall(r"#[0-9a-f]{3,8}\b(?![-\w])", words)) - {"#000", "#fff", "#0004"}
    assert not own
    assert all(f"--{name}:{pair[0]}" in css() for name, pair in COLOURS.items())
