"""What the filter rules measure in a document, in any script. Sources: those of the rules, in `filters.py`."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.corpus.sentences import (
    LETTERS,
    has_line_words,
    is_short,
    is_terminated,
    marks_of_letters,
    more_letters,
    proper_marks,
    sentences,
)
from pipeline.corpus.words import (
    EASTERN,
    NgramSums,
    hash_ngrams,
    hash_words,
    ngram_sums,
    shortest_runs,
    split_words,
    word_shares,
)

BULLETS = ("•", "‣", "◦", "▪", "*", "-", "–")
ELLIPSES = ("...", "…")
PARAGRAPH_GAP = re.compile(r"\n\s*\n")
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
WORD_LENGTHS = (3, 10)  # Gopher


class Document:
    """A document and what the rules measure in it, each computed once and only when a rule asks."""

    def __init__(self, url: str, text: str, language: str) -> None:
        self.url, self.text, self.language = url, text, language

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not empty, with the marks that their script has."""
        return [line for line in map(str.strip, proper_marks(self.text).split("\n")) if line]

    @cached_property
    def c4_lines(self) -> list[str]:
        """The lines that C4 would keep: with a terminal mark, and not too short."""
        return [
            line
            for line in self.lines
            if is_terminated(line) and not line.endswith(ELLIPSES) and has_line_words(line)
        ]

    @cached_property
    def words(self) -> list[str]:
        """Its words and, in scripts without spaces, pieces of words, as `split_words` gives them."""
        return split_words(self.text)

    @cached_property
    def shares(self) -> np.ndarray | None:
        """How much of a word each is, float64[words]; None, where each is a whole one."""
        shares = word_shares(self.words) if EASTERN.search(self.text) else np.ones(0)
        return shares if shares.min(initial=1) < 1 else None

    @cached_property
    def word_count(self) -> float:
        """Number of words."""
        return len(self.words) if self.shares is None else float(self.shares.sum())

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hash of each word: uint64[words]."""
        return hash_words(self.words)

    @cached_property
    def ngram_sums(self) -> NgramSums:
        """What the hashes of its n-grams are computed from."""
        return ngram_sums(self.hashes)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Characters of each word: int64[words]."""
        return np.fromiter(map(len, self.words), np.int64, len(self.words))


def _share(count: float, total: float) -> float:
    return count / total if total else 0.0


# Measures ------------------------------------------------------------------------------------------


def word_count(document: Document) -> float:
    """Number of words."""
    return document.word_count


def mean_word_length(document: Document) -> float:
    """Mean length of a word, in letters; of words without spaces between them, as in English.

    Where the words would be too short, syllables of Korean count as their letters; where they would be too long,
    vowel signs and other marks, which Hindi needs as letters, do not count in Tamil.
    """
    letters = float(document.lengths.sum())
    if document.shares is not None:
        pieces = document.shares < 1
        letters += float(LETTERS * document.shares[pieces].sum() - document.lengths[pieces].sum())
    shortest, longest = WORD_LENGTHS
    if letters < shortest * document.word_count:
        letters += more_letters("".join(document.words))
    elif letters > longest * document.word_count:
        letters -= marks_of_letters("".join(document.words))
    return _share(letters, document.word_count)


def symbol_ratio(document: Document, symbols: tuple[str, ...]) -> float:
    """Occurrences of the symbols, divided by the number of words; the ellipsis of Chinese is two signs."""
    return _share(sum(map(document.text.replace("……", "…").count, symbols)), document.word_count)


def bullet_lines(document: Document) -> float:
    """Share of the lines that begin with a bullet."""
    return _share(sum(line.startswith(BULLETS) for line in document.lines), len(document.lines))


def ellipsis_lines(document: Document) -> float:
    """Share of the lines that end with an ellipsis."""
    return _share(sum(line.endswith(ELLIPSES) for line in document.lines), len(document.lines))


