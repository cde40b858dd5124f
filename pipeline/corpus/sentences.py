"""Sentences, lines and letters in any script: where a sentence ends, and how long a line is."""

from __future__ import annotations

import re
import unicodedata
from itertools import compress

import regex

from pipeline.corpus.words import EASTERN, split_words, word_shares

TERMINAL = (".", "!", "?", '"', "”", "»", "。", "！", "？", "؟", "।")  # the papers' and those of other scripts
TIBETAN_ENDS, COMMAS = "\u0f40\u0f42", "，；"
WITH_SPACE = ".!?؟" + TIBETAN_ENDS  # end a sentence only before a space
# Marks that end a sentence in any script: those with Unicode's property Sentence_Terminal, without a comma of
# Burmese, and those of Tibetan and of Hebrew verse. Tibetan writes none behind two letters (ཀ, ག), but a space.
MARKS = frozenset(regex.findall(r"(?V1)[\p{Sentence_Terminal}--\u104a]", "".join(map(chr, range(0xD800)))))
MARKS |= frozenset(regex.findall(r"\p{Sentence_Terminal}", "".join(map(chr, range(0xE000, 2**17)))))
MARKS |= frozenset("\u05c3\u0f0d\u0f0e\u0f0f\u0f10\u0f11\u0f12\u0f14" + TIBETAN_ENDS)
RARE_MARKS = frozenset(mark for mark in MARKS if mark >= "\U00010000")  # a pattern with them is twice as slow
CLOSERS = "”»’“‘«›‹＂＇」』）】》〉〕〗］｝｣﴾"  # quotes and brackets behind a mark; “ ends a quotation in German
CLOSERS += "\u200b\u200e\u200f\u202c\u2069"  # a space without width; where a direction of writing ends
# Each run of marks is tried once, from its first mark and as a whole: linear, whatever the text.
_COMMON = re.escape("".join(sorted(MARKS - RARE_MARKS)))
MARKS_IN_A_ROW = re.compile(rf"([{_COMMON}]++)([\"'){CLOSERS}]*+\s)?")
# Scripts without such marks: between sentences, and between parts of them, are spaces.
UNMARKED = regex.compile(r"[\p{Thai}\p{Lao}\p{Tai_Viet}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}]")
ARMENIAN_COLON = re.compile(r"(?<=[\u0531-\u058f]):(?=\s|$)", re.MULTILINE)  # in place of its full stop
HANGUL = re.compile(r"[\uac00-\ud7a3]+")  # syllables of two or three letters
MARK_OF_LETTER = regex.compile(r"\p{Mark}")
SHORT_LINE = 30  # characters, FineWeb
LINE_WORDS = 5  # at least so many in a line that C4 keeps
ENOUGH = 60  # characters: no script takes as many for five words, or twice as many as English for a line
LETTERS = 5  # of a word in English, on average; a space comes to it


def proper_marks(text: str) -> str:
    """A text with the full stops of Ethiopic and Armenian that are written otherwise, and spaces between words.

    >>> proper_marks("ሰላም፡ለዓለም፡፡")
    'ሰላም ለዓለም።'
    """
    if "፡" in text:
        text = text.replace("፡፡", "።").replace("፡", " ")
    return ARMENIAN_COLON.sub("։", text) if "ա" in text else text


def sentences(line: str) -> int:
    """Number of sentences that end in a line; in Thai and its kin, of parts between spaces.

    A Chinese comma counts as an end: many part what are sentences elsewhere (Xue and Yang 2011, Chinese sentence
    segmentation as comma classification).

    >>> sentences("Il dort... Et nous ?"), sentences("什么？3.5分。"), sentences("ฉันไปตลาด ซื้อผลไม้")
    (2, 2, 2)
    """
    count = 0
    for marks, end in MARKS_IN_A_ROW.findall(line + "\n"):
        count += 1 if end else len(marks) - sum(map(marks.count, WITH_SPACE))
    if EASTERN.search(line):
        count += sum(map(line.count, COMMAS)) + sum(map(line.count, RARE_MARKS))
        count += sum(UNMARKED.match(part[-1]) is not None for part in line.split())
    return count


def is_terminated(line: str) -> bool:
    """Whether a line ends with a terminal mark or, in a script that has none, has as many words as C4 asks for."""
    if line.endswith(TERMINAL) or line.isascii():
        return line.endswith(TERMINAL)
    if line.rstrip(CLOSERS)[-1:] in MARKS:
        return True
    return EASTERN.search(line) is not None and pieces_of_words(UNMARKED.findall(line[-ENOUGH:])) >= LINE_WORDS


def has_line_words(line: str) -> bool:
    """Whether a line has five words."""
    if len(line.split()) >= LINE_WORDS:
        return True
    return EASTERN.search(line) is not None and any(
        pieces_of_words(split_words(part)) >= LINE_WORDS for part in (line[:ENOUGH], line)
    )


def is_short(line: str) -> bool:
    """Whether a line has at most 30 characters, or as little text as these are in English."""
    if line.isascii() or len(line) > ENOUGH:
        return len(line) <= SHORT_LINE
    return length_as_in_english(line) <= SHORT_LINE


def pieces_of_words(words: list[str]) -> float:
    """How many words the pieces of words among some words make up."""
    shares = word_shares(words)
    return float(shares[shares < 1].sum())


def length_as_in_english(line: str) -> float:
    """The characters of a line, as if its pieces of words, and a space behind each word, were those of English.

    >>> length_as_in_english("été"), length_as_in_english("日本")
    (3.0, 8.0)
    """
    length = float(len(line) + more_letters(line))
    if not EASTERN.search(line):
        return length
    words = split_words(line)
    shares = word_shares(words)
    pieces = shares < 1
    of_pieces = len("".join(compress(words, pieces)))
    return length - of_pieces + (LETTERS + 1) * float(shares[pieces].sum())


def more_letters(text: str) -> int:
    """By how much letters are more than characters: a syllable of Korean is two or three.

    >>> more_letters("ab 한국")
    4
    """
    return sum(len(unicodedata.normalize("NFD", part)) - len(part) for part in HANGUL.findall(text))


def marks_of_letters(text: str) -> int:
    """How many marks on letters there are, which are characters of their own.

    >>> marks_of_letters("été हिन्दी")
    3
    """
    return len(MARK_OF_LETTER.findall(text))
