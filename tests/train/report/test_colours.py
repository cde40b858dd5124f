"""Text and marks are seen on their ground in both themes (WCAG 2.2, 1.4.3, 1.4.11); a colour means one thing."""

import re
from itertools import combinations

import numpy as np
import pytest
from conftest import ROOT

from train.report.colours import AMOUNTS, BLACK_FROM, LANGUAGES, METHODS, OUTCOMES, THEMES, text_colours

MARKS = [*(colour for colour, _ in METHODS.values()), *LANGUAGES, *OUTCOMES.values()]
# Of linear sRGB to Oklab.
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def luminance(channels):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(luminance(rgb(c) if isinstance(c, str) else c) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # just too pale, by its own examples


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", ["ground", "card"])
def test_text_has_a_contrast_of_4_5_and_marks_of_3(theme, ground):
    on = THEMES[theme][ground]
    assert min(contrast(THEMES[theme][text], on) for text in ("ink", "soft")) >= 4.5
    assert min(contrast(mark, on) for mark in MARKS) >= 3


def test_numbers_are_read_on_the_colour_of_their_amount():
    low, high = map(rgb, AMOUNTS)
    for percent in range(101):
        share = percent / 100
        cell = [a + share * (b - a) for a, b in zip(low, high, strict=True)]
        assert contrast(cell, "#000000" if share > BLACK_FROM else "#ffffff") >= 4.5


def perceived(colour):
    """Oklab, in which equal distances look about equally far apart (Ottosson 2020)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    cones = np.cbrt(CONES @ linear)
    return OPPONENTS @ cones


def test_colours_of_two_meanings_are_told_apart():
    apart = {pair: np.linalg.norm(perceived(pair[0]) - perceived(pair[1])) for pair in combinations(MARKS, 2)}
    assert min(apart.values()) > 0.08, min(apart, key=apart.get)
    methods = [colour for colour, _ in METHODS.values()]
    assert min(apart[pair] for pair in combinations(methods, 2)) > 0.12


def test_a_domain_has_the_colour_of_its_language():
    colours = text_colours(["en", "fr"], {"en-held": "en", "fr": "fr", "en-docs": "en", "de": "de"})
    assert colours.domains["en-held"] == colours.domains["en-docs"] == colours.languages["en"]
    assert len({colours.domains[name] for name in ("en-held", "fr", "de")}) == 3


def test_no_colour_is_defined_elsewhere():
    """Of the page, its charts and the pictures of the same runs."""
    files = [path for room in ("train", "benchmarks") for path in (ROOT / room).rglob("*")]
    found = {
        path.name
        for path in files
        if path.suffix in {".py", ".j2", ".js"} and re.search(r"#[0-9A-Fa-f]{6}\b", path.read_text("utf-8"))
    }
    assert found == {"colours.py"}
