"""The report's colours: one colour means one thing on the whole page, and in every picture of the same runs.

WCAG 2.2 asks for a contrast of 4.5 for text and of 3 for marks. The colour of a mark is the same on light and on
dark ground, and has 3 on both: its luminance lies in a narrow band, so that colours differ in hue, and marks in
shape and dashes too. Text in a chart, and marks without a meaning of their own, have the ink of the theme.
tests/train/report/test_colours.py measures all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Of the page and of its charts; `card` is what charts and tables stand on.
THEMES = {
    "light": {"ground": "#ffffff", "card": "#f6f7f8", "ink": "#1b1f24", "soft": "#59636e", "line": "#d9dee3"},
    "dark": {"ground": "#14171a", "card": "#1d2226", "ink": "#e8ebee", "soft": "#9aa5b0", "line": "#343b42"},
}
# Colour and shape. Whoever sees no red or no green tells the colours apart by their lightness, and by the shapes.
METHODS = {
    "backbone": ("#808080", "diamond"),
    "finetune": ("#C43F00", "square"),
    "lora": ("#BC8300", "triangle-down"),
    "adapter": ("#0077BD", "triangle-up"),
    "neutral": ("#009E73", "circle"),
}
LANGUAGES = ("#D0499A", "#7A70E6", "#7B8C00", "#A5694F")
OUTCOMES = {"kept": "#008F9C", "dropped": "#E0415A", "failed": "#AF55D5"}
# From nothing to the most, where a colour is an amount; and the share of the way at which black is read better on
# it than white.
AMOUNTS = ("#1f2a36", "#dfe9f3")
BLACK_FROM = 0.4


@dataclass(frozen=True)
class TextColours:
    """The colours of the languages, and of the domains, each that of its language."""

    languages: Mapping[str, str]
    domains: Mapping[str, str]


def text_colours(languages: Iterable[str], language_of: Mapping[str, str]) -> TextColours:
    """languages: in the order of their colours; a fifth has that of the first. language_of: by domain.

    >>> text_colours(["en", "fr"], {"en-held": "en", "fr": "fr"}).domains
    {'en-held': '#D0499A', 'fr': '#7A70E6'}
    """
    names = dict.fromkeys([*languages, *language_of.values()])
    colours = {name: LANGUAGES[i % len(LANGUAGES)] for i, name in enumerate(names)}
    return TextColours(colours, {domain: colours[language] for domain, language in language_of.items()})
