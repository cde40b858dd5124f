"""Options of the rows of tokens, and of the text that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.config import bad_language, bad_regex, option

MOST_ROW_TOKENS = 2**20


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Text to train on or to measure with: a corpus, and perhaps only some of its sites."""

    language: str = option(doc="language of the shards, such as fr")
    urls: str | None = option(None, "only documents whose URL matches this regular expression")
    corpus: str | None = option(
        None, "folder of another corpus laid out as {language}/{split}-*.arrow; null: this one's", path=True
    )
    held_out: bool = option(
        False, "to measure with alone: all its documents are held out, and no other domain of its corpus has them"
    )
    rows: int | None = option(None, "at most so many rows of a split, evenly spread; null: all", low=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        if problem := bad_language(self.language):
            yield "language", problem
        if self.urls and (why := bad_regex(self.urls)):
            yield "urls", why
        if self.corpus and not Path(self.corpus).exists():
            cure = "make it by its own config's `snakemake corpus`, or give one that exists"
            yield "corpus", f"no such folder: {self.corpus}; {cure}"
        if self.held_out and not self.urls and not self.corpus:
            yield "held_out", "give urls too, else nothing of the language is left to train on"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokenizer and the packed rows."""

    vocabulary: int = option(4096, "entries of the byte-level BPE trained here", low=300, high=2**20)
    domain: str = option("en", "the domain whose text trains the tokenizer")
    row_tokens: int = option(
        128, "tokens of a row that are predicted (T)", unit="tokens", low=8, high=MOST_ROW_TOKENS
    )
