"""Which language a text is in, by fastText."""

from __future__ import annotations

import functools
from typing import Any

from pipeline.common.classifiers import fasttext_line, load_fasttext

CERTAIN = 0.9  # with a lower score for the first characters, the whole text decides
WHOLE_CHARS = 200_000


@functools.cache
def load_model(path: str) -> Any:
    """The fastText language identification model in a file; loaded once. Raises StageError for a damaged one."""
    return load_fasttext(path)


def identify(model: Any, text: str, chars: int) -> tuple[str, float]:
    """(most probable language of a text, its probability, at most 1).

    The first `chars` characters decide where the probability is at least CERTAIN, else the first WHOLE_CHARS do.
    """
    language, score = _best(model, text[:chars])
    if score < CERTAIN and len(text) > chars:
        return _best(model, text[:WHOLE_CHARS])
    return language, score


def _best(model: Any, text: str) -> tuple[str, float]:
    return next(iter(probabilities(model, text, 1, 0.0).items()), ("unknown", 0.0))


def probabilities(model: Any, text: str, count: int, least: float) -> dict[str, float]:
    """The `count` most probable languages of a text that have a probability of `least` or more."""
    # The native call inside `model.predict`: the arrays of the latter cost as much as a short text.
    predictions = model.f.predict(fasttext_line(text) + "\n", count, least, "strict")
    return {label.removeprefix("__label__"): min(1.0, score) for score, label in predictions}
