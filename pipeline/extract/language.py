"""Which language a text is in, by fastText."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.common.classifiers import LID_176, fasttext_line, load_fasttext, read_labels
from pipeline.common.errors import StageError
from pipeline.common.language_codes import iso_code, unknown_label
from pipeline.common.normal_form import normal_form

CERTAIN = 0.9  # with a lower score for some pieces of it, the whole text decides
WHOLE_CHARS = 200_000
PIECES, PIECE_CHARS = 8, 50  # pieces of a text, of so many characters at least
GUESSES = 12  # more languages than a group has
CLOSE = 0.3  # a language with less of the probability of the best one of its group is told apart from it
WHOLE_GROUP = ("sh", "hbs_Latn")  # Serbo-Croatian: these say a group, but not which language of it


class Wanted(NamedTuple):
    """The languages to keep, as the model labels them.

    `groups`: for each that the model cannot tell from others, itself and these. `possible`: all of them, and
    `codes` their ISO codes.
    """

    groups: Mapping[str, frozenset[str]]
    possible: frozenset[str]
    codes: frozenset[str]


@functools.cache
def load_model(path: str) -> Any:
    """The fastText language identification model in a file; loaded once. Raises StageError for a damaged one."""
    return load_fasttext(path)


def check_languages(languages: Collection[str], path: str) -> None:
    """Raises StageError for a language that the model in a file has no label for, so that it never finds it."""
    labels = set(labels_of(path))
    if problems := [unknown_label(language, labels) for language in languages if language not in labels]:
        raise StageError(f"extract.languages: {'; '.join(problems)} ({path})")


def labels_of(path: str | None) -> Collection[str]:
    """The labels of the model in a file; None: of lid.176. Raises StageError for a damaged one."""
    return read_labels(path) if path else LID_176


def wanted_languages(model: Any, languages: Collection[str], groups: Sequence[Sequence[str]]) -> Wanted:
    """The languages with the labels of a model that are in one of the groups with them, by their ISO codes."""
    labels = [label.removeprefix("__label__") for label in model.get_labels()]
    close: dict[str, frozenset[str]] = {}
    for group in groups:
        codes = set(map(iso_code, group))
        members = frozenset(label for label in labels if iso_code(label) in codes)
        close |= {language: members for language in languages if language in members and len(members) > 1}
    possible = frozenset(languages).union(*close.values())
    return Wanted(close, possible, frozenset(map(iso_code, possible)))


def identify(
    model: Any, text: str, chars: int, groups: Mapping[str, frozenset[str]] | None = None
) -> tuple[str, float]:
    """(most probable language of a text, its probability, at most 1); `groups` are those of Wanted.

    Pieces of `chars` characters in all, from the beginning to the end of the text, decide where the probability is
    at least CERTAIN, else the first WHOLE_CHARS do.
    """
    language, score = _best(model, _pieces(text, chars), groups or {})
    if score < CERTAIN and len(text) > chars:
        return _best(model, text[:WHOLE_CHARS], groups or {})
    return language, score


def _pieces(text: str, chars: int) -> str:
    """Pieces of equal size from all over a text; all of a text of up to `chars` characters.

    >>> _pieces("a" * 500 + "b" * 500, 100) == "a" * 50 + " " + "b" * 50
    True
    """
    if len(text) <= chars:
        return text
    count = max(2, min(PIECES, chars // PIECE_CHARS))
    size = chars // count
    starts = (number * (len(text) - size) // (count - 1) for number in range(count))
    return " ".join(text[start : start + size] for start in starts)


def _best(model: Any, text: str, groups: Mapping[str, frozenset[str]]) -> tuple[str, float]:
    """The most probable language and its probability; for one of a group, that of the group.

    It is the most probable *wanted* language of the group, unless the model can tell it from the best one.
    """
    scores = probabilities(model, text, GUESSES if groups else 1, 0.0)
    if not scores:
        return "unknown", 0.0
    best = next(iter(scores))
    shares = {label: sum(scores.get(other, 0.0) for other in group) for label, group in groups.items()}
    own = max(shares, key=lambda label: (shares[label], scores.get(label, 0.0)), default=best)
    if own in shares and shares[own] >= scores[best]:
        inside = max((scores.get(other, 0.0) for other in groups[own] if other not in WHOLE_GROUP), default=0.0)
        if scores.get(own, 0.0) >= CLOSE * inside:
            return own, min(1.0, shares[own])
    return best, scores[best]


def probabilities(model: Any, text: str, count: int, least: float) -> dict[str, float]:
    """The `count` most probable languages of a text that have a probability of `least` or more.

    The model is asked about lower case and composed letters, since it learnt from little else.
    """
    text = normal_form(text.lower())
    # The native call inside `model.predict`: the arrays of the latter cost as much as a short text.
    predictions = model.f.predict(fasttext_line(text) + "\n", count, least, "strict")
    return {label.removeprefix("__label__"): min(1.0, score) for score, label in predictions}
