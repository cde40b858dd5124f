"""Options of extraction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.common.config import MOST_SECONDS, bad_language, option


@dataclass(frozen=True, kw_only=True)
class Extract:
    """HTML to text, and the language of each page."""

    languages: list[str] = option(["en", "fr", "de"], "languages to keep, as the language model labels them")
    language_model: str | None = option(
        None, "a fastText language identification model; null: lid.176.ftz, fetched", exists=True
    )
    language_min_score: float = option(0.5, "drop pages whose language is less probable", low=0, high=1)
    language_chars: int = option(
        1000,
        "characters, in pieces from all over the text, that decide its language; all of it where they leave doubt",
        low=100,
    )
    language_groups: list[list[str]] = option(
        [["hr", "bs", "sr", "sh"], ["nb", "nn", "no"], ["id", "ms"]],
        "languages that models cannot tell apart, by ISO codes or labels: the sum of their probabilities counts, "
        "and the page is in the most probable of those wanted",
    )
    cascade: bool = option(
        True, "guess the language from the raw page first, and extract only where a wanted one is possible"
    )
    cascade_min_score: float = option(
        0.02, "probability in the guess from which on a wanted language is possible", low=0.001, high=1
    )
    page_seconds: int = option(
        10, "processor time that a page may take to extract", unit="seconds", low=1, high=MOST_SECONDS
    )
    min_chars: int = option(200, "drop pages with less text", unit="characters", low=1)
    max_html_bytes: int = option(
        10_000_000, "drop longer pages; of plain text, longer lines and rows", unit="bytes", low=1000
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for number, language in enumerate(self.languages):
            if problem := bad_language(language):
                yield f"languages[{number}]", problem
            elif language in self.languages[:number]:
                yield f"languages[{number}]", f"{language} stands there twice; take one away"
