"""What is equal beside equal text: lines without case, punctuation and the values of their digits, as in CCNet."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

NEWLINE, SPACE = ord("\n"), ord(" ")


def fold(text: str) -> list[bytes]:
    """Each line that is not empty, in UTF-8, in one case, each digit a 0, without punctuation (CCNet, 3.2).

    Letters, the marks on them and other numbers stay; control and format characters, such as soft hyphens, are
    nothing; all else becomes one space, and nothing at the ends of a line. What is left may be empty.

    >>> fold("  Page 3 of 10:\\n\\nLes Œu\\xadvres (1873)\\n***")
    [b'page 0 of 00', b'les \\xc5\\x93uvres 0000', b'']
    """
    text = text.strip("\n")
    if not text:
        return []
    raw = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    codes = _folds().take(raw, mode="clip")
    drop = np.zeros(len(raw), bool)
    drop[1:] = (raw[1:] == NEWLINE) & (raw[:-1] == NEWLINE)  # of an empty line
    if not codes.all():
        stays = codes != 0
        codes, drop = codes[stays], drop[stays]
    # Of several spaces the first stays; behind a newline and at the start none does, nor a single one before it.
    spaces = codes == SPACE
    drop[1:] |= spaces[1:] & (codes[:-1] <= SPACE)
    drop[:1] = spaces[:1]
    drop[:-1] |= spaces[:-1] & (codes[1:] == NEWLINE)
    folded = str(codes[~drop].data, "utf-32-le").encode()
    return folded.replace(b" \n", b"\n").rstrip(b" ").split(b"\n")


@functools.cache
def _folds() -> np.ndarray:
    """For each code point what it becomes, as uint32[0x110000]: 0 is nothing; newline stays."""
    folds = np.full(0x110000, SPACE, np.uint32)
    for code in range(len(folds)):
        char = chr(code)
        category = unicodedata.category(char)
        if category == "Nd":
            folds[code] = ord("0")
        elif category[0] in "LMN":
            folds[code] = ord(_small(char)) if category[0] != "M" else code
        elif category == "Cf" or (category == "Cc" and not char.isspace()):
            folds[code] = 0
    folds[NEWLINE] = NEWLINE
    return folds


def _small(char: str) -> str:
    """The character in the case that `str.casefold` gives, or else `str.lower`, where that is one character."""
    return next((small for small in (char.casefold(), char.lower()) if len(small) == 1), char)