def alphabetic_words(document: Document) -> float:
    """Share of the text's parts between spaces that have a letter; a lone sign or number has none.

    In scripts without spaces, words take the place of these parts, where they are more.
    """
    parts = [part for line in document.lines for part in line.split()]
    with_letter = sum(part[0].isalpha() or any(map(str.isalpha, part)) for part in parts)
    more = (
        max(0, float(document.shares[document.shares < 1].sum()) - with_letter)
        if document.shares is not None
        else 0
    )
    return _share(with_letter + more, len(parts) + more)


def stop_words(document: Document) -> float:
    """How many of the eight English stop words occur."""
    return len(STOP_WORDS.intersection(document.words))


def repeated(document: Document, parts: str, unit: str) -> float:
    """Share of the lines or paragraphs that occurred before, by number or by characters."""
    pieces = document.lines if parts == "lines" else PARAGRAPH_GAP.split(document.text.strip())
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]  # type: ignore[func-returns-value]
    if unit == "number":
        return _share(len(again), len(pieces))
    return _share(sum(map(len, again)), sum(map(len, pieces)))


def top_ngram(document: Document, size: int) -> float:
    """Share of the words' characters in the most frequent n-gram; 0, where every n-gram occurs only once.

    >>> top_ngram(Document("", "on it on it ok", "en"), 2)
    0.8
    """
    ngrams, sizes = ngrams_of(document, size)
    _, first, counts = np.unique(ngrams, return_index=True, return_counts=True)
    if not len(counts) or counts.max() == 1:
        return 0.0
    top = first[counts == counts.max()].min()
    length = document.lengths[top : top + _at(sizes, top)].sum()
    return _share(float(length * counts.max()), float(document.lengths.sum()))


def repeated_ngrams(document: Document, size: int) -> float:
    """Share of the words' characters in n-grams that occurred before; overlaps count once."""
    ngrams, sizes = ngrams_of(document, size)
    again = np.ones(len(ngrams), bool)
    again[np.unique(ngrams, return_index=True)[1]] = False
    starts = np.flatnonzero(again)
    if not len(starts):
        return 0.0
    covered = np.zeros(len(document.words) + 1, np.int64)
    covered[starts] += 1  # no start occurs more than once, so that plain indexing adds right; ends may
    np.subtract.at(covered, starts + _at(sizes, starts), 1)
    inside = np.cumsum(covered[:-1]) > 0
    return _share(float(document.lengths[inside].sum()), float(document.lengths.sum()))


def ngrams_of(document: Document, size: int) -> tuple[np.ndarray, int | np.ndarray]:
    """The hash of each n-gram of words, uint64[n-grams], and how many words or pieces it has: all, or each.

    A word in pieces has at least as many letters here as one in English: grammar alone repeats shorter runs, such
    as the end of a Japanese sentence.
    """
    if document.shares is None:
        return hash_ngrams(document.ngram_sums, size), size
    pieces = np.minimum(document.shares, document.lengths / LETTERS)
    sizes = shortest_runs(np.where(document.shares < 1, pieces, 1), size)
    return hash_ngrams(document.ngram_sums, sizes), sizes


def _at(sizes: int | np.ndarray, places: Any) -> Any:
    return sizes if isinstance(sizes, int) else sizes[places]


def c4_sentences(document: Document) -> float:
    """Number of sentences in the lines that C4 would keep."""
    return sum(map(sentences, document.c4_lines))


def occurrences(document: Document, phrase: str) -> float:
    """How often a phrase in lower case occurs, whatever its case in the text."""
    return document.text.lower().count(phrase)


def punctuated_lines(document: Document) -> float:
    """Share of the lines that end with a terminal mark."""
    return _share(sum(map(is_terminated, document.lines)), len(document.lines))


def short_lines(document: Document) -> float:
    """Share of the lines with at most 30 characters, or with as little text as these are in English."""
    return _share(sum(map(is_short, document.lines)), len(document.lines))
