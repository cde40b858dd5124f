"""Words in any script, and hashes of n-grams of words, for filters, decontamination and near-duplicates.

Where spaces part no words, a text is split into characters (Tibetan: into syllables, which a mark parts), and
each counts as a share of a word. No dictionary is asked: filters need numbers of words, and n-grams need the same
pieces wherever they stand. Near-duplicates compare n-grams of these pieces as they are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from operator import itemgetter

import numpy as np
import regex
import xxhash

# Pieces of a word in scripts without spaces: those in which the Universal Declaration of Human Rights has as many
# words as in English (1,753, `python -m benchmarks.rules`). Of scripts in which it is not there, those of kin.
KANA = r"[\p{Hiragana}\p{Katakana}\p{Bopomofo}\u30fc\uff70]"  # with the sign of a long vowel
PIECES = {
    r"\p{Han}": 1.5,
    KANA: 3.5,
    r"[\p{Yi}\p{Nushu}\p{Tangut}]": 1.7,
    r"[\p{Thai}\p{New_Tai_Lue}\p{Tai_Le}]": 5.1,
    r"\p{Lao}": 5.6,
    r"\p{Khmer}": 5.7,
    r"\p{Myanmar}": 7.7,
    r"[\p{Tai_Tham}\p{Ahom}]": 5.4,
    r"\p{Tai_Viet}": 3.6,
    r"[\p{Javanese}\p{Balinese}]": 5.8,
    r"\p{Vai}": 3.1,
    r"\p{Tibetan}": 1.8,  # syllables
}
_CHARACTERS = "".join(script for script in PIECES if script != r"\p{Tibetan}")
# Characters among which all of these scripts are. Few texts in others have any, and those that have none are split
# several times as fast.
EASTERN = re.compile(
    "[\u0e00-\u109f\u1780-\u1b7f\u2e80-\uabff\uf900-\ufaff\uff00-\uffef\U00010000-\U0001efff\U00020000-\U0003ffff]"
)
# In `regex`, unlike in `re`, \w has the marks that Indic scripts and decomposed accents need.
WORD = regex.compile(r"\w+")
WORD_OR_PIECE = regex.compile(rf"(?V1)[\w--[{_CHARACTERS}]]+|\w")
# More marks on one letter than any language needs. Normalisation sorts them, in quadratic time. Three vowel signs
# of Tibetan are no such marks themselves, but become two each.
_MARK = r"[\P{ccc=0}\u0f73\u0f75\u0f81]"
_MANY_MARKS = regex.compile(rf"{_MARK}{{30}}(?={_MARK})")
_JOINER = "\u034f"  # combining grapheme joiner: marks are not sorted past it
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))

NgramSums = tuple[np.ndarray, np.ndarray]


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; in scripts without spaces, pieces of words.

    >>> split_words("L'été, 2 Häuser: 日本")
    ['l', 'été', '2', 'häuser', '日', '本']
    """
    words = WORD_OR_PIECE if EASTERN.search(text) else WORD
    return words.findall(unicodedata.normalize("NFC", stream_safe(text.lower())))


def stream_safe(text: str) -> str:
    """A text in which no letter has more than 30 marks in a row, as nearly every text is; a joiner parts others.

    So normalisation takes linear time. Source: Unicode Standard Annex 15, section 13 (Stream-Safe Text Format).
    """
    return text if text.isascii() else _MANY_MARKS.sub(rf"\g<0>{_JOINER}", text)


def hash_words(words: list[str]) -> np.ndarray:
    """64-bit hash of each word: uint64[words]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), np.uint64, len(words))


def word_shares(words: list[str]) -> np.ndarray:
    """How much of a word each is: 1, or less for a piece of a word: float64[words].

    >>> word_shares(["été", "ไ"]).round(2).tolist()
    [1.0, 0.2]
    """
    return np.fromiter(map(_share, map(itemgetter(0), words)), np.float64, len(words))


@lru_cache(2**16)
def _share(char: str) -> float:
    return next((1 / pieces for script, pieces in PIECES.items() if regex.match(f"(?V1){script}", char)), 1.0)


def shortest_runs(amounts: np.ndarray, least: float) -> np.ndarray:
    """For each number, how many from it on make the sum `least`: int64[starts]; the last, too small, are left out.

    >>> shortest_runs(np.array([1, 1, 0.5, 0.5, 0.5]), 2).tolist()
    [2, 3]
    """
    sums = np.concatenate([np.zeros(1), np.cumsum(amounts)])
    ends = np.searchsorted(sums, sums[:-1] + least - 1e-6)
    ends = ends[: np.searchsorted(ends, len(sums))]
    return ends - np.arange(len(ends))


def ngram_sums(hashes: np.ndarray) -> NgramSums:
    """What the hashes of all n-grams of some words are computed from, once for all n."""
    powers, inverses = np.ones((2, len(hashes) + 1), np.uint64)
    powers[1:], inverses[1:] = MULTIPLIER, INVERSE
    np.multiply.accumulate(powers, out=powers)
    np.multiply.accumulate(inverses, out=inverses)
    sums = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes * inverses[1:], out=sums[1:])
    return sums, powers


def hash_ngrams(of_words: NgramSums, sizes: int | np.ndarray) -> np.ndarray:
    """64-bit hash of each n-gram, a polynomial of the hashes of its words: uint64[n-grams].

    Each has `sizes` words; or those that begin with word 0, 1, … have `sizes[0]`, `sizes[1]`, …

    >>> pairs = hash_ngrams(ngram_sums(hash_words(["to", "be", "or", "to", "be"])), 2)
    >>> len(pairs), bool(pairs[0] == pairs[3])
    (4, True)
    """
    # The hash of words i to j - 1 is the sum of hash[k] m^(j - 1 - k): m^j times the difference of two sums of
    # hash[k] / m^(k + 1). The multiplier m is odd, so that it has an inverse modulo 2^64.
    sums, powers = of_words
    if isinstance(sizes, int):
        return (sums[sizes:] - sums[: max(0, len(sums) - sizes)]) * powers[sizes:]
    ends = np.arange(len(sizes)) + sizes
    return (sums[ends] - sums[: len(ends)]) * powers[ends]
