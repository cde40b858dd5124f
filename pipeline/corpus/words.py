"""Words in any script, and hashes of n-grams of words, for filters, decontamination and near-duplicates."""

from __future__ import annotations

import unicodedata

import numpy as np
import regex
import xxhash

# Scripts without spaces: each character counts as a word. In `regex`, unlike in `re`, \w has the marks
# that Indic scripts and decomposed accents need.
_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
WORD = regex.compile(rf"(?V1)[\w--{_SPACELESS}]+|\w")
# More marks on one letter than any language needs. Normalisation sorts them, in quadratic time. Three vowel signs
# of Tibetan are no such marks themselves, but become two each.
_MARK = r"[\P{ccc=0}\u0f73\u0f75\u0f81]"
_MANY_MARKS = regex.compile(rf"{_MARK}{{30}}(?={_MARK})")
_JOINER = "\u034f"  # combining grapheme joiner: marks are not sorted past it
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; in scripts without spaces each character is a word.

    >>> split_words("L'été, 2 Häuser: 日本")
    ['l', 'été', '2', 'häuser', '日', '本']
    """
    return WORD.findall(unicodedata.normalize("NFC", stream_safe(text.lower())))


def stream_safe(text: str) -> str:
    """A text in which no letter has more than 30 marks in a row, as nearly every text is; a joiner parts others.

    So normalisation takes linear time. Source: Unicode Standard Annex 15, section 13 (Stream-Safe Text Format).
    """
    return text if text.isascii() else _MANY_MARKS.sub(rf"\g<0>{_JOINER}", text)


def hash_words(words: list[str]) -> np.ndarray:
    """64-bit hash of each word: uint64[words]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), np.uint64, len(words))


def hash_ngrams(hashes: np.ndarray, size: int) -> np.ndarray:
    """64-bit hash of each n-gram of `size` words, a polynomial of their hashes: uint64[max(0, words - size + 1)].

    >>> pairs = hash_ngrams(hash_words(["to", "be", "or", "to", "be"]), 2)
    >>> len(pairs), bool(pairs[0] == pairs[3])
    (4, True)
    """
    count = max(0, len(hashes) - size + 1)
    total = np.zeros(count, np.uint64)
    for first in range(size):
        total = total * MULTIPLIER + hashes[first : first + count]
    return total
